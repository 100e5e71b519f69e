"""What tests share that run our programs from outside."""

from __future__ import annotations

import os

from .leftovers import OURS


def no_cloud(**more: str) -> dict[str, str]:
    """The environment of these tests without anything that names a cloud, and with `more`. What is started in it is known
    as theirs: what it leaves behind is not taken for somebody else's."""
    kept = {k: v for k, v in os.environ.items() if k == OURS or not k.startswith(("HANSA_", "EVROC_", "AWS_"))}
    return kept | more
