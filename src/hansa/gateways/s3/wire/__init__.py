"""The S3 protocol on the wire. No clock, no file, no socket: bytes and the time are passed in.

errors       the codes, their status, their words
operations   a request's method, path and query → the operation's name and the permission it needs
uri          paths and queries, decoded once
sigv4        who signed this; what is signed, byte for byte, is in `canonical`
streaming    the chunked body forms, undone as the bytes come
checksums    the digests that run along, and what the client claimed
ranges, conditions, dates, names    the small rules
postform, postpolicy                uploads by a browser's form
xml          reading with limits, quick writing; the bodies as plain data are in `documents` (of single requests),
             `configurations` and `bucketrules` (of a bucket)
"""
