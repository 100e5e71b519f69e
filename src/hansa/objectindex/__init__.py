"""The object index: which versions of which keys a bucket holds, and where their bytes lie."""
