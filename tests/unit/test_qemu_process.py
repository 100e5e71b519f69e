"""A process is ours by proof: uuid and name on its command line, and its start time."""

import asyncio
import contextlib
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hansa.engines.qemu import process

CLOUD = "c-test"


@pytest.fixture
def uid() -> str:
    return str(uuid.uuid4())


@contextlib.contextmanager
def guest(tmp_path: Path, cloud: str, uid: str) -> Iterator[int]:
    """A sleeper with a guest's command line."""
    words = [
        sys.executable,
        "-c",
        "import time; time.sleep(60)",
        "-uuid",
        uid,
        "-name",
        f"guest={cloud}.{uid},debug-threads=on",
    ]
    pid = process.spawn(words, tmp_path / "stderr")
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def test_a_spawned_process_has_a_session_of_its_own_and_inherits_nothing(
    tmp_path: Path, uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANSA_TOKEN", "SECRET")
    with guest(tmp_path, CLOUD, uid) as pid:
        assert os.getsid(pid) == pid
        assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1)} == {"/dev/null"}
        assert b"SECRET" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_the_proof_is_cloud_uid_and_start_time(tmp_path: Path, uid: str) -> None:
    with guest(tmp_path, CLOUD, uid) as pid:
        found = process.adopt(pid, CLOUD, uid, None)
        assert found is not None
        with found:
            assert found.alive()
            again = process.adopt(pid, CLOUD, uid, found.start_ticks)
            assert again is not None
            again.close()
            assert process.adopt(pid, CLOUD, uid, found.start_ticks + 1) is None
        assert process.adopt(pid, "c-tes", uid, None) is None
        assert process.adopt(pid, CLOUD, str(uuid.uuid4()), None) is None


def test_only_processes_of_the_cloud_are_found(tmp_path: Path, uid: str) -> None:
    with guest(tmp_path, CLOUD, uid) as pid, guest(tmp_path, "other", uid):
        assert process.scan(CLOUD) == {uid: [pid]}


@pytest.mark.anyio
async def test_the_end_is_seen_and_the_remains_are_taken_away(tmp_path: Path, uid: str) -> None:
    with guest(tmp_path, CLOUD, uid) as pid:
        found = process.adopt(pid, CLOUD, uid, None)
        assert found is not None
        with found:
            assert not await found.ended(0.05)
            found.kill()
            assert await found.ended(5)
        assert process.stat(pid) is None
        assert process.adopt(pid, CLOUD, uid, None) is None
        await asyncio.sleep(0)


def test_a_pid_that_does_not_exist_is_nobody() -> None:
    assert process.adopt(0, CLOUD, "x", None) is None
    assert process.adopt(2**22 - 1, CLOUD, "x", None) is None
    assert process.reap(2**22 - 1)
