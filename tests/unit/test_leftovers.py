"""Two runs of tests on one host: each sees all that it left behind, and nothing of the other's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# A run: its mark, a cloud with a data folder, a run folder and a daemon, one that lives in the process; then it waits.
RUN = """
import json, os, secrets, subprocess, sys
from pathlib import Path
from hansa.engines.network.space import environment
from tests.leftovers import leftovers, mark, ours
word, folder = mark(), Path(sys.argv[1])
before = leftovers(word, folder)
cloud, inside = secrets.token_hex(4), ours("t" + secrets.token_hex(4))
(folder / "data").mkdir()
(folder / "data" / "cloud-id").write_text(cloud + "\\n")
roots = [Path(f"/tmp/hansa-{os.geteuid()}") / name for name in (cloud, inside)]
for root in roots:
    root.mkdir(parents=True)
daemon = subprocess.Popen(["sleep", "60"], env=environment() | {"HANSA_NETWORK": f"{cloud}/daemon"})
try:
    print(json.dumps({"cloud": cloud, "inside": inside, "before": sorted(before)}), flush=True)
    while sys.stdin.readline():
        print(json.dumps(sorted(leftovers(word, folder) - before)), flush=True)
finally:
    daemon.kill()
    daemon.wait()
    for root in roots:
        root.rmdir()
print(json.dumps(sorted(leftovers(word, folder) - before)), flush=True)
"""


class Run:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said = self.heard()

    def heard(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def left(self) -> list[str]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return list(self.heard())


@contextmanager
def a_run(folder: Path) -> Iterator[Run]:
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}/src:{ROOT}"},
    ) as process:  # fmt: skip
        try:
            yield Run(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)


def test_each_of_two_runs_sees_its_own_and_nothing_of_the_other(tmp_path: Path) -> None:
    with ExitStack() as stack:
        one, two = [stack.enter_context(a_run(tmp_path / name)) for name in ("one", "two")]
        lefts = [one.left(), two.left()]
        for run, left in zip((one, two), lefts, strict=True):
            cloud, inside = run.said["cloud"], run.said["inside"]
            assert len(left) == 3 and sum(cloud in line for line in left) == 2, left
            assert any(line.startswith("process") and f"HANSA_NETWORK={cloud}/daemon" in line for line in left)
            assert {line for line in left if line.startswith("folder")} == {
                f"folder /tmp/hansa-{os.geteuid()}/{name}" for name in (cloud, inside)
            }
        assert not set(lefts[0]) & set(lefts[1])
        for run in (one, two):
            assert run.process.stdin is not None
            run.process.stdin.close()
            assert run.heard() == [], "what is gone is not left"


def test_a_run_inside_another_has_a_mark_of_its_own(tmp_path: Path) -> None:
    """A worker is started by a run that has one: its own takes the place of that one, in both variables."""
    code = (
        "import os; from tests.leftovers import mark, OURS; a = mark(); b = mark(); "
        "print(a != b and a not in os.environ['PATH'] and os.environ['PATH'].endswith('/' + b) and os.environ[OURS] == b)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "True\n"
