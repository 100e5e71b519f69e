"""The S3 gateway: object storage as the clients of the world know it.

The pure half (no clock, no file, no socket; bytes and the time are passed in):

    errors      the codes, their status, their words
    operations  a request's method, path and query → the operation's name and the permission it needs
    sigv4       who signed this; and our own signer
    streaming   the chunked body forms, undone as the bytes come
    checksums   the digests that run along, and what the client claimed
    ranges, conditions, dates, names, postpolicy   the small rules
    xml, documents   the bodies, in and out
"""
