"""What speaks other people's protocols to the cloud's inside: object storage, models. One folder a gateway."""
