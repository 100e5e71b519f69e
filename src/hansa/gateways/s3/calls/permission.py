"""Asks the one question, and remembers that it was asked: may this call do this?

`access.decide_s3` judges; here a call becomes its question. What a policy's conditions look at is gathered only where the
bucket has a policy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import structlog

from hansa.gateways.s3.calls.grants import object_acl
from hansa.gateways.s3.gateway import Call
from hansa.gateways.s3.ports import BucketView
from hansa.gateways.s3.rules import replication, tagging
from hansa.gateways.s3.rules.access import Allowed, Ask, Denied, brings_bytes, decide_laid, decide_s3
from hansa.gateways.s3.rules.acl import Ownership
from hansa.gateways.s3.rules.policyconditions import Context
from hansa.gateways.s3.rules.requestcontext import Sent, context_of, with_tags
from hansa.gateways.s3.rules.tagging import Tags
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.records import Version
from hansa.policy.verdict import Rules

log = structlog.get_logger("hansa.s3.access")
TAGGING = "x-amz-tagging"
_NONE: Context = {}
_NO_RULES = Rules()


def allow(call: Call, *, version: Version | None = None, action: str = "", key: str = "", tags: Tags = ()) -> None:
    """Raises AccessDenied. `version`: the object that is acted upon, where there is one: its tags and grants count.

    `action` and `key` stand in for the call's own; `tags` are those that a body would lay on the object.
    """
    ask = _question(call, version, action or call.operation.action_for(call.request.fields), key or call.key, tags)
    decision = decide_s3(ask)
    if isinstance(decision, Denied):
        raise decision.error()
    call.decided, call.lent = True, decision.by == "acl" or decision.by.startswith("policy ")


def allow_laid(call: Call, action: str, *, tags: Tags = ()) -> None:
    """Besides writing the object: that the caller lays `tags`, those of the request, or grants on it. Raises AccessDenied."""
    decision = decide_laid(_question(call, None, action, call.key, tags))
    if isinstance(decision, Denied):
        raise decision.error()


def refusal(call: Call) -> S3Error:
    """What is said of a key that is not there to who may not know it: the words that one which is there is refused with."""
    decision = decide_s3(_question(call, None, call.operation.action_for(call.request.fields), call.key, ()))
    return decision.error() if isinstance(decision, Denied) else S3Error.of("AccessDenied")


def may(call: Call, action: str, *, version: Version | None = None, key: str = "", prefix: str = "") -> bool:
    """The same question about something besides: it decides nothing about the call itself. `prefix`: of a listing."""
    return granted(call, action, version=version, key=key, prefix=prefix) is not None


def granted(
    call: Call, action: str, *, version: Version | None = None, key: str = "", prefix: str = ""
) -> Allowed | None:
    """What says that they may; None: nothing does."""
    ask = _question(call, version, action, key, ())
    if prefix and ask.context:
        ask = replace(ask, context={**ask.context, "s3:prefix": (prefix,)})
    decision = decide_s3(ask)
    return decision if isinstance(decision, Allowed) else None


def may_see(call: Call, buckets: Iterable[BucketView]) -> list[BucketView]:
    """Those of them that a list of buckets shows to the caller."""
    call.decided = True
    gateway = call.gateway
    asks = (
        (bucket, Ask("s3:ListAllMyBuckets", gateway.buckets.of(bucket).access, call.identity)) for bucket in buckets
    )
    return [bucket for bucket, ask in asks if isinstance(decide_s3(ask), Allowed)]


def allow_move(call: Call, source: BucketView) -> None:
    """Bytes that leave a region go where the written rules of the project that they come from allow. Raises AccessDenied."""
    if source.region == call.bucket.region:
        return
    verdict = replication.allowed(call.bucket, call.gateway.directory.rules_of(source.project))
    if not verdict.allowed:
        raise S3Error("AccessDenied", f"Objects of {source.name} may not be copied there: {verdict.why}.")


def leave_to_api(call: Call) -> None:
    """Whether a bucket may be made is decided where it is made."""
    call.decided = True


def _question(call: Call, version: Version | None, action: str, key: str, tags: Tags) -> Ask:
    rules = call.known.access
    grants = None
    if version is not None and rules.ownership is not Ownership.ENFORCED:
        grants = object_acl(rules, version)
    context = _context(call, version, tags) if rules.policy is not None else _NONE
    territories = call.gateway.directory.rules_of(call.bucket.project) if brings_bytes(action) else _NO_RULES
    return Ask(action, rules, call.identity, key, context, grants, territories)


def _context(call: Call, version: Version | None, tags: Tags) -> Context:
    request, signed = call.request, call.signed
    laid = tags or (tagging.tags_in_header(request.headers[TAGGING]) if TAGGING in request.headers else ())
    sent = Sent(
        headers=request.headers,
        query=request.fields,
        now=call.now,
        address=request.client,
        secure=request.tls,
        tls_version=request.tls_version,
        presigned=signed is not None and signed.claim.presigned,
        signature_age_ms=int((call.now - signed.claim.at) * 1000) if signed else 0,
        tags=laid,
    )
    context = context_of(sent, call.identity, call.view)
    return context if version is None else with_tags(context, "s3:existingobjecttag", version.facts.tags)
