"""What S3 allows, refuses, keeps and copies: decisions on plain data. Pure."""
