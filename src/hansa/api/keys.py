"""The keys with which this cloud signs its access tokens, and what others may know of them.

Ed25519, one file a key in `DIR/keys/`, readable by the owner alone and sealed; the newest name signs, the others
only verify, so that an operator turns a key by putting a second file beside the first (a plain JWK is sealed when
it is first read). Whoever loses the folder makes every access token worthless, and nothing else.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from hansa.errors import Bug
from hansa.sealing import Sealer

ALGORITHM = "EdDSA"
MAX_TOKEN_LENGTH = 8192
MAX_KEYS = 8
_FIRST = "signing-1.jwk"
_SEALED = "hansa-sealed:"


def _eddsa() -> jws.JWSRegistry:
    """A registry that knows EdDSA alone.

    The library warns at each use that RFC 9864 prefers the name `Ed25519`; verifiers in the field know the
    old name, and the curve is fixed by our keys, so the copy here does not warn.
    """
    algorithm = copy.copy(jws.JWSRegistry.algorithms[ALGORITHM])
    algorithm.security_warning = None

    class OnlyEdDSA(jws.JWSRegistry):
        algorithms = {ALGORITHM: algorithm}

    return OnlyEdDSA(algorithms=[ALGORITHM])


class SigningKeys:
    """The cloud's signing keys. The last one signs; each of them verifies."""

    def __init__(self, keys: Sequence[OKPKey]) -> None:
        if not keys:
            raise Bug("a cloud needs a signing key")
        for key in keys:
            if key.curve_name != "Ed25519" or not key.is_private:
                raise Bug(f"signing keys are private Ed25519 keys, this one is {key.curve_name}")
        self._keys = {key.thumbprint(): key for key in keys}
        self._signer = keys[-1].thumbprint()
        self._registry = _eddsa()

    @classmethod
    def fresh(cls) -> SigningKeys:
        """One new key that is stored nowhere: for tests."""
        return cls([OKPKey.generate_key("Ed25519")])

    @classmethod
    def in_folder(cls, folder: Path, sealer: Sealer | None = None) -> SigningKeys:
        """The keys of `DIR/keys/`, made there when there is none. Raises Bug for a file that is no key.

        Without a `sealer` they stand there as they are: for tests.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = sorted(folder.glob("*.jwk"))[-MAX_KEYS:]
        if not files:
            made = OKPKey.generate_key("Ed25519").as_dict(private=True)
            files = [folder / _FIRST]
            write_private(files[0], _sealed_text(json.dumps(made), files[0], sealer))
        return cls([_read_key(file, sealer) for file in files])

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A JWT in compact form."""
        header = {"alg": ALGORITHM, "kid": self._signer}
        return jwt.encode(header, dict(claims), self._keys[self._signer], registry=self._registry)

    def verified(self, token: str) -> dict[str, Any] | None:
        """The claims of a JWT that one of these keys signed, None for any other text. Looks at no claim."""
        if len(token) > MAX_TOKEN_LENGTH or not token.isascii():
            return None
        try:
            kid = jws.extract_compact(token.encode(), registry=self._registry).headers().get("kid")
            key = self._keys.get(kid) if isinstance(kid, str) else None
            return dict(jwt.decode(token, key, registry=self._registry).claims) if key is not None else None
        except (JoseError, ValueError):
            return None

    def jwks(self) -> dict[str, Any]:
        """The public halves, as RFC 7517 wants them."""
        told = {"alg": ALGORITHM, "use": "sig"}
        return {"keys": [{**key.as_dict(private=False), **told, "kid": kid} for kid, key in self._keys.items()]}


def _read_key(file: Path, sealer: Sealer | None) -> OKPKey:
    file.chmod(0o600)
    text = file.read_text()
    if text.startswith(_SEALED):
        if sealer is None:
            raise Bug(f"{file} is sealed, and no key opens it")
        sealed = base64.b64decode(text[len(_SEALED) :])
        text = sealer.open(sealed, f"file/{file.name}").decode()
        if not sealer.is_newest(sealed):
            write_private(file, _sealed_text(text, file, sealer))
    elif sealer is not None:
        _import(file, text)
        write_private(file, _sealed_text(text, file, sealer))
    return _import(file, text)


def _import(file: Path, text: str) -> OKPKey:
    try:
        return OKPKey.import_key(json.loads(text))
    except (ValueError, JoseError) as error:
        raise Bug(
            f"{file} is no signing key; move it away and a new one is made", detail=type(error).__name__
        ) from error


def _sealed_text(text: str, file: Path, sealer: Sealer | None) -> str:
    if sealer is None:
        return text
    return _SEALED + base64.b64encode(sealer.seal(text.encode(), f"file/{file.name}")).decode() + "\n"


def write_private(file: Path, text: str) -> None:
    """Puts `text` in place of `file` at once, readable by the owner alone; after it returns, it is on the disk."""
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 0600
    try:
        with os.fdopen(handle, "w") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        Path(name).replace(file)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
