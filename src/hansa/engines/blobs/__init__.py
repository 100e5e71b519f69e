"""Stores of bytes under ids of our own: files of this host, or any S3 store."""
