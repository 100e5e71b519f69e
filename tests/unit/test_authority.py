"""The data folder's own authority: processes that look at once agree, and one that hangs holds up nobody for ever."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hansa.clock import SystemClock
from hansa.edge import authority, tls
from hansa.edge.tls import Certificates
from hansa.errors import Retry

NAMES = ("127.0.0.1", "localhost")
SHORT_S = 0.3


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Somebody holds the lock of `tmp_path` and does nothing."""
    monkeypatch.setattr(authority, "ALONE_S", SHORT_S)
    (tmp_path / "keys").mkdir()
    handle = os.open(tmp_path / "keys" / ".authority.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    yield handle
    os.close(handle)


def test_a_process_that_hangs_is_waited_for_no_longer_than_the_deadline(tmp_path: Path, held: int) -> None:
    began = time.monotonic()
    with pytest.raises(Retry, match=r"another process has been making certificates .*\.authority\.lock"):
        authority.ensure(tmp_path, NAMES, time.time())
    assert SHORT_S <= time.monotonic() - began < SHORT_S + 2
    assert not (tmp_path / "ca.pem").exists(), "nothing is made by who does not hold the lock"


def test_one_that_lets_go_in_time_is_waited_for(tmp_path: Path, held: int) -> None:
    with ThreadPoolExecutor(1) as beside:
        waiting = beside.submit(authority.ensure, tmp_path, NAMES, time.time())
        time.sleep(SHORT_S / 3)
        fcntl.flock(held, fcntl.LOCK_UN)
        file, new = waiting.result(10)
    assert new and file.is_file()


def test_many_that_look_at_once_make_one_authority_and_one_leaf(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as beside:
        said = list(beside.map(lambda _: authority.ensure(tmp_path, NAMES, time.time()), range(8)))
    assert [new for _, new in said].count(True) == 1 and len({file for file, _ in said}) == 1


@pytest.mark.anyio
async def test_a_renewal_that_waits_stops_no_request_and_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authority, "ALONE_S", SHORT_S)
    monkeypatch.setattr(tls, "LOOK_S", 0.01)
    looks: list[float] = []

    def names() -> tuple[str, ...]:
        looks.append(time.monotonic())
        return NAMES

    certificates = Certificates.of_authority(tmp_path, names, SystemClock())
    handle = os.open(tmp_path / "keys" / ".authority.lock", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    keeping = asyncio.create_task(certificates.keep())
    longest, last = 0.0, time.monotonic()
    while len(looks) < 4:  # one at the start, then a few that cannot take the lock
        await asyncio.sleep(0.005)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        assert not keeping.done()
    os.close(handle)
    assert longest < SHORT_S, "the loop waited with it"
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
