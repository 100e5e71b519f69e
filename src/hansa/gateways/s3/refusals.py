"""Errors of the parts below, in the protocol's words."""

from __future__ import annotations

from hansa.errors import Conflict, Exhausted, Forbidden, Full, HansaError, NotFound, Retry
from hansa.gateways.s3.errors import S3Error


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
