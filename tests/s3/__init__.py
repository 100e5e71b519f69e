"""The S3 gateway, spoken to over real sockets."""
