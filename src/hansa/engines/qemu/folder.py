"""Where the files of one machine are, and the driver's record of it among them.

`machines/UID/` stays as long as the machine: record, seed, console log. The run-time folder holds sockets and the
pid file and has a short path. Nothing here talks to a process.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from hansa.engines.qemu.files import read_json, write_file, write_json
from hansa.engines.qemu.names import checked, is_uid, short
from hansa.engines.qemu.plan import Record
from hansa.errors import Invalid
from hansa.units import CONSOLE_BYTES_MAX

_SOCKET_PATH_MAX = 107
_STDERR_BYTES_MAX = 2000


@dataclass(frozen=True, slots=True)
class MachineFolder:
    """The two folders of machine `uid`."""

    uid: str
    path: Path
    run: Path

    @property
    def console(self) -> Path:
        return self.path / "console.log"

    @property
    def seed(self) -> Path:
        return self.path / "seed.img"

    @property
    def stderr(self) -> Path:
        return self.path / "qemu.stderr"

    @property
    def monitor(self) -> Path:
        return self.run / "qmp"

    def read(self) -> Record | None:
        """The record, None before the first start and after removal."""
        document = read_json(self.path / "state.json")
        return Record.parse(document) if document is not None else None

    def write(self, record: Record) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(self.path / "state.json", record.document())

    def prepare(self, seed: bytes) -> None:
        """Everything that a start needs, and nothing of the last one."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.run.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.run.mkdir(mode=0o700, exist_ok=True)
        self.clear_run()
        write_file(self.seed, seed)
        self.trim_console()
        os.close(os.open(self.console, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))

    def clear_run(self) -> None:
        """What a killed QEMU leaves: sockets and pid file."""
        for name in ("qmp", "con", "pid"):
            (self.run / name).unlink(missing_ok=True)

    def pid(self) -> int:
        """What the pid file says, 0 when it says nothing."""
        try:
            return int((self.run / "pid").read_text().strip() or 0)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return 0

    def errors(self) -> str:
        """The first lines that QEMU wrote to its standard error."""
        try:
            text = self.stderr.read_bytes()[:_STDERR_BYTES_MAX].decode(errors="replace")
        except FileNotFoundError:
            return ""
        return " ".join(line.partition("qemu-system-x86_64: ")[2] or line for line in text.strip().splitlines()[:3])

    def trim_console(self) -> None:
        """Keep the log below its limit. QEMU appends, so the file may be emptied under its hands."""
        if not self.console.exists() or self.console.stat().st_size <= CONSOLE_BYTES_MAX:
            return
        shutil.copyfile(self.console, self._older())
        self._older().chmod(0o600)
        os.truncate(self.console, 0)

    def tail(self, limit_bytes: int) -> bytes:
        """The last `limit_bytes` of the console, over the log before as well."""
        newest = _tail(self.console, limit_bytes)
        return _tail(self._older(), limit_bytes - len(newest)) + newest

    def erase(self) -> None:
        """Run-time folder first, record last: what is interrupted is found again and ended."""
        shutil.rmtree(self.run, ignore_errors=True)
        if not self.path.is_dir():
            return
        for entry in self.path.iterdir():
            if entry.name != "state.json":
                entry.unlink(missing_ok=True)
        (self.path / "state.json").unlink(missing_ok=True)
        self.path.rmdir()

    def _older(self) -> Path:
        return self.path / "console.log.1"


class Folders:
    """The machines of one data folder."""

    def __init__(self, data_dir: Path, run_dir: Path) -> None:
        longest = run_dir / ("0" * 16) / "qmp"
        if len(os.fsencode(longest)) > _SOCKET_PATH_MAX:
            raise Invalid.field("run_dir", f"{run_dir} is too long: a socket's path holds {_SOCKET_PATH_MAX} bytes")
        self._machines = data_dir / "machines"
        self._run = run_dir

    def of(self, uid: str) -> MachineFolder:
        """Raises Refused for what is no uid."""
        return MachineFolder(checked(uid), self._machines / uid, self._run / short(uid))

    def uids(self) -> list[str]:
        """Every machine that has a folder, even an empty one."""
        if not self._machines.is_dir():
            return []
        return sorted(entry.name for entry in self._machines.iterdir() if is_uid(entry.name))


def _tail(path: Path, limit_bytes: int) -> bytes:
    if limit_bytes <= 0:
        return b""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit_bytes))
            return file.read(limit_bytes)
    except FileNotFoundError:
        return b""
