"""Running `qemu-img` on what a stranger sent: as nobody, without a network, with limits on all that it takes.

The program has the files that it is handed as open descriptors, read-only or write-only as they were opened, and no
others of ours: it is another user, and our folders are closed to it. It dies with the process that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from hansa.engines.qemu import confinement
from hansa.engines.qemu.confinement import Confinement, Rights
from hansa.engines.qemu.program import IMG, INSTALL
from hansa.errors import Refused, Retry
from hansa.units import MIB

MEMORY_BYTES = 1024 * MIB
SAID_BYTES_MAX = MIB  # of an answer: whoever says more is not listened to
_FILES, _THREADS = 64, 256
_STACK_BYTES = 2 * MIB  # of each of its threads: they count against its memory, used or not, and so do arenas
_END_S = 5.0
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "1"}


@dataclass(frozen=True, slots=True)
class Limits:
    """`wall_s` and `cpu_s`: seconds; `output_bytes`: of the largest file that it writes."""

    wall_s: float
    cpu_s: int
    output_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """How it ended: its exit status (negative: a signal) and what it said."""

    code: int
    output: bytes
    errors: str


async def run(arguments: Sequence[str], *, rights: Rights, user: int, files: Sequence[int], limits: Limits) -> Said:
    """`qemu-img` with `files` open under their own numbers. Raises Refused where it is missing, Retry where it is too
    slow."""
    held = [*_bounds(limits), *confinement.words(Confinement(rights, user)), "--pdeathsig", "KILL", IMG, *arguments]
    try:
        process = await asyncio.create_subprocess_exec(
            *held, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            pass_fds=tuple(files), cwd="/", env=_ENVIRONMENT,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise Refused("ProvisioningFailed", INSTALL) from error
    try:
        async with asyncio.timeout(limits.wall_s):
            output, errors = await asyncio.gather(_heard(process.stdout), _heard(process.stderr))
            code = await process.wait()
    except TimeoutError as error:
        raise Retry(f"qemu-img did not end within {limits.wall_s:.0f} s") from error
    finally:
        await _ended(process)
    return Said(code, output, errors.decode(errors="replace").strip()[:500])


def _bounds(limits: Limits) -> list[str]:
    bounds = {"as": MEMORY_BYTES, "cpu": limits.cpu_s, "fsize": limits.output_bytes, "core": 0, "nofile": _FILES,
              "nproc": _THREADS, "stack": _STACK_BYTES}  # fmt: skip
    return ["prlimit", *(f"--{name}={value}" for name, value in bounds.items())]


async def _heard(stream: asyncio.StreamReader | None) -> bytes:
    """What it says, to its end; no more than is listened to is kept."""
    said = bytearray()
    while stream is not None and (piece := await stream.read(1 << 16)):
        said += piece[: SAID_BYTES_MAX - len(said)]
    return bytes(said)


async def _ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await process.wait()
