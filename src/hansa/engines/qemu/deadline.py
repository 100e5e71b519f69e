"""The commands of one build: they share one limit, and one that fails says why in an error of ours.

Runs in the process that builds an image, never in the control process: everything here blocks.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector

from hansa.errors import Refused

_LINES_KEPT = 200  # of what a long command says, for the report of its failure
_LINE_BYTES_MAX = 1 << 16
_GRACE_S = 10.0  # for a command that is to end, to take away what it made


class Deadline:
    """Every command of one build shares one limit."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def run(
        self,
        *command: str | Path,
        cwd: Path | None = None,
        text: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Standard output of `command`. Raises Refused (ImageUnavailable) when it fails or is too slow."""
        program = str(command[0])
        try:
            done = subprocess.run(
                [str(word) for word in command], cwd=cwd, input=text, text=True, capture_output=True, check=False,
                timeout=max(0.1, self.left_s()), env=_environment(environment),
            )  # fmt: skip
        except FileNotFoundError as error:
            raise Refused("ImageUnavailable", f"{program} is missing: run scripts/install") from error
        except subprocess.TimeoutExpired as error:
            raise Refused("ImageUnavailable", f"{program} did not end in time") from error
        if done.returncode:
            raise Refused("ImageUnavailable", f"{program} failed: {_last_line(done.stderr)}", detail=done.stderr)
        return done.stdout

    def follow(
        self,
        name: str,
        *command: str | Path,
        on_line: Callable[[str], None],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Run a command that takes long and hand over each line of what it says. Raises as `run` does, of `name`."""
        said: deque[str] = deque(maxlen=_LINES_KEPT)
        try:
            process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, env=_environment(environment),
            )  # fmt: skip
        except FileNotFoundError as error:
            raise Refused("ImageUnavailable", f"{command[0]} is missing: run scripts/install") from error
        try:
            for line in self._lines(process):
                said.append(line)
                on_line(line)
            code = process.wait(max(0.1, self.left_s()))
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            raise Refused("ImageUnavailable", f"{name} did not end in time", detail="\n".join(said)) from error
        finally:
            _end(process)
        if code:
            why = next((line for line in reversed(said) if line.startswith("E: ")), said[-1] if said else "")
            raise Refused("ImageUnavailable", f"{name} failed: {_last_line(why)}", detail="\n".join(said))

    def left_s(self) -> float:
        return self._end - time.monotonic()

    def _lines(self, process: subprocess.Popen[bytes]) -> Iterator[str]:
        """What `process` says until it closes its output. Raises TimeoutError at the limit."""
        assert process.stdout is not None
        rest = b""
        with DefaultSelector() as selector:
            selector.register(process.stdout, EVENT_READ)
            while self.left_s() > 0 and selector.select(self.left_s()):
                piece = os.read(process.stdout.fileno(), _LINE_BYTES_MAX)
                if not piece:
                    if rest:
                        yield rest.decode(errors="replace")
                    return
                *lines, rest = (rest + piece).split(b"\n")
                rest = rest[-_LINE_BYTES_MAX:]
                yield from (line.decode(errors="replace") for line in lines)
        raise TimeoutError


def _end(process: subprocess.Popen[bytes]) -> None:
    """No process stays behind: first it is asked, so that it takes away what it mounted and made."""
    for end in (process.terminate, process.kill):
        if process.poll() is None:
            end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
    if process.stdout is not None:
        process.stdout.close()


def _environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """apt and friends in English, with the administrator's programs, and with nothing of ours that is secret."""
    keep = ("HOME", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "TMPDIR")
    kept = {name: os.environ[name] for name in keep if name in os.environ}
    return kept | {"LC_ALL": "C.UTF-8", "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin", **(more or {})}


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"
