"""Network namespaces, each held by a process that sleeps in it, and how to work inside one.

There is no name in a file system and no mount: the namespace is there as long as its holder (or a guest in
it). A holder is ours when its environment bears the mark `HANSA_NETWORK=<cloud>/<what>` and it belongs to our
user; it outlives every other process of ours, so a killed control process finds its networks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import select
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hansa.errors import Retry

MARK = "HANSA_NETWORK"
COMMAND_LIMIT_S = 10.0
_PROC = Path("/proc")
_BEGIN_LIMIT_S = 3.0
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_TUN = "/dev/net/tun"
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Holder:
    """A sleeping process and the namespace that it holds, by its inode."""

    pid: int
    handle: int  # pidfd: what is asked and ended is this process and no later one of its number
    inode: int

    @classmethod
    def of(cls, pid: int) -> Holder:
        """Raises OSError when there is no such process."""
        handle = os.pidfd_open(pid)
        try:
            return cls(pid, handle, inode_of(pid))
        except OSError:
            os.close(handle)
            raise

    def alive(self) -> bool:
        poller = select.poll()
        poller.register(self.handle, select.POLLIN)
        gone = bool(poller.poll(0))
        if gone:
            ended(self.pid)
        return not gone

    def end(self) -> None:
        """Kill it and take its remains away; the namespace goes with its last process."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, signal.SIGKILL)
        select.select([self.handle], [], [], 1.0)
        ended(self.pid)
        self.close()

    def close(self) -> None:
        os.close(self.handle)


def hold(mark: str, *before: str, user: bool = False) -> Holder:
    """Make a namespace and someone who holds it: `before` is a prefix of its command.

    `user`: with a user namespace around it, in which its owner is root. Raises Retry with what was said.
    """
    ours, said = inode_of(os.getpid()), os.memfd_create("said")
    try:
        words = ["unshare", *(["--user", "--map-root-user"] if user else []), "--net", "--", "sleep", "infinity"]
        pid = spawn([*before, *words], mark, errors=said)
        end = time.monotonic() + _BEGIN_LIMIT_S
        while time.monotonic() < end:
            if ended(pid):
                raise Retry(f"no network namespace could be made: {_text(said)}")
            with contextlib.suppress(OSError):
                if inode_of(pid) != ours and _command(pid) == "sleep":
                    return Holder.of(pid)
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        ended(pid)
        raise Retry(f"no network namespace was made within {_BEGIN_LIMIT_S:.0f} s")
    finally:
        os.close(said)


def spawn(command: Sequence[str], mark: str, *, errors: int) -> int:
    """Start a process that outlives us, with its mark and nothing else of ours in its environment. Returns its pid.

    `errors`: a descriptor for what it says on standard error.
    """
    return os.posix_spawnp(
        command[0], list(command), environment() | {MARK: mark}, setsid=True, setsigmask=(),
        setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGHUP, signal.SIGTERM),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, errors, 2),
        ],
    )  # fmt: skip


def environment() -> dict[str, str]:
    keep = ("PYTHONPATH", "VIRTUAL_ENV", "TMPDIR", "LANG")
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return {name: os.environ[name] for name in keep if name in os.environ} | {"PATH": path, "LC_ALL": "C.UTF-8"}


def marked(prefix: str, *, users: Sequence[int] = ()) -> dict[str, int]:
    """Processes of our user (or of `users`) whose mark begins with `prefix`: mark -> pid. Reads all of /proc."""
    found: dict[str, int] = {}
    needle, owners = f"{MARK}={prefix}".encode(), users or (os.geteuid(),)
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if _owner(entry) not in owners:
                continue
            for word in (entry / "environ").read_bytes().split(b"\0"):
                if word.startswith(needle):
                    found[word.decode().partition("=")[2]] = int(entry.name)
    return found


def commands() -> Iterator[tuple[int, list[str]]]:
    """Every process with the words of its command."""
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")


def inside_of(inode: int) -> list[int]:
    """Every process in the network namespace with this inode."""
    found = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if inode_of(int(entry.name)) == inode:
                    found.append(int(entry.name))
    return found


def inode_of(pid: int) -> int:
    return (_PROC / str(pid) / "ns/net").stat().st_ino


@contextlib.contextmanager
def inside(holder: Holder) -> Iterator[None]:
    """This thread in the holder's namespace: for making sockets and taps, which stay there. Never awaits."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        try:
            yield
        finally:
            _set(home)
    finally:
        os.close(home)


def set_sysctls(values: Mapping[str, str]) -> None:
    """Settings of the namespace that we are in: `net.ipv4.ip_forward`, with `/` for a dot in a link's name."""
    for name, value in values.items():
        (_PROC / "sys" / name.replace(".", "/")).write_text(value)


def make_tap(name: str) -> None:
    """A tap that stays when nobody holds it. To be called inside its namespace."""
    handle = open_tap(name)
    try:
        fcntl.ioctl(handle, _TUNSETPERSIST, 1)
    finally:
        os.close(handle)


def open_tap(name: str) -> int:
    """Take hold of a tap. Raises OSError: EBUSY while another holds it. To be called inside its namespace."""
    handle = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
    except OSError:
        os.close(handle)
        raise
    return handle


async def run(holder: Holder | None, *command: str, given: str = "", check: bool = True) -> str:
    """Standard output of a program, run in the holder's namespace (None: in ours). Raises Retry when it fails."""
    words = [*(["nsenter", "-t", str(holder.pid), "-n", "--"] if holder else []), *command]
    with tempfile.TemporaryFile() as text:  # no pipe: a program that ends before it reads would break one
        text.write(given.encode())
        text.seek(0)
        process = await asyncio.create_subprocess_exec(
            *words, stdin=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
        )
    try:
        async with asyncio.timeout(COMMAND_LIMIT_S):
            said, errors = await process.communicate()
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise Retry(f"{command[0]} did not end within {COMMAND_LIMIT_S:.0f} s") from error
    if process.returncode and check:
        complaint = errors.decode(errors="replace").strip()
        raise Retry(f"{command[0]} failed: {complaint[:300]}", detail=f"{' '.join(command)}\n{given[:2000]}")
    return said.decode(errors="replace")


def _enter(handle: int) -> None:
    try:
        _set(handle)
    finally:
        os.close(handle)


def _set(handle: int) -> None:
    if _libc.setns(handle, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _owner(entry: Path) -> int:
    return entry.stat().st_uid


def _command(pid: int) -> str:
    return (_PROC / str(pid) / "comm").read_text().strip()


def _text(handle: int) -> str:
    os.lseek(handle, 0, os.SEEK_SET)
    return os.read(handle, 300).decode(errors="replace").strip() or "unshare said nothing"


def ended(pid: int) -> bool:
    """Has our child ended? Takes its remains away. False for what is no child of ours."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False
