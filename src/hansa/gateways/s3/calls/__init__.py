"""The operations of S3, each a function from a request to an answer."""
