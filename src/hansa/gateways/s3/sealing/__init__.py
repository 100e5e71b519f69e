"""How the bytes of objects are sealed, stored and opened."""
