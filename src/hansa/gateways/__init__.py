"""What speaks other people's protocols to the cloud's inside: object storage (`s3`). One folder a gateway.

`api` and `meter` are for every gateway: how it calls the cloud's API, and how usage gets there.
"""
