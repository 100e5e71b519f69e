"""What `qemu-img info` says of an upload is read as what a stranger may have made it say."""

from __future__ import annotations

from typing import Any

import pytest

from hansa.engines.qemu.uploaded import read_told, told_fault
from hansa.units import DISK_BYTES_MAX

WHOLE = {"virtual-size": 1 << 20, "format": "qcow2"}


@pytest.mark.parametrize("output", [b"", b"{", b"\xff", b"[" * 100_000, b'{"virtual-size": ' + b"9" * 5000 + b"}"])
def test_what_nobody_can_read_is_no_answer(output: bytes) -> None:
    with pytest.raises(ValueError):
        read_told(output)


def test_an_answer_of_another_form_says_nothing() -> None:
    assert read_told(b"[1]") == {} and told_fault({}) == "it does not say how large it is"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({}, ""),
        ({"virtual-size": True}, "how large"),
        ({"virtual-size": -1}, "how large"),
        ({"virtual-size": DISK_BYTES_MAX + 1}, "claims to hold"),
        ({"backing-filename": "x"}, "backing file"),
        ({"encrypted": True}, "encrypted"),
        ({"snapshots": [{}]}, "snapshots"),
        ({"format-specific": {"data": {"data-file": "x"}}}, "another file"),
        ({"format-specific": {"data": {"corrupt": True}}}, "damaged"),
        ({"format-specific": [1]}, ""),
    ],
)
def test_an_image_is_refused_by_what_is_told_of_it(more: dict[str, Any], why: str) -> None:
    fault = told_fault({**WHOLE, **more})
    assert why in fault and bool(fault) == bool(why)
