"""Who sent a request: the claim that its signature makes, held against the directory of keys.

Signing keys are derived once a day for each key pair and remembered; the memory is bound to the secret, so a rotated
key is derived anew.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from hansa.gateways.s3.ports import Directory, S3Identity
from hansa.gateways.s3.request import Request
from hansa.gateways.s3.wire import sigv4
from hansa.gateways.s3.wire.canonical import UNSIGNED
from hansa.gateways.s3.wire.errors import S3Error
from hansa.gateways.s3.wire.postpolicy import FormClaim, verify_form
from hansa.gateways.s3.wire.sigv4 import Claim, Scope

SIGNING_KEYS_MAX = 10_000
ANY_REGION = "us-east-1"  # what clients sign for that know of no other


@dataclass(frozen=True, slots=True)
class Signed:
    """A proven signature: who made it, what it claimed, and the key that chunks of the body are signed with."""

    identity: S3Identity
    claim: Claim
    signing_key: bytes


class Identifier:
    """One for the process."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._keys: OrderedDict[tuple[str, str, str], tuple[bytes, bytes]] = OrderedDict()

    async def of(self, request: Request, now: float) -> Signed | None:
        """None for an anonymous request. Raises what `sigv4` raises, InvalidAccessKeyId."""
        asked = sigv4.Request(request.method, request.path, request.raw_query, request.raw_headers, request.fields)
        claim = sigv4.read_claim(asked, now=now)
        if claim is None:
            return None
        self._check_region(claim.scope, presigned=claim.presigned)
        identity = self._directory.key(claim.access_key) or await self._identity(claim.access_key)
        key = self._signing_key(identity, claim.scope)
        sigv4.verify(claim, asked, key)
        _check_counts(identity)
        return Signed(identity, claim, key)

    async def of_form(self, claim: FormClaim, now: float) -> Signed:
        """Who signed a form's policy. Raises AuthorizationQueryParametersError, InvalidAccessKeyId, SignatureDoesNotMatch."""
        scope = claim.scope
        if scope is not None:
            self._check_region(scope, presigned=True)
        identity = self._directory.key(claim.access_key) or await self._identity(claim.access_key)
        key = identity.secret if scope is None else self._signing_key(identity, scope)
        verify_form(claim, key)
        _check_counts(identity)
        proven = Claim(
            access_key=claim.access_key, scope=scope or Scope("", ""), signed_headers=(), signature=claim.signature,
            timestamp="", at=now, payload=UNSIGNED, presigned=False,
        )  # fmt: skip
        return Signed(identity, proven, key)

    def _check_region(self, scope: Scope, *, presigned: bool) -> None:
        """Signed for a region of this cloud, or for the one that clients name who were told of none."""
        directory = self._directory
        if scope.region in (directory.region, ANY_REGION) or scope.region in directory.regions():
            return
        code = "AuthorizationQueryParametersError" if presigned else "AuthorizationHeaderMalformed"
        said = f"There is no region {scope.region} here; sign for {directory.region}."
        raise S3Error.of(code, said, Region=directory.region)

    async def _identity(self, access_key: str) -> S3Identity:
        """Of a key that is not known here yet."""
        await self._directory.caught_up()
        identity = self._directory.key(access_key)
        if identity is None:
            raise S3Error.of("InvalidAccessKeyId", AWSAccessKeyId=access_key[:128])
        return identity

    def _signing_key(self, identity: S3Identity, scope: Scope) -> bytes:
        at = (identity.access_key, scope.date, scope.region)
        known = self._keys.get(at)
        if known is not None and known[0] == identity.secret:
            return known[1]
        key = sigv4.signing_key(identity.secret, scope)
        self._keys[at] = (identity.secret, key)
        if len(self._keys) > SIGNING_KEYS_MAX:
            self._keys.popitem(last=False)
        return key


def _check_counts(identity: S3Identity) -> None:
    """Only who proved to hold the key learns why it does not count."""
    if identity.disabled:
        raise S3Error.of("InvalidAccessKeyId", f"The key does not count: {identity.disabled}.")
