"""The image cache: who is the latest, what a build says of itself, and when a failed one is tried again."""

import os
import time
from pathlib import Path

import pytest

from hansa.engines.qemu import images, tiny
from hansa.engines.qemu.cpio import Archive
from hansa.engines.qemu.files import read_json, write_file, write_json
from hansa.engines.qemu.folder import Folders
from hansa.engines.qemu.images import Building, Image, ImageStore, Unavailable, default_cache
from hansa.engines.qemu.names import checked, short
from hansa.errors import Invalid, Refused


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageStore:
    started: list[list[str]] = []
    monkeypatch.setattr(images, "spawn", lambda command, _stderr: started.append(command) or os.getpid())
    made = ImageStore(tmp_path / "cache")
    made.cache.mkdir()
    made.started = started  # type: ignore[attr-defined]
    return made


def put(store: ImageStore, digest: str, recipe: str | None = None) -> None:
    folder = store.cache / digest
    folder.mkdir()
    (folder / "disk.qcow2").touch()
    write_json(
        folder / "image.json",
        {
            "family": "tiny", "osImage": "tiny", "osVersion": "1", "sizeBytes": tiny.DISK_BYTES,
            "defaultBytes": tiny.DEFAULT_BYTES, "append": tiny.APPEND, "builtAt": 1.0, "packages": [],
            "recipe": recipe or store._recipe("tiny"),
        },
    )  # fmt: skip
    store._point("tiny", digest)


def note(store: ImageStore, state: str, age_s: float, failures: int = 0) -> None:
    said = {"state": state, "progress": 0.5, "message": "said", "failures": failures, "at": time.time() - age_s}
    write_json(store.cache / "build-tiny.json", said)


def test_the_latest_image_of_todays_recipe_is_found(store: ImageStore) -> None:
    assert store.find("tiny") is None
    put(store, "one")
    put(store, "two")
    found = store.find("tiny")
    assert found is not None
    assert found.digest == "two"
    assert [image.digest for image in store.held()] == ["one", "two"]
    put(store, "three", recipe="of yesterday")
    assert store.find("tiny") is None


def test_a_missing_image_is_built_in_a_process_of_its_own(store: ImageStore) -> None:
    assert isinstance(store.ensure("tiny"), Building)
    assert isinstance(store.ensure("tiny"), Building)
    assert len(store.started) == 1  # type: ignore[attr-defined]
    put(store, "one")
    assert isinstance(store.ensure("tiny"), Image)


def test_a_running_build_says_how_far_it_is(store: ImageStore) -> None:
    note(store, "building", 60)
    with images._locked(store.cache / "build.lock"):
        assert store.ensure("tiny") == Building(0.5, "said")


def test_a_failed_build_is_tried_again_after_a_pause_that_grows(store: ImageStore) -> None:
    note(store, "failed", 20, failures=1)
    assert store.ensure("tiny") == Unavailable("said")
    note(store, "failed", 40, failures=2)
    assert store.ensure("tiny") == Unavailable("said")
    note(store, "failed", 40, failures=1)
    assert isinstance(store.ensure("tiny"), Building)


def test_a_builder_that_was_killed_is_followed_by_one_more_and_then_by_a_pause(store: ImageStore) -> None:
    note(store, "building", 60)
    assert isinstance(store.ensure("tiny"), Building)
    note(store, "building", 60, failures=1)
    assert isinstance(store.ensure("tiny"), Unavailable)
    assert isinstance(store.ensure("tiny"), Unavailable)


def test_a_build_that_fails_leaves_its_reason(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Refused) as error:
        store.build("tiny")
    assert error.value.why == "ImageUnavailable"
    said = store.ensure("tiny")
    assert isinstance(said, Unavailable)
    assert "scripts/install" in said.message


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HANSA_IMAGE_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("HANSA_IMAGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert default_cache() == tmp_path / "hansa/images"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_cache() == Path("/var/cache/hansa/images")


def test_modules_are_loaded_after_what_they_need(tmp_path: Path) -> None:
    for name, depends in (("b", "a-dash"), ("a-dash", ""), ("c", "b,a_dash")):
        (tmp_path / f"{name}.ko").write_bytes(b"\0depends=" + depends.encode() + b"\0")
    assert [path.stem for path in tiny.module_order(tmp_path, ["c", "b", "builtin"])] == ["a-dash", "b", "c"]


def test_an_archive_has_its_folders_before_their_files_and_no_time_in_it() -> None:
    def archive() -> bytes:
        made = Archive()
        made.file("a/b/c", b"text", 0o755)
        made.link("a/d", "b/c")
        return made.done()

    assert archive() == archive()
    places = [archive().index(name) for name in (b"a\0", b"a/b\0", b"a/b/c\0", b"a/d\0", b"TRAILER!!!\0")]
    assert places == sorted(places)
    assert len(archive()) % 4 == 0


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    write_file(tmp_path / "f", b"old")
    write_json(tmp_path / "f", {"new": 1})
    assert read_json(tmp_path / "f") == {"new": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]
    assert read_json(tmp_path / "g") is None


def test_only_a_uid_becomes_a_path(tmp_path: Path) -> None:
    uid = "0f0e0d0c-1111-4222-8333-444444444444"
    assert (checked(uid), short(uid)) == (uid, "0f0e0d0c11114222")
    for text in ("", "..", "../../etc", uid.upper(), f"{uid}/x"):
        with pytest.raises(Refused):
            checked(text)
    with pytest.raises(Invalid):
        Folders(tmp_path, Path("/" + "x" * 100))


def test_a_console_is_read_from_its_end_over_the_older_log(tmp_path: Path) -> None:
    folder = Folders(tmp_path, tmp_path / "run").of("0f0e0d0c-1111-4222-8333-444444444444")
    assert folder.tail(10) == b""
    folder.prepare(b"")
    folder.console.write_bytes(b"x" * (1 << 20) + b"end")
    folder.trim_console()
    assert folder.console.stat().st_size == 0
    folder.console.write_bytes(b"new")
    assert folder.tail(6) == b"endnew"
    assert folder.tail(2) == b"ew"
    folder.erase()
    folder.erase()
    assert not folder.path.exists()
