"""Which encryption an object gets, and what a reader must bring. Pure; no key is kept here, none is ever in an error.

Every object is sealed at rest, with its project's own key when nobody asks for more. What a client asks for (its own key
with each request, a named key, or AES256 spelled out) stands in headers; a bucket's default fills in for absent ones.
Policies are asked before headers are read here, so that a wrong algorithm is denied to those whom a policy denies it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hansa.gateways.s3.wire.configurations import EncryptionRule
from hansa.gateways.s3.wire.errors import S3Error
from hansa.objectindex.records import Encryption

AES256, KMS, CUSTOMER = "AES256", "aws:kms", "SSE-C"
KEY_BYTES = 32
KEY_ID_MAX = 256
CONTEXT_BYTES_MAX = 8192
SALT_BYTES = 16

SSE = "x-amz-server-side-encryption"
KMS_KEY = f"{SSE}-aws-kms-key-id"
KMS_CONTEXT = f"{SSE}-context"
_CUSTOMER = f"{SSE}-customer-"
_SOURCE = "x-amz-copy-source-server-side-encryption-customer-"
_OF_A_KEY = ("algorithm", "key", "key-md5")
_OF_KEYS = frozenset((
    SSE, KMS_KEY, KMS_CONTEXT, *(prefix + name for prefix in (_CUSTOMER, _SOURCE) for name in _OF_A_KEY),
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class CustomerKey:
    """A key that came with the request and goes with it."""

    key: bytes = field(repr=False)
    md5: str

    def mark(self, salt: bytes) -> str:
        """What is kept to recognise the key: base64 of a salt and a keyed hash of it."""
        return base64.b64encode(salt + hmac.digest(self.key, b"hansa s3 sse-c" + salt, "sha256")).decode()

    def is_of(self, mark: str) -> bool:
        salt = base64.b64decode(mark)[:SALT_BYTES]
        return hmac.compare_digest(self.mark(salt), mark)


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a new object is to be sealed. An empty `mode`: with the project's key, and nothing is said about it."""

    mode: str = ""
    key: str = ""
    context: str = ""
    customer: CustomerKey | None = None

    def record(self, salt: bytes) -> Encryption | None:
        """As the object's facts keep it. `salt`: SALT_BYTES random bytes."""
        if not self.mode:
            return None
        if self.customer is not None:
            return Encryption(CUSTOMER, mark=self.customer.mark(salt), key_md5=self.customer.md5)
        return Encryption(self.mode, self.key, self.context)


NO_WISH = Wanted()


# -- writing --------------------------------------------------------------------------------------


def wanted(headers: Mapping[str, str], default: EncryptionRule | None, *, secure: bool) -> Wanted:
    """Of PutObject, CreateMultipartUpload, CopyObject, POST forms. `headers`: by lower-case name.

    `secure`: the request came over TLS, or plain keys are allowed here. Raises InvalidArgument, InvalidRequest,
    InvalidEncryptionAlgorithmError, NotImplemented.
    """
    algorithm, key, context = (headers.get(name, "") for name in (SSE, KMS_KEY, KMS_CONTEXT))
    customer = customer_key(headers, secure=secure)
    if customer is not None:
        if algorithm or key or context:
            raise S3Error.argument(SSE, algorithm, "cannot be combined with a key of your own")
        return Wanted(CUSTOMER, customer=customer)
    if not algorithm:
        if key or context:
            raise S3Error.argument(KMS_KEY, key, f"needs {SSE}: {KMS}")
        return _by_default(default)
    _check_algorithm(algorithm)
    if algorithm == AES256:
        if key or context:
            raise S3Error.argument(KMS_KEY, key, f"goes with {SSE}: {KMS}, not with {AES256}")
        return Wanted(AES256)
    if not key and default is not None and default.algorithm == KMS:
        key = default.key
    return Wanted(KMS, _checked_key(key), _checked_context(context))


def _by_default(default: EncryptionRule | None) -> Wanted:
    return NO_WISH if default is None else Wanted(default.algorithm, default.key)


def _check_algorithm(algorithm: str) -> None:
    if algorithm == "aws:kms:dsse":
        raise S3Error.of("NotImplemented", f"{SSE}: two layers of encryption are not supported; {KMS} is.")
    if algorithm not in (AES256, KMS):
        raise S3Error.argument(SSE, algorithm, f"must be {AES256} or {KMS}")


def _checked_key(key: str) -> str:
    if not key:
        raise S3Error.argument(KMS_KEY, "", "name the key; this bucket has no default one")
    if len(key) > KEY_ID_MAX or not key.isprintable():
        raise S3Error.argument(KMS_KEY, key, f"takes up to {KEY_ID_MAX} printable characters")
    return key


def _checked_context(context: str) -> str:
    """Base64 of a JSON object of strings, or nothing."""
    if not context:
        return ""
    rule = "must be base64 of a JSON object of strings"
    if len(context) > CONTEXT_BYTES_MAX:
        raise S3Error.argument(KMS_CONTEXT, "", f"takes at most {CONTEXT_BYTES_MAX} characters")
    try:
        document = json.loads(base64.b64decode(context, validate=True))
    except (ValueError, RecursionError) as error:
        raise S3Error.argument(KMS_CONTEXT, context, rule) from error
    if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
        raise S3Error.argument(KMS_CONTEXT, context, rule)
    return context


# -- a client's own key ---------------------------------------------------------------------------


def customer_key(headers: Mapping[str, str], *, secure: bool, source: bool = False) -> CustomerKey | None:
    """The key in the headers, None without one. `source`: of the object that is copied from."""
    prefix = _SOURCE if source else _CUSTOMER
    if _OF_KEYS.isdisjoint(headers):
        return None
    algorithm, key, md5 = (headers.get(prefix + name) for name in _OF_A_KEY)
    if algorithm is None and key is None and md5 is None:
        return None
    if not secure:
        raise S3Error.of("InvalidRequest", "A key of your own may travel over TLS only; use the https endpoint.")
    if algorithm is None or key is None or md5 is None:
        missing = next(n for n, v in (("algorithm", algorithm), ("key", key), ("key-md5", md5)) if v is None)
        raise S3Error.argument(prefix + missing, "", "is missing; the three headers of a key go together")
    if algorithm != AES256:
        raise S3Error.of("InvalidEncryptionAlgorithmError", f"{prefix}algorithm: must be {AES256}.")
    return CustomerKey(_key_bytes(prefix, key, md5), md5)


def _key_bytes(prefix: str, key: str, md5: str) -> bytes:
    try:
        raw, digest = base64.b64decode(key, validate=True), base64.b64decode(md5, validate=True)
    except (binascii.Error, ValueError) as error:
        raise S3Error.argument(f"{prefix}key", "", "the key and its MD5 must be base64") from error
    if len(raw) != KEY_BYTES:
        raise S3Error.argument(f"{prefix}key", "", f"must be base64 of {KEY_BYTES} bytes")
    if not hmac.compare_digest(hashlib.md5(raw, usedforsecurity=False).digest(), digest):
        raise S3Error.argument(f"{prefix}key-md5", md5, "is not the MD5 of the key")
    return raw


# -- reading --------------------------------------------------------------------------------------


def check_reader(
    encryption: Encryption | None, headers: Mapping[str, str], *, secure: bool, source: bool = False
) -> CustomerKey | None:
    """The key that opens an object, for one sealed with a client's own. Raises InvalidRequest without the right one."""
    if (encryption is None or encryption.mode != CUSTOMER) and _OF_KEYS.isdisjoint(headers):
        return None
    if not source and any(name in headers for name in (SSE, KMS_KEY, KMS_CONTEXT)):
        raise S3Error.argument(SSE, headers.get(SSE, ""), "is for writing; the object knows how it is encrypted")
    given = customer_key(headers, secure=secure, source=source)
    if encryption is None or encryption.mode != CUSTOMER:
        if given is not None:
            raise S3Error.of("InvalidRequest", "The object is not encrypted with a key of yours; send none.")
        return None
    if given is None:
        raise S3Error.of("InvalidRequest", "The object is encrypted with a key of yours; send it along.")
    if not given.is_of(encryption.mark):
        raise S3Error.of("InvalidRequest", "The object is encrypted with another key than the one that was sent.")
    return given


def check_part(upload: Encryption | None, headers: Mapping[str, str], *, secure: bool) -> CustomerKey | None:
    """Of UploadPart and of the completion: a key of the client's own comes again each time. Other wishes are the upload's
    to say and are passed over here, as clients repeat them; the answer tells what holds. Raises as `check_reader`."""
    own = {name: value for name, value in headers.items() if name not in (SSE, KMS_KEY, KMS_CONTEXT)}
    return check_reader(upload, own, secure=secure)


def headers_of(encryption: Encryption | None) -> dict[str, str]:
    """What every answer about an object tells of its encryption."""
    if encryption is None:
        return {}
    if encryption.mode == CUSTOMER:
        return {f"{_CUSTOMER}algorithm": AES256, f"{_CUSTOMER}key-md5": encryption.key_md5}
    return {SSE: encryption.mode} | ({KMS_KEY: encryption.key} if encryption.key else {})


# -- a bucket's default ---------------------------------------------------------------------------


def check_default(rule: EncryptionRule) -> None:
    """Of PutBucketEncryption. Raises MalformedXML, InvalidArgument, NotImplemented."""
    if rule.algorithm == "aws:kms:dsse":
        _check_algorithm(rule.algorithm)
    if rule.algorithm not in (AES256, KMS):
        raise S3Error.of("MalformedXML", f"SSEAlgorithm: must be {AES256} or {KMS}.")
    if rule.algorithm == AES256 and rule.key:
        raise S3Error.argument("KMSMasterKeyID", rule.key, f"goes with {KMS}, not with {AES256}")
    if rule.algorithm == KMS:
        if not rule.key:
            raise S3Error.argument("KMSMasterKeyID", "", f"name the key of {KMS}")
        _checked_key(rule.key)


def default_from(document: Mapping[str, Any] | None) -> EncryptionRule | None:
    """Of a bucket's `encryption`: the one rule it may have."""
    if not document:
        return None
    return EncryptionRule(document["algorithm"], document.get("key") or "", bool(document.get("bucketKeyEnabled")))


def document_of(rule: EncryptionRule) -> dict[str, Any]:
    found: dict[str, Any] = {"algorithm": rule.algorithm}
    return found | ({"key": rule.key} if rule.key else {}) | ({"bucketKeyEnabled": True} if rule.bucket_key else {})
