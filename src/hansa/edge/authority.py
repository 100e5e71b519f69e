"""A certificate authority of one data folder, so that a cloud speaks TLS from afar without anybody else.

`DIR/ca.pem` is what clients trust; its key never leaves `DIR/keys/ca.pem`. A leaf with its key stands in
`DIR/keys/tls.pem` (of the API) and `DIR/keys/s3-tls.pem`, is good for 90 days and made anew 30 days before that, or when
a name is missing in it. Each key lies in one file with its certificate, so that no crash leaves a pair that does not fit.
Several processes of a folder look at the same time: one of them makes what is missing.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hansa.api.keys import write_private
from hansa.errors import Retry

PUBLIC = "ca.pem"
BUNDLE = "ca-bundle.pem"
SYSTEM_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
AUTHORITY_LIFE = timedelta(days=3650)
AUTHORITY_LEFT = timedelta(days=365)
LEAF_LIFE = timedelta(days=90)
LEAF_LEFT = timedelta(days=30)
BACK = timedelta(hours=1)  # clocks of clients may be behind
NAMES_MAX = 100
ALONE_S = 10.0  # to wait for another process that makes certificates
LOOK_S = 0.01
LEAF, S3_LEAF = "tls.pem", "s3-tls.pem"


@dataclass(frozen=True, slots=True)
class Pair:
    """A private key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def read(cls, file: Path) -> Pair | None:
        """What stands in a file, None when that is no pair (any more)."""
        try:
            text = file.read_bytes()
            key = serialization.load_pem_private_key(text, None)
            certificate = x509.load_pem_x509_certificate(text)
        except (OSError, ValueError):
            return None
        fits = isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == certificate.public_key()
        return cls(key, certificate) if isinstance(key, ec.EllipticCurvePrivateKey) and fits else None

    def write(self, file: Path) -> None:
        private = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(file, (private + self.public).decode())

    @property
    def public(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def left(self, now: datetime) -> timedelta:
        """How long it is good for yet; nothing for one that is not good yet."""
        if now < self.certificate.not_valid_before_utc:
            return timedelta()
        return self.certificate.not_valid_after_utc - now


def ensure(folder: Path, names: Sequence[str], now: float, leaf_name: str = LEAF) -> tuple[Path, bool]:
    """The file with a leaf for all `names` and its key, good for 30 days yet; and whether it is new.

    `folder` is the data folder; `now` in epoch seconds. May block for ALONE_S. Raises Retry.
    """
    keys = folder / "keys"
    keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(keys):
        return _ensure(folder, names, datetime.fromtimestamp(now, UTC), keys / leaf_name)


@contextlib.contextmanager
def _alone(keys: Path) -> Iterator[None]:
    """Others wait: for the few milliseconds that making a certificate takes. Raises Retry when it takes far longer."""
    lock = keys / ".authority.lock"
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(handle, lock)
        yield
    finally:
        os.close(handle)


def _take(handle: int, lock: Path) -> None:
    end = time.monotonic() + ALONE_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= end:
                raise Retry(
                    f"another process has been making certificates for {ALONE_S:g} s; one that hangs holds {lock}",
                    detail=str(lock),
                ) from error
        time.sleep(LOOK_S)


def _ensure(folder: Path, names: Sequence[str], moment: datetime, file: Path) -> tuple[Path, bool]:
    keys = file.parent
    authority = Pair.read(keys / "ca.pem")
    if authority is None or authority.left(moment) < AUTHORITY_LEFT:
        authority = _authority(moment)
        authority.write(keys / "ca.pem")
    publish(folder, authority.public)
    leaf = Pair.read(file)
    if leaf is not None and _serves(leaf, authority, names, moment):
        return file, False
    _leaf(authority, names, moment).write(file)
    return file, True


def publish(folder: Path, authority: bytes) -> None:
    """`ca.pem`, for clients that trust it alone, and `ca-bundle.pem` with the system's authorities beside it, for
    programs that know one variable for all servers."""
    system = SYSTEM_BUNDLE.read_text() if SYSTEM_BUNDLE.is_file() else ""
    for name, text in ((PUBLIC, authority.decode()), (BUNDLE, authority.decode() + system)):
        file = folder / name
        if not file.is_file() or file.read_text() != text:
            write_private(file, text)
            file.chmod(0o644)


def names_in(certificate: x509.Certificate) -> set[str]:
    try:
        said = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {*said.get_values_for_type(x509.DNSName), *map(str, said.get_values_for_type(x509.IPAddress))}


def _serves(leaf: Pair, authority: Pair, names: Sequence[str], now: datetime) -> bool:
    try:
        leaf.certificate.verify_directly_issued_by(authority.certificate)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return leaf.left(now) >= LEAF_LEFT and set(names[:NAMES_MAX]) <= names_in(leaf.certificate)


def _authority(now: datetime) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Hansa authority of one cloud, {now:%Y-%m-%d}")])
    builder = (
        _begun(name, name, key, now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Pair(key, builder.sign(key, hashes.SHA256()))


def _leaf(authority: Pair, names: Sequence[str], now: datetime) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Hansa")])
    life = min(LEAF_LIFE, authority.left(now))
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = (
        _begun(name, authority.certificate.subject, key, now, life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(n) for n in names[:NAMES_MAX]]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issuer, critical=False)
    )
    return Pair(key, builder.sign(authority.key, hashes.SHA256()))


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - BACK).not_valid_after(now + life)
    )  # fmt: skip


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
