"""Forwarded ports on 127.0.0.1: one is kept as long as it is free, else another is found.

Between the look and QEMU's own bind another may take it; the start then fails and is made again with a new one.
"""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"


def port_for(kept: int) -> int:
    """`kept` when it is free, else any free port."""
    return kept if kept and is_free(kept) else _bound_port(0)


def is_free(port: int) -> bool:
    try:
        _bound_port(port)
    except OSError:
        return False
    return True


def _bound_port(port: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as QEMU does: old connections do not matter
        probe.bind((LOOPBACK, port))
        name: tuple[str, int] = probe.getsockname()
        return name[1]
