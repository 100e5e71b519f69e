"""Which cloud, as whom: read from the environment or from `hansa.env`, and traded for access tokens.

Access tokens are kept in the user's cache (mode 0600) under a digest of what they were traded for, so that a
command needs one round trip. Secrets are neither printed nor cached. What the environment may hold is in
section 2.4 of the contract; `HANSA_…` goes before `EVROC_…`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from hansa.errors import Unauthenticated
from hansa.sdk.errors import Unclear
from hansa.sdk.login import keep, kept, login_file
from hansa.sdk.transport import Transport

LEFT_S_MIN = 30  # a token with less to live is renewed
CLIENT_ID = "evroc-cli"  # the public client that every token service of the contract knows
DEFAULT_FOLDER = "hansa-data"

_HOW = (
    "start a cloud with `hansa up --data DIR`, then `source DIR/hansa.env` (or give --data DIR), or `hansa login URL`"
)


@dataclass(frozen=True, slots=True)
class Connection:
    """A cloud's address, a caller's secrets, and the places to use unless said otherwise."""

    url: str
    token_url: str = ""
    refresh_token: str = field(default="", repr=False)
    service_account: str = ""
    service_account_secret: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    project: str = ""
    region: str = ""
    organization: str = ""
    ca_file: str = ""  # the authority to trust for https; empty: the system's
    login: Path | None = None  # the file of a login by password: its refresh token changes with each use

    @classmethod
    def from_environment(cls, data: Path | str | None = None, environ: Mapping[str, str] | None = None) -> Connection:
        """From `data`/hansa.env if given, else from the variables, else from the folder of HANSA_DATA or
        `hansa-data` here, else from what `hansa login` kept. Raises Unclear, saying how to get one."""
        given = os.environ if environ is None else environ
        if data is not None:
            return cls.from_variables(read_env_file(Path(data) / "hansa.env"))
        if _first(given, "API_URL"):
            return cls.from_variables(given)
        folder = Path(given.get("HANSA_DATA") or DEFAULT_FOLDER)
        if (folder / "hansa.env").is_file():
            return cls.from_variables({**read_env_file(folder / "hansa.env"), **_places(given)})
        if environ is None and (values := kept(login_file())):
            return replace(cls.from_variables({**values, **_places(given)}), login=login_file())
        raise Unclear(f"it is not known which cloud is meant: {_HOW}")

    @classmethod
    def from_variables(cls, given: Mapping[str, str]) -> Connection:
        """From `HANSA_…` and `EVROC_…` variables. Secrets for one URL are never sent to another."""
        url = _first(given, "API_URL")
        ours = given.get("HANSA_API_URL", "")
        foreign = bool(ours) and ours != given.get("EVROC_API_URL", ours)
        secrets = {k: v for k, v in given.items() if k.startswith("HANSA_")} if foreign else given
        made = cls(
            url=url,
            token_url=_first(secrets, "TOKEN_URL"),
            refresh_token=_first(secrets, "REFRESH_TOKEN"),
            service_account=_first(secrets, "SERVICE_ACCOUNT_ID"),
            service_account_secret=_first(secrets, "SERVICE_ACCOUNT_SECRET"),
            token=_first(secrets, "TOKEN"),
            project=_first(given, "PROJECT"),
            region=_first(given, "REGION"),
            organization=_first(given, "ORGANIZATION"),
            ca_file=_first(given, "CA_FILE"),
        )
        if not url:
            raise Unclear(f"it is not known which cloud is meant: {_HOW}")
        if not (made.token or made.refresh_token or made.service_account):
            raise Unclear(f"there is nothing to prove who you are to {url}: {_HOW}")
        return made


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of a file that a shell would source: `NAME=value`, quoted or not, `export` or not."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Unclear(f"there is no {path}: {_HOW}") from None
    except OSError as error:
        raise Unclear(f"{path} cannot be read: {error.strerror}") from error
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and name.isidentifier():
            found[name] = "".join(shlex.split(value, comments=True))
    return found


def _first(given: Mapping[str, str], name: str) -> str:
    return given.get(f"HANSA_{name}") or given.get(f"EVROC_{name}") or ""


def _places(given: Mapping[str, str]) -> dict[str, str]:
    """What of the environment may be said over a file: project and region, not the cloud nor secrets."""
    return {k: given[k] for k in ("HANSA_PROJECT", "HANSA_REGION") if given.get(k)}


class Tokens:
    """Access tokens of one caller, renewed before they end."""

    def __init__(self, connection: Connection, transport: Transport, cache: Path | None = None) -> None:
        self._connection = connection
        self._cache = _cache_file(connection, cache or cache_folder())
        self._transport = _transport_for(connection.token_url, transport)
        self._token, self._until = (connection.token, _expiry(connection.token)) if connection.token else ("", 0.0)

    def access(self) -> str:
        """A token with some time left: the one in hand, the cached one, or a new one. Raises Unauthenticated."""
        if not self._fresh():
            self._token, self._until = _read(self._cache)
        if not self._fresh():
            self._token, self._until = self._trade()
            _write(self._cache, self._token, self._until)
        return self._token

    def forget(self) -> bool:
        """The token was refused: drop it. False when there is no way to another one."""
        self._token, self._until = "", 0.0
        self._cache.unlink(missing_ok=True)
        return bool(self._connection.refresh_token or self._connection.service_account)

    def _fresh(self) -> bool:
        return bool(self._token) and self._until - time.time() >= LEFT_S_MIN

    def _trade(self) -> tuple[str, float]:
        self._reread()
        form = self._form()
        path = urlsplit(self._connection.token_url).path
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        answer = self._transport.send("POST", path, headers, urlencode(form).encode())
        body = answer.document()
        if answer.status != 200 or not isinstance(body, dict) or not body.get("access_token"):
            said = body.get("error_description") or body.get("error") if isinstance(body, dict) else answer.status
            again = "log in again (`hansa login`)" if self._connection.login is not None else "source hansa.env again"
            raise Unauthenticated(f"{self._connection.url} gives no token ({said}): {again}")
        self._replaced(str(body.get("refresh_token") or ""))
        return str(body["access_token"]), time.time() + float(body.get("expires_in", 0))

    def _reread(self) -> None:
        """Another program may have used the login meanwhile; the token that it replaced soon counts no more."""
        if self._connection.login is not None and (token := kept(self._connection.login).get("HANSA_REFRESH_TOKEN")):
            self._connection = replace(self._connection, refresh_token=token)

    def _replaced(self, token: str) -> None:
        login = self._connection.login
        if login is None or not token or token == self._connection.refresh_token:
            return
        self._connection = replace(self._connection, refresh_token=token)
        if values := kept(login):  # gone: somebody logged out meanwhile
            keep(login, {**values, "HANSA_REFRESH_TOKEN": token})

    def _form(self) -> dict[str, str]:
        it = self._connection
        if it.refresh_token:
            return {"grant_type": "refresh_token", "refresh_token": it.refresh_token, "client_id": CLIENT_ID}
        if it.service_account:
            return _assertion_form(it)
        raise Unauthenticated("the token in the environment has expired, and nothing is there to renew it")


def _transport_for(token_url: str, transport: Transport) -> Transport:
    """The open one, when the token service is on the same server."""
    parts = urlsplit(token_url)
    origin = f"{parts.scheme}://{parts.netloc}"
    return transport if not token_url or transport.url == origin else Transport(origin, ca_file=transport.ca_file)


def _assertion_form(it: Connection) -> dict[str, str]:
    """A signed assertion, section 2.3 of the contract."""
    from joserfc import jwt
    from joserfc.jwk import RSAKey

    key = RSAKey.import_key(json.loads(_key_text(it.service_account_secret)))
    client = it.service_account if "_" in it.service_account else f"{it.service_account}_{it.project}"
    now = int(time.time())
    header: dict[str, Any] = {"alg": "RS256", "typ": "JWT", **({"kid": key.kid} if key.kid else {})}
    claims = {"iss": client, "sub": client, "aud": it.token_url, "iat": now, "nbf": now, "exp": now + 300}
    return {
        "grant_type": "client_credentials",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": jwt.encode(header, {**claims, "jti": os.urandom(16).hex()}, key),
        "client_id": client,
    }


def _key_text(secret: str) -> bytes:
    """The JSON of a private JWK: given as a file's path, or as base64 (either alphabet, padded or not)."""
    try:
        if len(secret) < 1024 and Path(secret).is_file():
            return Path(secret).read_bytes()
        plain = secret.strip().replace("-", "+").replace("_", "/").rstrip("=")
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (OSError, ValueError) as error:
        raise Unclear("the service account's secret is neither a file nor base64 of a JSON web key") from error


def _expiry(token: str) -> float:
    """When a JWT ends; 0 for anything else."""
    try:
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        return float(claims["exp"])
    except (IndexError, KeyError, TypeError, ValueError):
        return 0.0


# -- the cache ----------------------------------------------------------------------------------


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "hansa" / "tokens"


def _cache_file(it: Connection, folder: Path) -> Path:
    person = it.refresh_token.partition(".")[0]  # a login's refresh token changes with each use, its user does not
    secret = (
        f"{it.login}\0{person}" if it.login is not None else it.refresh_token or it.service_account_secret or it.token
    )
    digest = hashlib.sha256("\0".join((it.token_url, it.service_account, secret)).encode()).hexdigest()
    return folder / f"{digest[:40]}.json"


def _read(path: Path) -> tuple[str, float]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return str(kept["token"]), float(kept["until"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0.0


def _write(path: Path, token: str, until: float) -> None:
    """Whole or not at all, for this user only. A cache that cannot be written is none: no error."""
    spare = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump({"token": token, "until": until}, out)
        spare.replace(path)
    except OSError:
        spare.unlink(missing_ok=True)
