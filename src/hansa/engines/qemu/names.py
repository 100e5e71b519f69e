"""Names that meet a path: uids, and nothing else."""

from __future__ import annotations

import re

from hansa.errors import Refused

_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_uid(text: str) -> bool:
    return _UID.fullmatch(text) is not None


def checked(uid: str) -> str:
    """`uid` itself, when it is one. Raises Refused: nothing else becomes a file name."""
    if not is_uid(uid):
        raise Refused("ProvisioningFailed", f"{uid!r} is no uid")
    return uid


def short(uid: str) -> str:
    """Sixteen letters of a uid: the path of a socket holds 107 bytes."""
    return checked(uid).replace("-", "")[:16]
