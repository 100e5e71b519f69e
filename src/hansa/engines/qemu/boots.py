"""When the guests of a host were last seen, by boot of the host.

After a power cut this is all that says until when they ran. One empty file a boot, whose date is that moment: the engine
is asked what it holds every ten seconds (`hansa.control.hosts`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

KEPT = 16  # boots: a cloud that was not started in so many knows no more


@dataclass(frozen=True, slots=True)
class Boots:
    """The boots that one data folder has seen."""

    data_dir: Path

    @property
    def path(self) -> Path:
        return self.data_dir / "boots"

    def seen(self, boot: str) -> None:
        """Guests were looked at now, in this boot."""
        try:
            os.utime(self.path / boot)
        except FileNotFoundError:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.path / boot).touch(mode=0o600)
            self._forget()

    def last_seen(self, boot: str) -> float:
        """Epoch seconds, 0 where it is not known."""
        try:
            return (self.path / boot).stat().st_mtime if boot else 0.0
        except FileNotFoundError:
            return 0.0

    def _forget(self) -> None:
        files = sorted(self.path.iterdir(), key=lambda file: file.stat().st_mtime)
        for file in files[:-KEPT]:
            file.unlink(missing_ok=True)
