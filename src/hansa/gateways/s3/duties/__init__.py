"""What a gateway does when nobody asks."""
