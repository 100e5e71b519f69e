"""The S3 gateway: object storage as the clients of the world know it.

app, gateway    a request's way through: read, identified, judged, served, answered
request, answers, identify, refusals, pace, usage       the stations of that way
reopening       a bucket whose deletion was begun and never made
ports           what is asked of the control plane; `directory`, `following` and `upstream` answer
wire/           the protocol, pure: signatures, framing, checksums, XML, the names of operations and errors
rules/          what is allowed, kept, locked, expired and copied, pure
calls/          the operations, each a function from a request to an answer
sealing/        the bytes of objects: sealed, stored, read
duties/         what a gateway does when nobody asks: lifecycle, replication, garbage, scrub
"""
