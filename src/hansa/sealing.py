"""Seals small secrets at rest: AES-256-GCM under the newest of several keys; older ones still open.

A sealed value is bound to what it belongs to (`context`): copied to another object it does not open. It begins
with the id of its key, so that one look tells what a change of keys still has to seal anew. The keys come from
the environment, from a file that an operator names, or from `DIR/keys/sealing.key`, made at the first start.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hansa.errors import Bug, Invalid

log = structlog.get_logger("hansa.sealing")
KEY_BYTES = 32
NONCE_BYTES = 12
ID_BYTES = 8
KEYS_MAX = 16
_MARK = b"HS1"  # begins every sealed value but those of before keys had ids


class Sealer:
    """The keys, oldest first; the last one seals. With a `file` behind it, a changed file is read again."""

    def __init__(self, *keys: bytes, file: Path | None = None) -> None:
        self._file, self._stamp = file, _stamp(file)
        self._take(keys)

    def _take(self, keys: Sequence[bytes]) -> None:
        if not 0 < len(keys) <= KEYS_MAX or any(len(key) != KEY_BYTES for key in keys):
            raise Invalid(f"sealing takes 1 to {KEYS_MAX} keys of {KEY_BYTES} bytes")
        self._ciphers = {_id(key): AESGCM(key) for key in keys}
        self._newest = _id(keys[-1])

    @classmethod
    def load(cls, path: Path, *, key_file: Path | None = None, given: str = "") -> Sealer:
        """From the text of a setting (`given`: base64, comma separated, the newest last), from a file that is
        named, or from `path`, made once. Raises Invalid saying what is wrong; no message repeats a key."""
        if given:
            return cls(*_decoded(given.split(","), "HANSA_SEAL_KEY"))
        if key_file is not None:
            return cls(*read_keys(key_file), file=key_file)
        if not path.exists():
            write_keys(path, [os.urandom(KEY_BYTES)])
        return cls(*read_keys(path), file=path)

    def seal(self, value: bytes, context: str) -> bytes:
        self._look()
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._ciphers[self._newest].encrypt(nonce, value, context.encode())
        return _MARK + self._newest + nonce + sealed

    def open(self, sealed: bytes, context: str) -> bytes:
        """Raises Bug when the value was changed, belongs elsewhere, or its key is not among ours."""
        if sealed.startswith(_MARK):
            key, body = sealed[len(_MARK) : len(_MARK) + ID_BYTES], sealed[len(_MARK) + ID_BYTES :]
            if key not in self._ciphers:
                self._look()
            if key in self._ciphers and (value := _opened(self._ciphers[key], body, context)) is not None:
                return value
        for cipher in self._ciphers.values():  # of before keys had ids
            if (value := _opened(cipher, sealed, context)) is not None:
                return value
        raise Bug("a sealed value does not open: wrong key, or it was changed", detail=context)

    def is_newest(self, sealed: bytes) -> bool:
        """Is it sealed under the key that seals now?"""
        return sealed.startswith(_MARK + self._newest)

    def _look(self) -> None:
        """A file that was changed meanwhile (by `hansa seal rotate`) is read again."""
        if self._file is None or (stamp := _stamp(self._file)) == self._stamp or stamp == (0, 0):
            return
        self._stamp = stamp
        try:
            self._take(read_keys(self._file))
        except Invalid as error:  # somebody is editing it: what was read before still seals and opens
            log.error("the file of sealing keys cannot be used", detail=error.message)


def _opened(cipher: AESGCM, sealed: bytes, context: str) -> bytes | None:
    try:
        return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context.encode())
    except (InvalidTag, ValueError):
        return None


def _id(key: bytes) -> bytes:
    return sha256(b"hansa sealing key" + key).digest()[:ID_BYTES]


def _stamp(file: Path | None) -> tuple[int, int]:
    try:
        seen = file.stat() if file is not None else None
    except OSError:
        return (0, 0)
    return (seen.st_mtime_ns, seen.st_ino) if seen is not None else (0, 0)


# -- the file -----------------------------------------------------------------------------------


def read_keys(path: Path) -> list[bytes]:
    """The keys of a file: one in base64 a line, the newest last; or one of 32 bytes as it is. Raises Invalid."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Invalid(f"the sealing key {path} cannot be read: {error.strerror}") from error
    if len(content) == KEY_BYTES:
        return [content]
    try:
        lines = content.decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise Invalid(f"{path} holds no sealing keys: base64, one a line") from None
    return _decoded([line for line in lines if line.strip() and not line.startswith("#")], str(path))


def write_keys(path: Path, keys: Sequence[bytes]) -> None:
    """Puts the keys in place at once, readable by the owner alone; after it returns, they are on the disk."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.writelines(base64.b64encode(key).decode() + "\n" for key in keys)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _decoded(texts: Sequence[str], where: str) -> list[bytes]:
    try:
        keys = [base64.b64decode(text.strip(), validate=True) for text in texts]
    except (ValueError, binascii.Error):
        keys = []
    if not keys or any(len(key) != KEY_BYTES for key in keys):
        raise Invalid(
            f"{where} must hold keys of {KEY_BYTES} bytes in base64 (`openssl rand -base64 32`), the newest last"
        )
    return keys
