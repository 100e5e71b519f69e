"""The commands of the tutorial and of the README are run as they are written, in one shell, from top to bottom."""

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
        if command.startswith("hansa ssh") and " -- " not in command:
            command += " -- uname -a"
        if command.startswith(".venv/bin/hansa up"):
            command = command.replace("hansa up", "hansa up --port 0")
            command += "\nfor i in $(seq 150); do grep -q ready up.out && break; sleep 0.1; done"
        lines.append(command.replace("> up.out &", "> up.out 2> up.err < /dev/null &"))
    return "set -e\n" + "\n".join(lines) + STOP


def prepare(folder: Path) -> Path:
    """The tutorial's web.yaml with a key of the test's own, beside the same .venv."""
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    given = re.findall(r"```yaml\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)[0]
    public = key.with_suffix(".pub").read_text().strip()
    (folder / "web.yaml").write_text(given.replace("ssh-ed25519 AAAA... me", public))
    (folder / ".venv").symlink_to(Path(sys.prefix))
    return key


def run(whole: str, folder: Path) -> str:
    done = subprocess.run(["bash", "-c", whole], cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_first_tutorial_works_as_written(tmp_path: Path) -> None:
    key = prepare(tmp_path)
    whole = script(TUTORIAL.read_text(), key).replace("scripts/install\n", "", 1)  # it ran before the tests
    said = run(whole, tmp_path)
    assert "Linux web-1" in said and "is Ready" in said


def test_the_examples_of_the_readme_work_as_written(tmp_path: Path) -> None:
    key = prepare(tmp_path)
    text = (ROOT / "README.md").read_text()
    text = text[text.index("## Five examples") :]
    text = re.sub(r"```python\n(.*?)```", r"```sh\npython - <<'PY'\n\1PY\n```", text, flags=re.DOTALL)
    said = run(script(text, key).replace(STOP, "\nhansa delete -f web.yaml --wait" + STOP), tmp_path)
    assert "Linux web-1" in said and "10 GB" in said and '"openapi":"3.1.0"' in said and "spec.diskSize" not in said
