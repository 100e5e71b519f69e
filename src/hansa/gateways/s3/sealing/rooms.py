"""Memory for bytes on their way, used over and over: fresh memory is paid for page by page, and at a MiB that costs as much
as to decipher what goes into it.
"""

from __future__ import annotations

from sys import getrefcount
from typing import Final

_UNHELD: Final = 3  # references: that of the list, of the loop over it, and of the call that counts


class Rooms:
    """At most `most` of `size` bytes each. A room is free again when nobody holds it or a view of it any more: so views may
    go to a transport, which keeps them for as long as its client takes. For one thread."""

    def __init__(self, size: int, most: int) -> None:
        self._size, self._most = size, most
        self._rooms: list[bytearray] = []

    def free(self) -> bytearray | None:
        """One that nobody holds; None when there is none. What was in it before is still there."""
        for room in self._rooms:
            if getrefcount(room) == _UNHELD:
                return room
        if len(self._rooms) == self._most:
            return None
        self._rooms.append(bytearray(self._size))
        return self._rooms[-1]
