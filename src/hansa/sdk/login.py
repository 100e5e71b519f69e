"""Logging in by name and password, and the file that keeps the login: mode 0600, in the user's own configuration.

The password goes to the token service and nowhere else. What is kept is a refresh token; it is replaced with each
use, so the file is written again then, and read again before each use: several programs share it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from hansa.errors import Exhausted, Unauthenticated
from hansa.sdk.transport import Transport

CLIENT_ID = "evroc-cli"
TOKEN_PATH = "/realms/evroc-customer/protocol/openid-connect/token"  # noqa: S105 - a path, not a token
FORM = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}


def login_file() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()) / "hansa" / "login.json"


def log_in(url: str, name: str, password: str) -> dict[str, str]:
    """The variables of a login, as `HANSA_…` would hold them. Raises Unauthenticated, Exhausted, Unreachable."""
    transport = Transport(url)
    form = {"grant_type": "password", "username": name, "password": password, "client_id": CLIENT_ID}
    path = urlsplit(transport.url).path + TOKEN_PATH
    answer = transport.send("POST", TOKEN_PATH, FORM, urlencode(form).encode(), tries_more=0)
    said = answer.document()
    found = said if isinstance(said, dict) else {}
    if answer.status == 200 and found.get("refresh_token"):
        token_url = "{0.scheme}://{0.netloc}".format(urlsplit(transport.url)) + path
        return {"HANSA_API_URL": transport.url, "HANSA_TOKEN_URL": token_url, "HANSA_USER": name,
                "HANSA_REFRESH_TOKEN": str(found["refresh_token"])}  # fmt: skip
    message = f"{url} lets nobody in as {name}: {found.get('error_description') or answer.status}"
    if answer.status == 429:
        raise Exhausted(message, after_s=60.0)
    raise Unauthenticated(message)


def kept(file: Path) -> dict[str, str]:
    """What a login file holds, empty when there is none that can be read."""
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def keep(file: Path, values: dict[str, str]) -> None:
    """Whole or not at all, for this user only. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    spare = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        handle = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump(values, out, indent=1)
            out.flush()
            os.fsync(out.fileno())
        spare.replace(file)
    finally:
        spare.unlink(missing_ok=True)
