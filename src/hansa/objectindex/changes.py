"""Whether something was committed under a name since one looked, told among the processes of one SQLite database without
asking it.

Counters in a file that all of them have in memory; many names share one. Who commits makes those of the names that it
has taken odd before, and even after, while nobody else writes: so what was read at an even count still stands for as long
as the count is the same, and at an odd one nobody can say. A process that dies half-way leaves some odd: what they stand
for is not believed until the next commit there.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

SLOTS: Final = 4096
_COUNT: Final = struct.Struct("=Q")
_SIZE: Final = SLOTS * _COUNT.size


class Changes:
    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(file).st_size < _SIZE:
                os.ftruncate(file, _SIZE)
            self._memory = mmap.mmap(file, _SIZE)
        finally:
            os.close(file)

    def stamp(self, name: int) -> int | None:
        """What stands for all that can be read under the name now; None while somebody changes it."""
        count: int = _COUNT.unpack_from(self._memory, name % SLOTS * _COUNT.size)[0]
        return None if count & 1 else count

    def begin(self, names: Iterable[int]) -> None:
        """Of a commit. Only who alone may write calls this, and `end` after it, whatever came of it."""
        for at in _places(names):
            self._set(at, (self._count(at) + 2) | 1)

    def end(self, names: Iterable[int]) -> None:
        for at in _places(names):
            self._set(at, (self._count(at) + 1) & ~1)

    def _count(self, at: int) -> int:
        return int(_COUNT.unpack_from(self._memory, at)[0])

    def _set(self, at: int, count: int) -> None:
        _COUNT.pack_into(self._memory, at, count)

    def close(self) -> None:
        self._memory.close()


def _places(names: Iterable[int]) -> set[int]:
    return {name % SLOTS * _COUNT.size for name in names}
