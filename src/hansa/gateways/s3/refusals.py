"""Errors of the parts below, in the protocol's words; and what the log keeps of who was refused."""

from __future__ import annotations

from collections import OrderedDict

import structlog

from hansa.errors import Conflict, Exhausted, Forbidden, Full, HansaError, NotFound, Retry
from hansa.gateways.s3.gateway import Call
from hansa.gateways.s3.wire.errors import S3Error

KEPT_S, KEPT_MAX = 60.0, 10_000
log = structlog.get_logger("hansa.s3")


def translated(error: HansaError) -> S3Error:
    """What users cannot act on says no more than its code; the rest is for the log."""
    match error:
        case S3Error():
            return error
        case Full():
            return S3Error.of("QuotaExceeded", error.message)
        case Exhausted():
            return S3Error.of("InsufficientStorage")
        case Retry():
            return S3Error.of("ServiceUnavailable").with_headers(
                {"retry-after": str(max(1, round(error.after_s or 1)))}
            )
        case NotFound():
            return S3Error.of("NoSuchBucket")
        case Conflict():
            return S3Error.of("OperationAborted")
        case Forbidden():
            return S3Error.of("AccessDenied")
        case _:
            return S3Error.of("InternalError")


class Refused:
    """Refusals of one caller, operation and bucket: the first in a minute is logged with its reason and the request that
    the client was told of; the metrics count them all."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str, str, str], float] = OrderedDict()  # → when it was logged

    def note(self, error: HansaError, request: str, call: Call | None, at: float) -> None:
        """`at` is seconds of any clock that does not go back."""
        if error.status != 403 or call is None:
            return
        who = call.signed.identity.caller.ref if call.signed is not None else call.request.client
        bucket = call.view.name if call.view is not None else ""
        kind = (who, call.operation.name, bucket, error.reason)
        if at - self._seen.get(kind, -KEPT_S) < KEPT_S:
            return
        self._seen[kind] = at
        self._seen.move_to_end(kind)
        if len(self._seen) > KEPT_MAX:
            self._seen.popitem(last=False)
        log.info(
            "refused", request=request, who=who, operation=call.operation.name, bucket=bucket, code=error.reason,
            why=error.detail or error.message, project=call.view.project if call.view is not None else "",
        )  # fmt: skip
