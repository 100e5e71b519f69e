"""Seals small secrets at rest: AES-256-GCM under one key, which is a file of mode 0600 in DIR.

A sealed value is bound to what it belongs to (`context`): copied to another object it does not open.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hansa.errors import Bug

KEY_BYTES = 32
NONCE_BYTES = 12


class Sealer:
    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    @classmethod
    def load(cls, path: Path) -> Sealer:
        """The key of this DIR, made once (temporary file, flush, rename)."""
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.unlink(missing_ok=True)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(AESGCM.generate_key(KEY_BYTES * 8))
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
        return cls(path.read_bytes())

    def seal(self, value: bytes, context: str) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, value, context.encode())

    def open(self, sealed: bytes, context: str) -> bytes:
        """Raises Bug when the value was changed, belongs elsewhere, or the key is another one."""
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context.encode())
        except InvalidTag as error:
            raise Bug("a sealed value does not open: wrong key, or it was changed", detail=context) from error
