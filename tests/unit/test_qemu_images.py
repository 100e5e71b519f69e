"""The image cache: who is the latest, what a build says of itself, and when a failed one is tried again."""

import io
import os
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from hansa.cli.image import image_command
from hansa.data import catalogue
from hansa.engines.qemu import image_debian, image_tiny, images
from hansa.engines.qemu.apt import Archive as Apt
from hansa.engines.qemu.apt import Package
from hansa.engines.qemu.cpio import Archive
from hansa.engines.qemu.deadline import Deadline
from hansa.engines.qemu.files import read_json, write_file, write_json
from hansa.engines.qemu.folder import Folders
from hansa.engines.qemu.images import Building, Image, ImageStore, Unavailable, default_cache
from hansa.engines.qemu.names import checked, short
from hansa.engines.qemu.recipe import Work
from hansa.errors import Invalid, Refused
from hansa.units import to_bytes


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageStore:
    started: list[list[str]] = []
    monkeypatch.setattr(images, "spawn", lambda command, _stderr: started.append(command) or os.getpid())
    made = ImageStore(tmp_path / "cache")
    made.cache.mkdir()
    made.started = started  # type: ignore[attr-defined]
    return made


def put(store: ImageStore, digest: str, family: str = "tiny", recipe: str | None = None) -> None:
    made = images.RECIPES[family]
    folder = store.cache / digest
    folder.mkdir()
    (folder / "disk.qcow2").touch()
    write_json(
        folder / "image.json",
        {
            "family": family, "osImage": made.os_image, "osVersion": made.os_version, "sizeBytes": 1 << 26,
            "defaultBytes": made.default_bytes, "append": made.append, "builtAt": 1.0,
            "packages": ["linux-image-6.1.0-1-cloud-amd64=6.1.9-1", "sudo=1"], "recipe": recipe or store._recipe(family),
        },
    )  # fmt: skip
    store._point(family, digest)


def note(store: ImageStore, state: str, age_s: float, failures: int = 0, family: str = "tiny") -> None:
    said = {"state": state, "progress": 0.5, "message": "said", "failures": failures, "at": time.time() - age_s}
    write_json(store.cache / f"build-{family}.json", said)


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


def test_many_who_ask_at_once_start_one_build(store: ImageStore) -> None:
    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(lambda _number: store.ensure("tiny"), range(200)))
    assert all(isinstance(answer, Building) for answer in answers), answers
    assert len(store.started) == 1  # type: ignore[attr-defined]


def test_a_running_build_says_how_far_it_is(store: ImageStore) -> None:
    note(store, "building", 60)
    with images._locked(store.cache / "build-tiny.lock"):
        assert store.ensure("tiny") == Building(0.5, "said")


def test_a_long_build_does_not_hold_up_another_family(store: ImageStore) -> None:
    with images._locked(store.cache / "build-debian.lock"):
        assert store.building("tiny") is None
        assert isinstance(store.ensure("tiny"), Building)
    assert store.started[0][-1] == "tiny"  # type: ignore[attr-defined]


def test_who_builds_waits_for_another_builder_with_a_limit(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_TURN_LIMIT_S", 0.05)
    monkeypatch.setattr(images, "_TURN_POLL_S", 0.01)
    note(store, "building", 60)
    told: list[tuple[float, str]] = []
    with images._locked(store.cache / "build-tiny.lock"), pytest.raises(Refused, match="does not end"):
        store.build("tiny", lambda share, doing: told.append((share, doing)))
    assert set(told) == {(0.5, "said")}


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


def test_every_family_is_in_the_catalogue_as_what_it_is() -> None:
    told = catalogue.images(stand_ins=True)
    assert {family for _, family in told.values()} == set(images.FAMILIES)
    for name, (spec, family) in told.items():
        recipe = images.RECIPES[family]
        assert (spec["osImage"], spec["osVersion"]) == (recipe.os_image, recipe.os_version)
        assert to_bytes(**spec["defaultSize"]) == recipe.default_bytes
        assert name in ("tiny.1", "debian.12-1") or f"Stands in for {name}" in spec["description"]
    assert told["debian.12-1"][1] == "debian"
    assert {family for _, family in catalogue.images(stand_ins=False).values()} == {"tiny", "debian", ""}


def test_the_guests_own_files_are_part_of_the_recipe(store: ImageStore) -> None:
    assert store._recipe("tiny") != store._recipe("debian")
    assert (Path(image_tiny.__file__).parent / "guest/tiny/init").read_bytes() in image_tiny.ours()
    assert b"etc/cloud/cloud.cfg.d/90_hansa.cfg" in image_debian.ours()


def test_the_list_says_of_each_image_how_far_it_is(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANSA_IMAGE_CACHE", str(store.cache))

    def listed() -> list[str]:
        return CliRunner().invoke(image_command, ["ls"]).output.splitlines()[1:]

    assert [line.split()[:5] for line in listed()] == [
        ["tiny", "tiny", "1", "not", "built"],
        ["debian", "debian", "12", "not", "built"],
    ]
    put(store, "old", recipe="of yesterday")
    put(store, "new")
    note(store, "failed", 1, family="debian")
    tiny, debian, old = listed()
    assert "ready" in tiny and "2 Debian packages, kernel 6.1.9-1" in tiny
    assert "failed" in debian and debian.endswith("said")
    assert old.split()[3] == "superseded"
    with images._locked(store.cache / "build-debian.lock"):
        assert "building 50%" in listed()[1]


def test_a_build_in_the_background_is_started_and_not_waited_for(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANSA_IMAGE_CACHE", str(store.cache))
    said = CliRunner().invoke(image_command, ["build", "--background", "debian"])
    assert said.exit_code == 0 and "hansa image ls" in said.output
    assert store.started[0][-2:] == ["build", "debian"]  # type: ignore[attr-defined]


def test_what_the_debian_image_needs_of_its_host_is_told_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_debian.shutil, "which", lambda name, path: None if name == "mmdebstrap" else name)
    with pytest.raises(Refused, match="mmdebstrap is missing: run scripts/install"):
        image_debian._check_host()
    monkeypatch.setattr(image_debian.shutil, "which", lambda name, path: name)
    monkeypatch.setattr(image_debian.Path, "exists", lambda path: True)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setattr(image_debian.Path, "read_text", lambda path: "54321:100000:65536\n")
    image_debian._check_host()
    monkeypatch.setattr(image_debian.Path, "read_text", lambda path: "somebody:100000:65536\n")
    with pytest.raises(Refused, match="usermod --add-subuids .* 54321"):
        image_debian._check_host()


def test_progress_is_read_from_what_apt_and_dpkg_say(tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []
    packages = tuple(Package(f"p{number}", "1", "") for number in range(4))
    apt = Apt(tmp_path, Deadline(1))
    work = Work(tmp_path, tmp_path, apt, packages, "d", Deadline(1), lambda share, doing: told.append((share, doing)))
    progress = image_debian._Progress(work)
    progress("I: downloading packages with apt...")
    for number in range(4):
        progress(f"Get:{number} http://mirror bookworm/main amd64 p{number} amd64 1 [12 kB]")
    for number in range(6):  # more than was thought: never beyond the end of this part
        progress(f"Unpacking p{number} (1) ...")
        progress(f"Setting up p{number} (1) ...")
    shares = [share for share, _ in told]
    assert shares == sorted(shares) and len(set(shares)) == len(shares)
    assert shares[-1] == pytest.approx(image_debian._FILL_SHARE)
    assert (told[0][1], told[-1][1]) == ("fetching 4 Debian packages", "installing 4 Debian packages")


def test_the_image_lists_what_was_installed(tmp_path: Path) -> None:
    status = (
        "Package: sudo\nStatus: install ok installed\nVersion: 1.9-1\n\nPackage: apt\nVersion: 2.6\nDescription: x\n"
    )
    with tarfile.open(tmp_path / "root.tar", "w") as archive:
        member = tarfile.TarInfo("./var/lib/dpkg/status")
        member.size = len(status)
        archive.addfile(member, io.BytesIO(status.encode()))
    assert image_debian._installed(tmp_path / "root.tar") == ["apt=2.6", "sudo=1.9-1"]


def test_files_of_ours_belong_to_root_and_programs_may_be_run(tmp_path: Path) -> None:
    image_debian._archive(tmp_path / "late.tar", image_debian._tree(), 1)
    with tarfile.open(tmp_path / "late.tar") as archive:
        members = {member.name: member for member in archive}
    assert members.keys() >= {"./etc/fstab", "./usr/local/sbin/update-boot-partition"}
    assert all((member.uid, member.gid, member.isfile()) == (0, 0, True) for member in members.values())
    for name, member in members.items():
        assert member.mode == (0o755 if name.startswith("./usr/local/sbin/") else 0o644)


class Told(Deadline):
    """Answers of apt as it gives them, without apt."""

    def __init__(self, **answers: str) -> None:
        super().__init__(1)
        self.answers = answers
        self.asked: list[str] = []

    def run(self, *command: object, **_more: object) -> str:
        self.asked.append(" ".join(map(str, command)))
        return next((text for word, text in self.answers.items() if word in self.asked[-1]), "")


def test_only_debians_own_sources_of_the_release_are_used(tmp_path: Path) -> None:
    file = tmp_path / "Packages"
    file.touch()
    os.utime(file, (5, 1000))
    targets = [
        f"bookworm stable http://mirror/debian/ main amd64 Debian {file}",
        f"bookworm-security stable-security http://mirror/security/ main amd64 Debian {file}",
        f"bookworm stable http://mirror/debian/ main i386 Debian {file}",
        f"trixie trixie http://mirror/debian/ main amd64 Debian {file}",
        f"bookworm other http://elsewhere/ main amd64 Elsewhere {file}",
    ]
    release = Apt(tmp_path, Told(indextargets="\n".join(targets))).release("bookworm")
    assert release.sources == (
        "deb http://mirror/debian/ stable main",
        "deb http://mirror/security/ stable-security main",
    )
    assert release.indexed_at == 1000
    with pytest.raises(Refused, match="no source of Debian forky"):
        Apt(tmp_path / "own", Told(indextargets="\n".join(targets))).release("forky")


def test_a_system_is_resolved_as_on_a_machine_without_packages(tmp_path: Path) -> None:
    told = Told(
        install="'http://mirror/s/sudo_1%3a1.9-1_amd64.deb' sudo_1%3a1.9-1_amd64.deb 10 SHA256:ab\n"
        "'http://mirror/a/apt_2.6_amd64.deb' apt_2.6_amd64.deb 10 SHA256:cd\n",
        indextargets=f"bookworm bookworm http://mirror/ main amd64 Debian {tmp_path}",
    )
    apt = Apt(tmp_path / "apt", told)
    found = apt.system(apt.release("bookworm"), ["sudo"])
    assert found == [Package("apt", "2.6", "SHA256:cd"), Package("sudo", "1:1.9-1", "SHA256:ab")]
    assert "Dir::State::Status=/dev/null" in told.asked[-1]
    assert told.asked[-1].endswith("?essential sudo")
    assert (tmp_path / "apt/bookworm.list").read_text() == "deb http://mirror/ bookworm main\n"


def test_a_long_command_is_heard_line_by_line_and_its_error_is_told() -> None:
    lines: list[str] = []
    said = "print('one'); print('two', end='')"
    Deadline(10).follow("it", sys.executable, "-c", said, on_line=lines.append)
    assert lines == ["one", "two"]
    failing = "print('E: no room'); print('W: tidying'); raise SystemExit(3)"
    with pytest.raises(Refused, match="it failed: E: no room"):
        Deadline(10).follow("it", sys.executable, "-c", failing, on_line=lines.append)
    with pytest.raises(Refused, match="run scripts/install"):
        Deadline(10).follow("it", "/no/such/program", on_line=lines.append)


def test_a_command_that_never_stops_talking_ends_at_the_limit() -> None:
    began = time.monotonic()
    with pytest.raises(Refused, match="it did not end in time"):
        Deadline(0.2).follow("it", "yes", on_line=lambda _line: None)
    assert time.monotonic() - began < 5


def test_modules_are_loaded_after_what_they_need(tmp_path: Path) -> None:
    for name, depends in (("b", "a-dash"), ("a-dash", ""), ("c", "b,a_dash")):
        (tmp_path / f"{name}.ko").write_bytes(b"\0depends=" + depends.encode() + b"\0")
    order = image_tiny.module_order(tmp_path, ["c", "b", "builtin"])
    assert [path.stem for path in order] == ["a-dash", "b", "c"]


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
    folder.trim()
    assert folder.console.stat().st_size == 0
    folder.console.write_bytes(b"new")
    assert folder.tail(6) == b"endnew"
    assert folder.tail(2) == b"ew"
    folder.erase()
    folder.erase()
    assert not folder.path.exists()


def test_a_cache_named_from_here_is_found_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk in another folder names its image, and qemu-img reads a relative name from that folder."""
    monkeypatch.chdir(tmp_path)
    here = ImageStore(Path("cache"))
    assert here.cache == tmp_path / "cache" and here.cache.is_absolute()
