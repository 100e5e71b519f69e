"""What tests share that run our programs from outside."""

from __future__ import annotations

import os


def no_cloud(**more: str) -> dict[str, str]:
    """The environment of these tests without anything that names a cloud, and with `more`."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("HANSA_", "EVROC_", "AWS_"))} | more
