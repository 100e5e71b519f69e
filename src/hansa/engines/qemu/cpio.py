"""Writing a cpio archive (newc), the form of an initramfs: pure, and the same bytes for the same files.

Everything belongs to root, whoever builds, and bears no time.
"""

from __future__ import annotations

import stat
from pathlib import PurePosixPath


class Archive:
    """Entries in the order in which they are added; parents come by themselves."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0
        self._folders: set[str] = set()

    def folder(self, name: str) -> None:
        self._parents(f"{name}/x")

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        self._parents(name)
        self._entry(name, stat.S_IFREG | mode, content)

    def link(self, name: str, target: str) -> None:
        self._parents(name)
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name: str, mode: int, major: int, minor: int) -> None:
        self._parents(name)
        self._entry(name, stat.S_IFCHR | mode, device=(major, minor))

    def done(self) -> bytes:
        self._entry("TRAILER!!!", 0)
        return b"".join(self._parts)

    def _parents(self, name: str) -> None:
        for folder in reversed(PurePosixPath(name).parents):
            at = str(folder)
            if at != "." and at not in self._folders:
                self._folders.add(at)
                self._entry(at, stat.S_IFDIR | 0o755, links=2)

    def _entry(
        self, name: str, mode: int, content: bytes = b"", *, links: int = 1, device: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        raw = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(raw), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
        self._parts += [_padded(head), _padded(content)]


def _padded(block: bytes) -> bytes:
    return block + b"\0" * (-len(block) % 4)
