"""Whether anything was committed since one looked, told among the processes of one SQLite database without asking it.

A counter in a file that all of them have in memory. Who commits makes it odd before and even after, while nobody else
writes; so what was read at an even count still stands for as long as the count is the same, and at an odd one nobody can
say. A process that dies half-way leaves it odd: then nothing is believed until the next commit.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Final

_COUNT: Final = struct.Struct("=Q")


class Changes:
    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(file).st_size < _COUNT.size:
                os.ftruncate(file, _COUNT.size)
            self._memory = mmap.mmap(file, _COUNT.size)
        finally:
            os.close(file)

    def stamp(self) -> int | None:
        """What stands for the state that can be read now; None while somebody changes it."""
        count: int = _COUNT.unpack_from(self._memory)[0]
        return None if count & 1 else count

    def begin(self) -> None:
        """Of a commit. Only who alone may write calls this, and `end` after it, whatever came of it."""
        self._set((self._count() + 2) | 1)

    def end(self) -> None:
        self._set((self._count() + 1) & ~1)

    def _count(self) -> int:
        return int(_COUNT.unpack_from(self._memory)[0])

    def _set(self, count: int) -> None:
        _COUNT.pack_into(self._memory, 0, count & (1 << 64) - 1)

    def close(self) -> None:
        self._memory.close()
