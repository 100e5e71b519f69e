"""Where the files of one machine are, and the driver's record of it among them.

`machines/UID/` stays as long as the machine: record, seed, console log. The run-time folder holds the sockets and has a
short path. A worker on a disk has a run-time folder too, and no other. Nothing here talks to a process.
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
_STDERR_BYTES_MAX = 2000  # that are told
_STDERR_BYTES_KEPT = 64 << 10
_WORKER = "-w"


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

    @property
    def line(self) -> Path:
        """The socket of the serial line."""
        return self.run / "con"

    def read(self) -> Record | None:
        """The record, None before the first start, after removal, and where another version wrote what we cannot read."""
        record = Record.parse(read_json(self.path / "state.json"))
        return record if record and record.uid == self.uid else None

    def write(self, record: Record) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(self.path / "state.json", record.document())

    def prepare(self, seed: bytes) -> None:
        """Everything that a start needs, and nothing of the last one."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_run(self.run)
        write_file(self.seed, seed)
        self.trim()

    def clear_run(self) -> None:
        """What QEMU leaves: the sockets that we made for it."""
        for name in ("qmp", "con"):
            (self.run / name).unlink(missing_ok=True)

    def errors(self) -> str:
        """The first lines that QEMU wrote to its standard error."""
        try:
            text = self.stderr.read_bytes()[:_STDERR_BYTES_MAX].decode(errors="replace")
        except FileNotFoundError:
            return ""
        return " ".join(line.partition("qemu-system-x86_64: ")[2] or line for line in text.strip().splitlines()[:3])

    def trim(self) -> None:
        """Keep both logs below their limits. QEMU appends, so a file may be emptied under its hands."""
        if _size(self.console) > CONSOLE_BYTES_MAX:
            part = self._older().with_suffix(".part")
            try:
                with os.fdopen(
                    os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb"
                ) as kept:
                    kept.write(_tail(self.console, CONSOLE_BYTES_MAX))
                part.rename(self._older())
            finally:
                part.unlink(missing_ok=True)
                os.truncate(self.console, 0)  # on a full host above all
        if _size(self.stderr) > _STDERR_BYTES_KEPT:
            os.truncate(self.stderr, 0)

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
        longest = run_dir / f"{'0' * 16}{_WORKER}" / "qmp"
        if len(os.fsencode(longest)) > _SOCKET_PATH_MAX:
            raise Invalid.field("run_dir", f"{run_dir} is too long: a socket's path holds {_SOCKET_PATH_MAX} bytes")
        self._machines = data_dir / "machines"
        self._run = run_dir

    def of(self, uid: str) -> MachineFolder:
        """Raises Refused for what is no uid."""
        return MachineFolder(checked(uid), self._machines / uid, self._run / short(uid))

    def of_worker(self, disk_uid: str) -> Path:
        """The run-time folder of the worker on a disk."""
        return self._run / f"{short(disk_uid)}{_WORKER}"

    def uids(self) -> list[str]:
        """Every machine that has a folder, even an empty one."""
        if not self._machines.is_dir():
            return []
        return sorted(entry.name for entry in self._machines.iterdir() if is_uid(entry.name))

    def records(self) -> list[Record]:
        """What is remembered of every machine."""
        found = (self.of(uid).read() for uid in self.uids())
        return [record for record in found if record]


def make_run(path: Path) -> None:
    """An empty run-time folder: only we connect to what is in it."""
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    for entry in path.iterdir():
        entry.unlink()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


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
