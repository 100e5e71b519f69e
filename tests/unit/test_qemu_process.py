"""A process is ours by proof: uuid and name on its command line, and its start time."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hansa.engines.qemu import process
from hansa.engines.qemu.plan import Record

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


def test_a_process_gets_the_descriptors_that_it_is_given_and_no_other(tmp_path: Path) -> None:
    given, stray = os.open(tmp_path, os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(stray, True)
    script = "import os; print(sorted(int(fd) for fd in os.listdir('/proc/self/fd')), file=open('found', 'w'))"
    pid = process.spawn(
        [sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r}); {script}"], tmp_path / "e", [given]
    )
    os.waitpid(pid, 0)
    found = json.loads((tmp_path / "found").read_text())
    os.close(given)
    os.close(stray)
    assert given in found and stray not in found


def test_a_chain_of_programs_is_found_at_every_moment(tmp_path: Path, uid: str) -> None:
    """Between two programs a process has no words for a moment."""
    words = ["setpriv", "--no-new-privs"] * 6
    pid = process.spawn(
        [*words, sys.executable, "-c", "import time; time.sleep(60)", "-uuid", uid, "-name", f"guest={CLOUD}.{uid}"],
        tmp_path / "stderr",
    )
    try:
        assert all(process.guest_of(pid) == (CLOUD, uid) for _ in range(300))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.anyio
async def test_a_recorded_process_counts_only_in_the_boot_that_it_was_recorded_in(tmp_path: Path, uid: str) -> None:
    with guest(tmp_path, CLOUD, uid) as pid:
        found = process.stat(pid)
        assert found is not None
        record = Record(uid, pid=pid, start_ticks=found.start_ticks, boot_id=process.boot_id())
        same = process.of_record(record, CLOUD)
        assert same is not None
        other = same.duplicate()
        same.close()
        assert other.alive()
        other.close()
        assert process.of_record(replace(record, boot_id="another"), CLOUD) is None
        assert process.of_record(replace(record, pid=0), CLOUD) is None


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
