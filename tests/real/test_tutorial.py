"""The commands of the first tutorial are run as they are written, in one shell, from top to bottom."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs/tutorials/first-machine.md"
STOP = '\nkill "$(cat hansa-data/pid)"; for i in $(seq 100); do [ -d "/proc/$(cat hansa-data/pid)" ] || break; sleep 0.1; done\n'


def script(text: str, key: Path) -> str:
    """The shell blocks of the tutorial, with a key of the test's own and a login that asks for one command."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    lines = []
    for line in blocks.splitlines():
        command = line.replace("~/.ssh/id_ed25519", str(key))
        if command.startswith("hansa ssh"):
            command += " -- uname -a"
        if command.startswith(".venv/bin/hansa up"):
            command = command.replace("hansa up", "hansa up --port 0")
            command += "\nfor i in $(seq 150); do grep -q ready up.out && break; sleep 0.1; done"
        lines.append(command.replace("> up.out &", "> up.out 2> up.err < /dev/null &"))
    return "set -e\n" + "\n".join(lines) + STOP


def test_the_first_tutorial_works_as_written(tmp_path: Path) -> None:
    text = TUTORIAL.read_text()
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (tmp_path / "web.yaml").write_text(
        re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0].replace(
            "ssh-ed25519 AAAA... me", key.with_suffix(".pub").read_text().strip()
        )
    )
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/install").symlink_to(ROOT / "scripts/install")
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    whole = script(text, key).replace("scripts/install\n", "", 1)  # it ran before the tests
    done = subprocess.run(["bash", "-c", whole], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Linux web-1" in done.stdout and "is Ready" in done.stdout
