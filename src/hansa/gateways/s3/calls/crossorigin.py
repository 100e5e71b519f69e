"""CORS at the edge of the gateway: preflights, and the headers that every other answer carries for browsers."""

from __future__ import annotations

from hansa.gateways.s3.answers import Answer, empty
from hansa.gateways.s3.gateway import Call, Gateway
from hansa.gateways.s3.ports import BucketView
from hansa.gateways.s3.request import Request
from hansa.gateways.s3.rules import cors
from hansa.gateways.s3.wire.errors import S3Error


async def preflight(call: Call) -> Answer:
    """Nobody signs an OPTIONS request; it tells no more than the bucket's own rules."""
    call.decided = True
    if call.view is None:
        raise S3Error.of("NoSuchBucket", BucketName=call.request.bucket)
    thing = "OBJECT" if call.request.key else "BUCKET"
    return empty(200, cors.preflight(call.known.cors, call.request.headers, thing=thing))


def add_cors(answer: Answer, gateway: Gateway, request: Request, view: BucketView | None) -> None:
    """To every answer, refusals too: without them a script would not learn what went wrong."""
    if view is not None and request.method != "OPTIONS":
        answer.extend(cors.headers_for(gateway.buckets.of(view).cors, request.method, request.headers))
