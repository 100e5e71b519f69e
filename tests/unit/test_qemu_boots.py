"""What is known of guests that went with their host: when they were last seen, by boot."""

from __future__ import annotations

import os
import time
from pathlib import Path

from hansa.engines.qemu.boots import KEPT, Boots


def test_each_boot_remembers_when_guests_were_last_seen(tmp_path: Path) -> None:
    boots = Boots(tmp_path)
    assert boots.last_seen("one") == boots.last_seen("") == 0.0
    boots.seen("one")
    os.utime(boots.path / "one", (1000.0, 1000.0))
    boots.seen("two")
    assert boots.last_seen("one") == 1000.0 and abs(boots.last_seen("two") - time.time()) < 60
    boots.seen("one")
    assert boots.last_seen("one") > 1000.0


def test_the_oldest_boots_are_forgotten(tmp_path: Path) -> None:
    boots = Boots(tmp_path)
    for number in range(KEPT + 3):
        boots.seen(f"boot-{number}")
        os.utime(boots.path / f"boot-{number}", (number + 1.0, number + 1.0))
    assert [boots.last_seen(f"boot-{n}") > 0 for n in range(5)] == [False, False, False, True, True]
    assert len(list(boots.path.iterdir())) == KEPT
