"""How the control process and the network daemon speak: one JSON object behind its length, descriptors beside it.

Over a unix socket that only our user may connect to. Networks travel as they stand in `engines.ports`.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hansa.engines.ports import Direction, Group, HostNetwork, Neighbour, NetworkReport, Port, Range, Rule

MESSAGE_BYTES_MAX = 32 << 20
DESCRIPTORS_MAX = 4
_LENGTH = struct.Struct("!I")

Message = dict[str, Any]


def send(stream: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Raises OSError, TimeoutError by the socket's own limit."""
    body = json.dumps(message).encode()
    head = _LENGTH.pack(len(body))
    if descriptors:
        socket.send_fds(stream, [head], list(descriptors))
    else:
        stream.sendall(head)
    stream.sendall(body)


def receive(stream: socket.socket) -> tuple[Message, list[int]]:
    """Raises ConnectionError when the other side hangs up or says what it may not."""
    head, descriptors, _, _ = socket.recv_fds(stream, _LENGTH.size, DESCRIPTORS_MAX)
    try:
        head += _exactly(stream, _LENGTH.size - len(head))
        (length,) = _LENGTH.unpack(head)
        if length > MESSAGE_BYTES_MAX:
            raise ConnectionError(f"a message of {length} bytes, at most {MESSAGE_BYTES_MAX} are taken")
        message = json.loads(_exactly(stream, length))
        if not isinstance(message, dict):
            raise ConnectionError("a message that is no object")
    except (OSError, ValueError):
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return message, list(descriptors)


def network_document(it: HostNetwork) -> Message:
    return asdict(it)


def network_of(document: Message) -> HostNetwork:
    """The network that `network_document` wrote down."""
    return HostNetwork(
        uid=document["uid"],
        revision=document["revision"],
        blocks=tuple(document["blocks"]),
        ranges=tuple(Range(**r) for r in document["ranges"]),
        ports=tuple(Port(**{**p, "groups": tuple(p["groups"])}) for p in document["ports"]),
        groups=tuple(_group(g) for g in document["groups"]),
        neighbours=tuple(Neighbour(**n) for n in document["neighbours"]),
        tunnel=document["tunnel"],
    )


def report_of(document: Message) -> NetworkReport:
    return NetworkReport(**document)


def _group(document: Message) -> Group:
    rules = tuple(_rule(rule) for rule in document["rules"])
    return Group(document["uid"], document["generation"], rules, tuple(document["members"]))


def _rule(document: Message) -> Rule:
    ports = document["ports"]
    return Rule(
        Direction(document["direction"]), document["protocol"], (ports[0], ports[1]) if ports else None,
        tuple(document["cidrs"]), document["group"],
    )  # fmt: skip


def _exactly(stream: socket.socket, count: int) -> bytes:
    pieces = []
    while count > 0:
        piece = stream.recv(min(count, 1 << 20))
        if not piece:
            raise ConnectionError("the other side hung up")
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)
