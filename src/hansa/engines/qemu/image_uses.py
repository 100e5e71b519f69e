"""Which images the disks of this machine lie upon, and the removal of those that nothing lies upon.

A disk without its image is lost, so whatever is not known counts as a use. Each cloud that makes disks here names its data
folder in the cache (`clouds/<id>.json`); the notes of the disks there say the rest. The latest image of a family is in use
as well: the next disk lies upon it. Only a folder of the system's temporary ones that is gone is known to be gone for good.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hansa.engines.qemu.diskfolder import DiskFolder
from hansa.engines.qemu.files import read_json, write_json
from hansa.engines.qemu.images import GONE, Image, ImageStore
from hansa.errors import InUse

QUIET_S = 60.0  # after a newer image: a disk that was begun upon the older one is noted by then


@dataclass(frozen=True, slots=True)
class Uses:
    """What lies upon which image. `missing`: data folders that are not there; `closed`: folders, or disks in them, whose notes
    cannot be read."""

    disks: Mapping[str, int]  # digest -> how many
    missing: tuple[Path, ...] = ()
    closed: tuple[Path, ...] = ()


def enter(store: ImageStore, cloud: str, data: Path) -> None:
    """Names a cloud's data folder in the cache. Raises OSError where the cache cannot be written."""
    for old, folder in _folders(store).items():
        if _passed(folder):
            old.unlink(missing_ok=True)
    note = _clouds(store) / f"{cloud}.json"
    if (read_json(note) or {}).get("data") != str(data):
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        write_json(note, {"data": str(data)}, mode=0o644)


def uses(store: ImageStore) -> Uses:
    """Reads the notes of every disk of every cloud that was named here."""
    disks: Counter[str] = Counter()
    missing: list[Path] = []
    closed: list[Path] = []
    for data in _folders(store).values():
        folder = DiskFolder(data)
        if _passed(data):
            continue
        if not data.exists():
            missing.append(data)
        elif not all(os.access(each, os.R_OK | os.X_OK) for each in (data, folder.path) if each.exists()):
            closed.append(data)
        else:
            closed += [folder.disk(uid) for uid in folder.uids() if folder.disk(uid).exists() and not folder.note(uid)]
            disks.update(_below(store, folder))
    return Uses(disks, tuple(missing), tuple(closed))


def forget_missing(store: ImageStore) -> list[Path]:
    """Takes away the names of clouds whose data folder is not there: it is gone for good."""
    gone = {note: data for note, data in _folders(store).items() if not data.exists()}
    for note in gone:
        note.unlink(missing_ok=True)
    return list(gone.values())


def why_kept(store: ImageStore, image: Image, known: Uses, now: float) -> str:
    """Why an image stays, empty: nothing lies upon it."""
    if count := known.disks.get(image.digest, 0):
        return f"{count} disk(s) or snapshot(s) lie upon it"
    link = store.cache / f"latest-{image.family}"
    if link.is_symlink():
        if str(link.readlink()) == image.digest:
            return f"new disks of {image.family} lie upon it: `hansa image build {image.family}` makes a newer one"
        if now - link.lstat().st_mtime < QUIET_S:
            return "it was superseded a moment ago, and a disk may just be made upon it"
    if known.closed:
        return f"what lies upon what cannot be read in {_listed(known.closed)}: ask as the user whose it is"
    if known.missing:
        return f"the data folder {_listed(known.missing)} is not there to be asked; once it is gone for good: --gone-folders"
    return ""


def remove(store: ImageStore, image: Image) -> int:
    """Removes an image that nothing lies upon; the bytes that it took. Raises InUse, and BlockingIOError while one of its
    family is being built."""
    with store.held_still(image.family):
        if why := why_kept(store, image, uses(store), time.time()):
            raise InUse(f"image {image.digest} ({image.family}) stays: {why}")
        size_bytes = image.stored_bytes
        store.clear(image.family)
        aside = store.cache / f"{GONE}{image.family}-{image.digest}"
        image.folder.rename(aside)
        shutil.rmtree(aside)
    return size_bytes


def _below(store: ImageStore, disks: DiskFolder) -> list[str]:
    """The image of each disk there, by its digest."""
    notes = [disks.note(uid) for uid in disks.uids()]
    folders = [Path(note.image) for note in notes if note is not None and note.image]
    folders += [Path(work.image) for work in disks.works() if work.image]
    return [folder.name for folder in folders if folder.parent == store.cache]


def _folders(store: ImageStore) -> dict[Path, Path]:
    """The data folder of each cloud by the note that names it."""
    found = {note: read_json(note) or {} for note in sorted(_clouds(store).glob("*.json"))}
    return {note: Path(str(said.get("data") or "/?")) for note, said in found.items()}


def _passed(data: Path) -> bool:
    return data.is_relative_to(tempfile.gettempdir()) and not data.exists()


def _clouds(store: ImageStore) -> Path:
    return store.cache / "clouds"


def _listed(folders: Sequence[Path]) -> str:
    more = f" and {len(folders) - 3} more" if len(folders) > 3 else ""
    return ", ".join(str(folder) for folder in folders[:3]) + more
