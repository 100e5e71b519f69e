"""The supervisor: children are started again, heard, and end with it. The children are a few lines of Python each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hansa.supervisor import named

PARENT = """
import os, sys
from hansa.supervisor import Child, Supervisor
children = [Child(name, [sys.executable, "-c", code], (), {{"PARENT": str(os.getpid())}}) for name, code in {children!r}]
sys.exit(Supervisor(children).run())
"""
BEGIN = """
import os, sys, time, signal
from hansa.supervisor import follow_parent
follow_parent(int(os.environ["PARENT"]))
open({file!r}, "a").write(str(os.getpid()) + "\\n")
print("ready here", flush=True)
"""


class Supervised:
    """A supervisor over children that say their process ids in a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **children: str) -> subprocess.Popen[bytes]:
        codes = [(n, BEGIN.format(file=str(self.folder / n)) + textwrap.dedent(code)) for n, code in children.items()]
        with (self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PARENT.format(children=codes)], stdout=out, stderr=errors
            )
        return self.process

    def pids(self, name: str) -> list[int]:
        file = self.folder / name
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def said(self, which: str = "err") -> str:
        return (self.folder / which).read_text()


def until(true: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    made = Supervised(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def test_a_child_that_dies_is_started_again_and_the_other_is_left_alone(supervised: Supervised) -> None:
    process = supervised.start(one="time.sleep(600)", two="time.sleep(600)")
    until(lambda: supervised.pids("one") and supervised.pids("two") and supervised.said("out").count("ready") == 2)
    os.kill(supervised.pids("one")[0], signal.SIGKILL)
    until(lambda: len(supervised.pids("one")) == 2)
    until(lambda: "ready again" in supervised.said())
    assert '{"process": "one", "event": "supervisor"' in supervised.said() and "ended with -9" in supervised.said()
    assert len(supervised.pids("two")) == 1 and lives(supervised.pids("two")[0])
    assert supervised.said("out").count("ready") == 2  # who waits for `ready` reads it once
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert not any(lives(pid) for name in ("one", "two") for pid in supervised.pids(name))


def test_the_pause_grows(supervised: Supervised) -> None:
    supervised.start(one="sys.exit(3)")
    until(lambda: len(supervised.pids("one")) >= 3)
    pauses = [line.split("started again in ")[1].split(" s")[0] for line in supervised.said().splitlines()
              if "started again in" in line]  # fmt: skip
    assert pauses[:2] == ["1", "2"]


def test_children_die_with_their_parent(supervised: Supervised) -> None:
    process = supervised.start(one="signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)")
    until(lambda: "ready" in supervised.said("out"))
    process.kill()
    process.wait()
    until(lambda: not lives(supervised.pids("one")[0]))


def test_who_cannot_begin_ends_the_whole_with_its_status(tmp_path: Path) -> None:
    code = "import sys; print('what is wrong', file=sys.stderr); sys.exit(7)"
    ran = subprocess.run(
        [sys.executable, "-c", PARENT.format(children=[("one", code)])], capture_output=True, text=True, timeout=20
    )
    assert ran.returncode == 7 and ran.stderr == "what is wrong\n"  # as if it had been started by hand


def test_what_children_say_carries_their_name(supervised: Supervised) -> None:
    code = """
    time.sleep(0.2)
    sys.stderr.write('{"event": "x"}\\nplain\\n' + "y" * 200000 + "\\nlast without an end"); sys.stderr.flush()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); time.sleep(600)
    """
    process = supervised.start(one=code)
    until(lambda: "y" * 200000 in supervised.said())
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    lines = supervised.said().splitlines()
    assert lines[0] == '{"process": "one", "event": "x"}' and lines[1] == "one: plain"
    assert lines[2] == "one: " + "y" * 200000 and lines[3] == "one: last without an end"


def test_a_name_is_a_field_of_a_log_in_json() -> None:
    assert named("api", b'{"a": 1}') == b'{"process": "api", "a": 1}'
    assert named("api", b"Traceback") == b"api: Traceback"


def test_ready_is_told_when_every_child_is(supervised: Supervised) -> None:
    late = """
    print("other words", flush=True)
    time.sleep(600)
    """
    supervised.start(one=late, two="time.sleep(600)")
    until(lambda: "ready here" in supervised.said("out"))
    assert supervised.said("out").count("ready here") == 2  # both at once, when the second was


def test_ready_of_one_alone_is_held_back(supervised: Supervised) -> None:
    code = f"""
import os, sys
from hansa.supervisor import Child, Supervisor
me = {{"PARENT": str(os.getpid())}}
quick = Child("quick", [sys.executable, "-c", {BEGIN.format(file=str(supervised.folder / "quick"))!r} + "time.sleep(600)"], (), me)
wait = "import time; time.sleep(2)\\n" + {BEGIN.format(file=str(supervised.folder / "slow"))!r} + "time.sleep(600)"
slow = Child("slow", [sys.executable, "-c", wait], (), me, tells=False)
sys.exit(Supervisor([quick, slow]).run())
"""
    with (supervised.folder / "out").open("wb") as out, (supervised.folder / "err").open("wb") as errors:
        supervised.process = subprocess.Popen([sys.executable, "-c", code], stdout=out, stderr=errors)
    until(lambda: supervised.pids("quick"))
    time.sleep(0.5)
    assert supervised.said("out") == "" and not supervised.pids("slow")
    until(lambda: supervised.said("out"))
    assert supervised.said("out") == "ready here\n" and supervised.pids("slow")  # of the one that tells it
