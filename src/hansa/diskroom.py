"""Room on a disk, of which a part stays free: so databases and logs go on when what tenants store has filled it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from hansa.errors import Exhausted, Retry

RESERVE: Final = 512 << 20  # bytes that stay free for databases and logs on the same disk,
RESERVE_SHARE: Final = 20  # and no more than one part in so many of a small one
LOOKED_S: Final = 1.0  # so old may a look at the free room be


class DiskRoom:
    """From any thread; what is taken at the very same moment may count as one."""

    def __init__(self, place: Path | int, reserve: int | None = None) -> None:
        """`place`: anything on that disk, or a descriptor of it. `reserve`: bytes; None: a fair part. Raises OSError."""
        self._place = place
        self._looked, self._free = -LOOKED_S, 0
        self._reserve = reserve if reserve is not None else self._fair_reserve()

    def _fair_reserve(self) -> int:
        seen = os.statvfs(self._place)
        return min(RESERVE, seen.f_blocks * seen.f_frsize // RESERVE_SHARE)

    def take(self, more: int) -> None:
        """Raises Exhausted when the reserve would be touched, Retry when the disk does not say."""
        now = time.monotonic()
        if now - self._looked >= LOOKED_S:
            self._looked, self._free = now, self._seen()[1]
        if self._free - more < self._reserve:
            raise Exhausted("no room is left in the store of objects")
        self._free -= more

    def capacity(self) -> tuple[int, int]:
        """Bytes in all, and free beside the reserve. Raises Retry."""
        total, free = self._seen()
        return total, max(0, free - self._reserve)

    def _seen(self) -> tuple[int, int]:
        try:
            seen = os.statvfs(self._place)
        except OSError as error:
            raise Retry("the disk cannot be looked at", detail=str(error.strerror)) from error
        return seen.f_blocks * seen.f_frsize, seen.f_bavail * seen.f_frsize
