"""The commands of the tutorials and of the README are run as they are written, in one shell, from top to bottom.

A block of YAML or Python goes to the file that is named in backticks just before it. What a comment says that a
command prints (`# prints: …`) must be printed, in that order.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from .cloud import RealCloud
from .tenant import until

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs/tutorials"
STOP = '\nkill "$(cat hansa-data/pid)"; for i in $(seq 100); do [ -d "/proc/$(cat hansa-data/pid)" ] || break; sleep 0.1; done\n'
LIMIT_S, LOGIN_LIMIT_S = 900, 400  # emulated machines on a busy host


def script(text: str, key: Path) -> str:
    """The shell blocks of a page, with a key of the test's own and a login that asks for one command."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    lines = []
    for line in blocks.splitlines():
        command = line.replace("~/.ssh/id_ed25519", str(key))
        command = re.sub(r"\b(hansa|ada|bob) ssh ", rf"\1 ssh --timeout {LOGIN_LIMIT_S} ", command)
        if command.startswith("hansa ssh") and " -- " not in command:
            command += " -- uname -a"
        if command.startswith(".venv/bin/hansa up"):
            command = command.replace("hansa up", "hansa up --port 0")
            command += "\nfor i in $(seq 150); do grep -q ready up.out && break; sleep 0.1; done"
        lines.append(command.replace("> up.out &", "> up.out 2> up.err < /dev/null &"))
    return "set -e\n" + "\n".join(lines) + STOP


def prepare(folder: Path, text: str) -> Path:
    """The files of a page with a key of the test's own, beside the same .venv. Returns the key."""
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    public = key.with_suffix(".pub").read_text().strip()
    given = re.findall(r"`([\w.-]+)`[^`]*:\n\n```(?:yaml|python)\n(.*?)```", text, re.DOTALL)
    assert given and len(given) == len(re.findall(r"```(?:yaml|python)\n", text)), "a block without a file's name"
    for name, content in given:
        (folder / name).write_text(content.replace("ssh-ed25519 AAAA... me", public))
    (folder / ".venv").symlink_to(Path(sys.prefix))
    return key


def run(whole: str, folder: Path) -> str:
    out, err = folder / "out", folder / "err"  # files, which a process that was left behind does not keep open
    with out.open("wb") as said, err.open("wb") as errors:
        try:
            done = subprocess.run(
                ["bash", "-c", whole], cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=errors, timeout=LIMIT_S,
                check=False, env={"HANSA_UPLINK": "none", **os.environ},
            )  # fmt: skip
        finally:
            end(folder)
    assert done.returncode == 0, out.read_text() + err.read_text()
    return out.read_text()


def end(folder: Path) -> None:
    """The cloud of a page that was not followed to its end."""
    cloud = RealCloud(folder)
    cloud.data = folder / "hansa-data"
    pid = int((cloud.data / "pid").read_text()) if (cloud.data / "pid").exists() else 0
    with contextlib.suppress(OSError):
        if pid and (Path("/proc") / str(pid) / "cwd").readlink() == folder:
            os.kill(pid, signal.SIGTERM)
            until(lambda: not (Path("/proc") / str(pid)).exists())
    cloud.end()


def follow(tutorial: str, folder: Path) -> str:
    """Do what a tutorial says, and hold what it prints against what it says that it prints."""
    text = (TUTORIALS / tutorial).read_text()
    key = prepare(folder, text)
    said = run(script(text, key).replace("scripts/install\n", "", 1), folder)  # that ran before the tests
    rest = said
    for expected in re.findall(r"# prints: (.*)$", text, re.MULTILINE):
        assert expected in rest, f"{expected!r} is not printed, or not in its turn:\n{said}"
        rest = rest.split(expected, 1)[1]
    return said


def test_the_first_tutorial_works_as_written(tmp_path: Path) -> None:
    said = follow("first-machine.md", tmp_path)
    assert "Linux web-1" in said and "is Ready" in said


def test_the_tutorial_of_private_networks_works_as_written(tmp_path: Path) -> None:
    said = follow("private-network.md", tmp_path)
    assert said.count("this is db") == 2 and "this is db" in (tmp_path / "feed.txt").read_text()
    assert all(f"{what} is deleted" in said for what in ("vm/front", "disk/db", "sg/app", "vpc/shop", "ip/shop"))


def test_the_tutorial_of_disks_that_grow_works_as_written(tmp_path: Path) -> None:
    follow("grow-a-disk.md", tmp_path)


def test_the_tutorial_of_two_projects_works_as_written(tmp_path: Path) -> None:
    said = follow("two-projects.md", tmp_path)
    assert "virtualMachines" in said and said.count("this is red") == 1


def test_the_tutorial_of_buckets_works_as_written(tmp_path: Path) -> None:
    said = follow("first-bucket.md", tmp_path)
    assert "AWS_SECRET_ACCESS_KEY" in (tmp_path / "reader.env").read_text() and "AWS_SECRET" not in said


def test_the_examples_of_the_readme_work_as_written(tmp_path: Path) -> None:
    key = prepare(tmp_path, (TUTORIALS / "first-machine.md").read_text())
    text = (ROOT / "README.md").read_text()
    text = text[text.index("## Five examples") :]
    text = re.sub(r"```python\n(.*?)```", r"```sh\npython - <<'PY'\n\1PY\n```", text, flags=re.DOTALL)
    said = run(script(text, key).replace(STOP, "\nhansa delete -f web.yaml --wait" + STOP), tmp_path)
    assert "Linux web-1" in said and "10 GB" in said and '"openapi":"3.1.0"' in said and "spec.diskSize" not in said
