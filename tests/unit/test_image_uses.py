"""Superseded images: which disks lie upon them, and that none goes that a disk may need."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hansa.cli.image import image_command
from hansa.engines.qemu import image_uses, images
from hansa.engines.qemu.diskfolder import DiskFolder, Note, Work
from hansa.engines.qemu.image_uses import QUIET_S, Uses, enter, remove, uses
from hansa.engines.qemu.images import ImageStore
from hansa.errors import InUse

from .test_qemu_images import put


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageStore:
    """Two superseded images, and one that is the latest for an hour."""
    monkeypatch.setenv("HANSA_IMAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_uses.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    made = ImageStore()
    made.cache.mkdir()
    for digest in ("aa11", "ab22", "cc33"):
        put(made, digest)
    settle(made)
    return made


def settle(store: ImageStore, age_s: float = 3600) -> None:
    moment = time.time() - age_s
    os.utime(store.cache / "latest-tiny", (moment, moment), follow_symlinks=False)


def disk(store: ImageStore, data: Path, digest: str) -> str:
    """A disk upon an image in a data folder, as the engine makes it."""
    uid, folder = str(uuid.uuid4()), DiskFolder(data)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_note(uid, Note(1, str(store.cache / digest), str(store.cache / digest / "disk.qcow2")))
    folder.disk(uid).touch()
    return uid


def said(*words: str) -> Result:
    return CliRunner().invoke(image_command, list(words))


def there(store: ImageStore) -> list[str]:
    return [image.digest for image in store.held()]


def test_what_a_disk_of_any_cloud_lies_upon_stays(store: ImageStore, tmp_path: Path) -> None:
    for cloud, digest in (("one", "aa11"), ("two", "aa11"), ("three", "cc33")):
        enter(store, cloud, tmp_path / cloud)
        disk(store, tmp_path / cloud, digest)
    assert uses(store).disks == {"aa11": 2, "cc33": 1}
    with pytest.raises(InUse, match="2 disk"):
        remove(store, store.held()[0])
    ran = said("rm", "--unused")
    assert ran.exit_code == 0 and "ab22 (tiny): removed" in ran.output and "2 stay" in ran.output
    assert there(store) == ["aa11", "cc33"]


def test_the_list_says_how_many_disks_lie_upon_each(store: ImageStore, tmp_path: Path) -> None:
    enter(store, "one", tmp_path / "one")
    disk(store, tmp_path / "one", "aa11")
    lines = said("ls").output.splitlines()
    column = lines[0].index("DISKS")
    counts = {line[column:].split()[1]: line[column:].split()[0] for line in lines[1:] if "Debian packages" in line}
    assert counts == {"cc33": "0", "aa11": "1", "ab22": "0"}
    enter(store, "two", tmp_path / "away")
    counts = {line[column:].split()[1]: line[column:].split()[0] for line in said("ls").output.splitlines()[1:]}
    assert (counts["aa11"], counts["ab22"]) == ("1", "?")


def test_a_copy_that_is_being_made_counts(store: ImageStore, tmp_path: Path) -> None:
    enter(store, "one", tmp_path)
    DiskFolder(tmp_path).write_work(Work(str(uuid.uuid4()), image=str(store.cache / "ab22")))
    assert uses(store).disks == {"ab22": 1}


def test_the_latest_stays_and_what_was_superseded_a_moment_ago(store: ImageStore) -> None:
    latest = store.find("tiny")
    assert latest is not None
    with pytest.raises(InUse, match="new disks of tiny lie upon it"):
        remove(store, latest)
    settle(store, QUIET_S - 5)
    with pytest.raises(InUse, match="a moment ago"):
        remove(store, store.held()[0])
    settle(store, QUIET_S + 5)
    assert remove(store, store.held()[0]) >= 0 and there(store) == ["ab22", "cc33"]
    assert not list(store.cache.glob(".gone-*"))


def test_what_a_killed_removal_left_goes_with_the_next_of_its_family(store: ImageStore) -> None:
    left, other = (store.cache / f".gone-{name}-dd44" for name in ("tiny", "debian"))
    for folder in (left, other):
        folder.mkdir()
        (folder / "disk.qcow2").touch()
    remove(store, store.held()[0])
    assert list(store.cache.glob(".gone-*")) == [other]


def test_a_folder_that_cannot_be_asked_keeps_everything(store: ImageStore, tmp_path: Path) -> None:
    away = tmp_path / "away"
    enter(store, "one", away)
    ran = said("rm", "--unused")
    assert ran.exit_code == 0 and "3 stay" in ran.output and f"{away} is not there to be asked" in ran.output
    refused = said("rm", "aa11")
    assert isinstance(refused.exception, InUse) and "--gone-folders" in refused.exception.message
    ran = said("rm", "--unused", "--gone-folders")
    assert f"{away}: gone for good" in ran.output and there(store) == ["cc33"]


def test_a_temporary_folder_that_is_gone_keeps_nothing(store: ImageStore, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary" / "one"
    enter(store, "one", temporary)
    disk(store, temporary, "aa11")
    assert uses(store).disks == {"aa11": 1}
    shutil.rmtree(temporary)
    assert uses(store) == Uses({})
    enter(store, "two", tmp_path)
    assert [note.stem for note in (store.cache / "clouds").iterdir()] == ["two"]


def test_a_disk_without_a_note_keeps_everything(store: ImageStore, tmp_path: Path) -> None:
    enter(store, "one", tmp_path)
    uid = disk(store, tmp_path, "aa11")
    DiskFolder(tmp_path)._note(uid).write_text("{")
    assert uses(store).closed == (DiskFolder(tmp_path).disk(uid),)
    with pytest.raises(InUse, match="cannot be read"):
        remove(store, store.held()[1])


def test_a_folder_of_somebody_else_keeps_everything(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(store, "one", tmp_path)
    monkeypatch.setattr(image_uses.os, "access", lambda path, mode: False)
    assert "cannot be read: ask as the user" in said("rm", "--unused").output and len(there(store)) == 3


def test_nothing_goes_while_an_image_of_the_family_is_built(store: ImageStore) -> None:
    with images._locked(store.cache / "build-tiny.lock"):
        refused = said("rm", "aa11")
    assert isinstance(refused.exception, InUse) and "is being built" in refused.exception.message
    assert len(there(store)) == 3


def test_a_cloud_that_moved_is_known_by_its_new_folder(store: ImageStore, tmp_path: Path) -> None:
    enter(store, "one", tmp_path / "old")
    enter(store, "one", tmp_path)
    assert uses(store).missing == ()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "say --unused"),
        (("aa11", "--unused"), "say --unused"),
        (("a",), "2 images begin with"),
        (("x",), "no image"),
    ],
)
def test_what_is_to_go_must_be_clear(store: ImageStore, words: tuple[str, ...], told: str) -> None:
    ran = said("rm", *words)
    assert ran.exit_code != 0 and told in ran.output + str(ran.exception)
    assert len(there(store)) == 3
