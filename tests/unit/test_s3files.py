"""Files to S3 and back: parts, what is taken up again, what is compared, and keys that would lead out of a folder."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hansa.cli.bucketcopy import Had, _below, files_in, is_file_name, missing, run_deletions
from hansa.cli.bucketwords import Address
from hansa.errors import Conflict, HansaError, Invalid, NotFound
from hansa.sdk import s3files
from hansa.sdk.s3 import DELETED_AT_ONCE, S3, Endpoint
from hansa.sdk.s3files import PARTS_MAX, SIZE_MAX, Transfers, crc_text, part_size, parts_of
from hansa.sdk.s3sign import Pair

KIB = 1024


class FakeS3:
    """What transfers ask of S3, over bytes in memory. `fails`: numbers of parts that break once."""

    class endpoint:  # noqa: N801 - an attribute with attributes
        url = "http://nowhere"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.sent: list[int] = []
        self.got: list[int] = []
        self.fails: set[int] = set()
        self.etag = '"e1"'
        self.crc = True

    def put(self, bucket: str, key: str, body: bytes, headers: Mapping[str, str]) -> str:
        assert headers["x-amz-checksum-crc32"] == crc_text(zlib.crc32(body))
        self.objects[key] = body
        return self.etag

    def begin(self, bucket: str, key: str, headers: Mapping[str, str]) -> str:
        upload = f"u{len(self.uploads)}"
        self.uploads[upload] = {}
        return upload

    def put_part(self, bucket: str, key: str, upload: str, number: int, body: bytes, headers: Mapping[str, str]) -> str:
        if number in self.fails:
            self.fails.discard(number)
            raise HansaError(f"part {number} broke")
        self.sent.append(number)
        self.uploads[upload][number] = body
        return f'"p{number}"'

    def parts(self, bucket: str, key: str, upload: str) -> dict[int, tuple[int, str, str]]:
        if upload not in self.uploads:
            raise NotFound("no such upload")
        return {n: (len(b), f'"p{n}"', crc_text(zlib.crc32(b))) for n, b in self.uploads[upload].items()}

    def abort(self, bucket: str, key: str, upload: str) -> None:
        del self.uploads[upload]

    def complete(self, bucket: str, key: str, upload: str, parts: Any, headers: Mapping[str, str]) -> None:
        held = self.uploads.pop(upload)
        body = b"".join(held[number] for number, _, _ in parts)
        assert headers["x-amz-checksum-crc32"] == crc_text(zlib.crc32(body))
        self.objects[key] = body

    def head(self, bucket: str, key: str) -> Mapping[str, str]:
        body = self.objects[key]
        said = {"content-length": str(len(body)), "etag": self.etag}
        return {**said, "x-amz-checksum-crc32": crc_text(zlib.crc32(body))} if self.crc else said

    def get(self, bucket: str, key: str, *, start: int = 0, size: int | None = None, etag: str = "") -> bytes:
        if etag != self.etag:
            raise Conflict("another one by now")
        number = start // s3files.PART + 1
        if number in self.fails:
            self.fails.discard(number)
            raise HansaError(f"part {number} broke")
        self.got.append(number)
        body = self.objects[key]
        return body[start:] if size is None else body[start : start + size]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeS3:
    monkeypatch.setattr(s3files, "PART", 64 * KIB)
    monkeypatch.setattr(s3files, "MIB", KIB)
    monkeypatch.setattr(s3files, "WHOLE_MAX", 100 * KIB)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return FakeS3()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "film"
    made.write_bytes(bytes(number * 7 % 251 for number in range(500 * KIB)))
    return made


def transfers(s3: FakeS3, moved: list[int] | None = None) -> Transfers:
    return Transfers(s3, 3, (moved if moved is not None else []).append)  # type: ignore[arg-type]


def test_an_object_of_any_size_has_few_enough_parts() -> None:
    for size in (1, 8 << 20, 80_000 << 20, SIZE_MAX):
        assert len(range(0, size, part_size(size))) <= PARTS_MAX
    assert [p.size for p in parts_of(20 << 20)] == [8 << 20, 8 << 20, 4 << 20]


def test_what_is_small_goes_whole_and_what_is_large_in_parts(s3: FakeS3, file: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"few")
    moved: list[int] = []
    with transfers(s3, moved) as it:
        it.upload(small, "b", "small")
        it.upload(file, "b", "film")
    assert s3.objects == {"small": b"few", "film": file.read_bytes()}
    assert sorted(s3.sent) == list(range(1, 9)) and sum(moved) == 3 + 500 * KIB


def test_an_upload_that_broke_off_goes_on_where_it_was(s3: FakeS3, file: Path) -> None:
    s3.fails = {6}
    with transfers(s3) as it, pytest.raises(HansaError, match="part 6 broke"):
        it.upload(file, "b", "film")
    before = set(s3.sent)
    assert 0 < len(before) < 8 and s3.objects == {}
    s3.sent.clear()
    with transfers(s3) as it:
        it.upload(file, "b", "film")
    assert s3.objects["film"] == file.read_bytes() and not before & set(s3.sent)


def test_an_upload_that_is_over_begins_anew(s3: FakeS3, file: Path) -> None:
    s3.fails = {2}
    with transfers(s3) as it, pytest.raises(HansaError):
        it.upload(file, "b", "film")
    s3.uploads.clear()
    with transfers(s3) as it:
        it.upload(file, "b", "film")
    assert s3.objects["film"] == file.read_bytes()


@pytest.mark.parametrize("after", [b"another", b"z" * (600 * KIB)], ids=["shorter", "longer"])
def test_a_file_that_changes_meanwhile_is_no_object(s3: FakeS3, file: Path, tmp_path: Path, after: bytes) -> None:
    def meddling(*words: Any) -> str:
        file.write_bytes(after)
        return '"p"'

    s3.put_part = meddling  # type: ignore[method-assign]
    with transfers(s3) as it, pytest.raises(Conflict):
        it.upload(file, "b", "film")
    assert s3.objects == {}
    assert s3.uploads == {} and list((tmp_path / "cache").rglob("?" * 32)) == []  # nor parts that nobody comes back for


def test_a_download_goes_on_where_it_was_and_appears_whole(s3: FakeS3, file: Path, tmp_path: Path) -> None:
    s3.objects["film"] = file.read_bytes()
    s3.fails = {5}
    target = tmp_path / "deep/back"
    with transfers(s3) as it, pytest.raises(HansaError, match="part 5 broke"):
        it.download("b", "film", target)
    assert not target.exists()
    before = set(s3.got)
    s3.got.clear()
    with transfers(s3) as it:
        it.download("b", "film", target)
    assert target.read_bytes() == file.read_bytes() and not before & set(s3.got)
    assert sorted(p.name for p in target.parent.iterdir()) == ["back"]


def test_another_object_by_then_begins_anew(s3: FakeS3, file: Path, tmp_path: Path) -> None:
    s3.objects["film"] = file.read_bytes()
    s3.fails = {3}
    with transfers(s3) as it, pytest.raises(HansaError):
        it.download("b", "film", tmp_path / "back")
    s3.objects["film"], s3.etag = file.read_bytes()[::-1], '"e2"'
    with transfers(s3) as it:
        it.download("b", "film", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes()[::-1]


@pytest.mark.parametrize("size", [10, 500 * KIB])
def test_other_bytes_than_were_stored_are_thrown_away(s3: FakeS3, tmp_path: Path, size: int) -> None:
    s3.objects["film"] = b"a" * size
    head = s3.head("b", "film")
    s3.objects["film"] = b"a" * (size - 1) + b"b"
    s3.head = lambda bucket, key: head  # type: ignore[method-assign]
    with transfers(s3) as it, pytest.raises(HansaError, match="other bytes"):
        it.download("b", "film", tmp_path / "back")
    assert list(tmp_path.glob("*back*")) == []


# -- folders ----------------------------------------------------------------------------------------


def test_names_that_lead_out_of_a_folder_are_no_names(capsys: pytest.CaptureFixture[str]) -> None:
    for good in ("a", "a/b", "..a/b..", "ü x+%", "a\\b"):
        assert is_file_name(good), good
    for bad in ("", "..", "../x", "a/../b", "/etc/passwd", "a//b", "a/.", "a/", "x\0y", "n" * 256):
        assert not is_file_name(bad), bad
    assert _below("folder", "../x") is None and "no name of a file" in capsys.readouterr().err
    assert str(_below("s3://b/p", "../x")) == "s3://b/p/../x"  # a key like any other


def test_what_is_missing_smaller_or_older_is_copied() -> None:
    here = {"same": Had(1, 100.0), "new": Had(1, 1.0), "grown": Had(2, 1.0), "younger": Had(1, 300.0)}
    there = {"same": Had(1, 100.5), "grown": Had(1, 9.0), "younger": Had(1, 200.0), "gone": Had(1, 1.0)}
    assert missing(here, there, size_only=False) == ["grown", "new", "younger"]
    assert missing(here, there, size_only=True) == ["grown", "new"]


def test_files_below_a_folder_without_what_is_unfinished(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/f").write_text("x")
    (tmp_path / "a/.f.hansa-part").write_text("x")
    (tmp_path / "a/dangling").symlink_to("nowhere")
    assert list(files_in(tmp_path)) == ["a/b/f"]


# -- deletions --------------------------------------------------------------------------------------


def test_objects_go_by_the_thousand_and_what_stays_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    class Many:
        asked: list[int] = []

        def delete_many(self, bucket: str, keys: list[str]) -> list[tuple[str, str]]:
            self.asked.append(len(keys))
            return [(key, "locked") for key in keys if key == "k1500"]

    every = (Address("b", f"k{n}") for n in range(2 * DELETED_AT_ONCE + 5))
    with pytest.raises(HansaError, match="1 could not be deleted"):
        run_deletions(Many(), every)  # type: ignore[arg-type]
    said = capsys.readouterr()
    assert Many.asked == [DELETED_AT_ONCE, DELETED_AT_ONCE, 5]
    assert said.out.count("deleted s3://b/k") == 2 * DELETED_AT_ONCE + 4 and "k1500" not in said.out
    assert said.err == "error: s3://b/k1500: locked\n"
    with pytest.raises(Invalid, match="keys"):  # nothing is sent
        S3(Endpoint("http://127.0.0.1:1", Pair("a", "b", "r"))).delete_many("b", ["k"] * (DELETED_AT_ONCE + 1))


def test_a_file_that_cannot_be_deleted_keeps_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "stays").mkdir()
    (tmp_path / "goes").write_text("x")
    with pytest.raises(HansaError, match="1 could not be deleted"):
        run_deletions(FakeS3(), [tmp_path / "stays", tmp_path / "goes"], quiet=True)  # type: ignore[arg-type]
    said = capsys.readouterr()
    assert [p.name for p in tmp_path.iterdir()] == ["stays"] and said.out == "" and "stays: " in said.err
