"""Images of this machine: where they are, which one is the latest of a family, and getting one built.

An image is a folder `<digest>/` in a cache that every cloud of the machine shares: `image.json`, `disk.qcow2` and,
for direct boot, `vmlinuz` and `initrd`, all read-only. The digest names recipe and packages, so a new build is a new
folder and disks keep pointing to theirs. What a family is made of stands in its own module; here is the table of them.
Building takes its own process, one at a time for each family, whose progress is a file:

    python -m hansa.engines.qemu.images build tiny
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hansa.engines.qemu import image_debian, image_tiny
from hansa.engines.qemu.apt import Archive, Package
from hansa.engines.qemu.deadline import Deadline
from hansa.engines.qemu.files import read_json, write_json
from hansa.engines.qemu.process import reap, spawn
from hansa.engines.qemu.qcow2 import head
from hansa.engines.qemu.recipe import Recipe, Report, Work
from hansa.errors import HansaError, Refused

RECIPES: dict[str, Recipe] = {"tiny": image_tiny.RECIPE, "debian": image_debian.RECIPE}
FAMILIES = tuple(RECIPES)
BUILD_LIMIT_S = 600.0
MAKING, GONE = ".build-", ".gone-"  # begin the names of folders that are not images yet, or no longer

_BACKOFF_S, _BACKOFF_MAX_S = 30.0, 600.0
_START_LIMIT_S = 10.0  # until a builder that was started holds the lock
_TURN_LIMIT_S = BUILD_LIMIT_S + 30.0  # until another builder of the family has ended
_TURN_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Image:
    """One built image. `size_bytes` is what its disk needs at least, `default_bytes` what one gets unasked."""

    family: str
    digest: str
    folder: Path
    os_image: str
    os_version: str
    size_bytes: int
    default_bytes: int
    append: str  # kernel command line for direct boot, empty: by firmware
    built_at: float
    packages: tuple[str, ...]

    @property
    def disk(self) -> Path:
        return self.folder / "disk.qcow2"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def stored_bytes(self) -> int:
        """What it takes of the cache."""
        return sum(file.stat().st_blocks * 512 for file in self.folder.iterdir())


@dataclass(frozen=True, slots=True)
class Building:
    """Not there yet: `progress` runs from 0 to 1, `message` says what is being done."""

    progress: float
    message: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """It could not be built; `message` says why and what to do. It is tried again after a pause."""

    message: str


def default_cache() -> Path:
    """The image cache of this machine: `HANSA_IMAGE_CACHE`, or the usual cache folder of root or of the user."""
    if given := os.environ.get("HANSA_IMAGE_CACHE"):
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/cache/hansa/images")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hansa/images"


def image_in(folder: Path) -> Image | None:
    """The image that `folder` holds, None when it holds none."""
    found = read_json(folder / "image.json")
    if found is None:
        return None
    return Image(
        family=found["family"],
        digest=folder.name,
        folder=folder,
        os_image=found["osImage"],
        os_version=found["osVersion"],
        size_bytes=found["sizeBytes"],
        default_bytes=found["defaultBytes"],
        append=found["append"],
        built_at=found["builtAt"],
        packages=tuple(found["packages"]),
    )


class ImageStore:
    """The images in one cache folder. Needs no other process and keeps nothing in memory but what it started."""

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = (cache or default_cache()).absolute()  # disks name their image from folders of their own
        self._recipes: dict[str, str] = {}
        self._builders: set[int] = set()
        self._asked = threading.Lock()  # many disks ask at once, each in a thread

    def find(self, family: str) -> Image | None:
        """The latest image of `family` that today's recipe made, None when there is none."""
        link = self.cache / f"latest-{family}"
        if not link.is_symlink():
            return None
        folder = self.cache / link.readlink()
        image = image_in(folder)
        return image if image and image.disk.exists() and self._recipe(family) == _recipe_of(folder) else None

    def held(self) -> list[Image]:
        """Every image in the cache, the superseded ones too."""
        folders = sorted(self.cache.iterdir()) if self.cache.is_dir() else []
        own = (f for f in folders if f.is_dir() and not f.is_symlink() and not f.name.startswith("."))
        found = (image_in(folder) for folder in own)
        return [image for image in found if image]

    def ensure(self, family: str) -> Image | Building | Unavailable:
        """The image, or how far its build is. Starts a build in a process of its own where none runs; never waits."""
        if family not in FAMILIES:
            return Unavailable(f"there is no image {family} on this host; there are: {', '.join(FAMILIES)}")
        with self._asked:
            self._builders -= {pid for pid in self._builders if reap(pid)}
            return self.find(family) or self.building(family) or self._begin(family)

    def _begin(self, family: str) -> Building | Unavailable:
        progress = self.progress(family)
        failures = progress.get("failures", 0)
        if progress.get("state") == "failed" and time.time() - progress.get("at", 0.0) < _pause_s(failures):
            return Unavailable(progress.get("message", "the build failed"))
        if progress.get("state") in ("starting", "building"):  # its process ended without a word
            failures += 1
            if failures > 1:
                said = f"the build of {family} ended without a word: see {self.cache / f'build-{family}.log'}"
                self._note(family, "failed", 0.0, said, failures)
                return Unavailable(said)
        return self._start(family, failures)

    def building(self, family: str) -> Building | None:
        """How far the build of `family` is that goes on now, None when none does. Starts nothing."""
        progress = self.progress(family)
        starting = progress.get("state") == "starting" and time.time() - progress.get("at", 0.0) < _START_LIMIT_S
        if starting or self._being_built(family):
            return Building(progress.get("progress", 0.0), progress.get("message", "building"))
        return None

    def progress(self, family: str) -> dict[str, Any]:
        """What the last build of `family` said: state (starting, building, failed, done), progress, message, at."""
        return read_json(self.cache / f"build-{family}.json") or {}

    def build(self, family: str, on_progress: Report = lambda _share, _doing: None) -> Image:
        """Build `family` here and now; while another builder is at it, wait and tell how far that one is.

        Blocks. Raises Refused (ImageUnavailable).
        """
        _make_cache(self.cache)
        with self._turn(family, on_progress):
            failures = self.progress(family).get("failures", 0)

            def report(share: float, doing: str, state: str = "building", failed: int = 0) -> None:
                self._note(family, state, share, doing, failed)
                on_progress(share, doing)

            try:
                report(0.0, "asking apt for versions", failed=failures)
                image = self._build(family, lambda share, doing: report(share, doing, failed=failures))
            except OSError as error:
                self._note(family, "failed", 0.0, f"the image cannot be built: {error}", failures + 1)
                raise Refused("ImageUnavailable", f"the image cannot be built in {self.cache}: {error}") from error
            except HansaError as error:
                self._note(family, "failed", 0.0, error.message, failures + 1)
                raise
            report(1.0, "built", "done")
            return image

    @contextlib.contextmanager
    def held_still(self, family: str) -> Iterator[None]:
        """Nobody builds an image of `family` meanwhile. Raises BlockingIOError while somebody does."""
        with _locked(self._lock(family)):
            yield

    def clear(self, family: str) -> None:
        """Take away what a build or a removal left that was killed. For the one that holds the lock of `family`."""
        for begin in (MAKING, GONE):
            for leftover in self.cache.glob(f"{begin}{family}-*"):
                shutil.rmtree(leftover)

    def _build(self, family: str, report: Report) -> Image:
        self.clear(family)
        deadline = Deadline(BUILD_LIMIT_S)
        with tempfile.TemporaryDirectory(prefix=f"{MAKING}{family}-", dir=self.cache) as name:
            aside, folder = Path(name) / "aside", Path(name) / "image"
            aside.mkdir()
            folder.mkdir()
            archive = Archive(aside / "apt", deadline)
            packages = RECIPES[family].packages(archive)
            digest = _digest(self._recipe(family), packages)
            if image_in(self.cache / digest) is None:
                work = Work(folder, aside, archive, tuple(packages), digest, deadline, report)
                installed = RECIPES[family].build(work)
                self._keep(work, family, installed)
        self._point(family, digest)
        image = self.find(family)
        if image is None:
            raise Refused("ImageUnavailable", f"the image {family} was built and is not there: {self.cache / digest}")
        return image

    def _keep(self, work: Work, family: str, installed: Sequence[str]) -> None:
        """Make the folder durable and read-only; its appearance under the digest is the commit."""
        recipe = RECIPES[family]
        disk = head(work.folder / "disk.qcow2")
        if disk is None:
            raise Refused("ImageUnavailable", f"the recipe of {family} made no disk")
        write_json(
            work.folder / "image.json",
            {
                "family": family,
                "osImage": recipe.os_image,
                "osVersion": recipe.os_version,
                "sizeBytes": disk.size_bytes,
                "defaultBytes": recipe.default_bytes,
                "append": recipe.append,
                "recipe": self._recipe(family),
                "builtAt": time.time(),
                "packages": list(installed),
            },
        )
        for file in work.folder.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
            file.chmod(0o444)
        work.folder.chmod(0o755)
        kept = self.cache / work.digest
        if kept.exists():
            shutil.rmtree(kept)
        work.folder.rename(kept)

    def _point(self, family: str, digest: str) -> None:
        fresh = self.cache / f".latest-{family}.part"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(digest)
        fresh.rename(self.cache / f"latest-{family}")

    def _start(self, family: str, failures: int) -> Building | Unavailable:
        try:
            _make_cache(self.cache)
            self._note(family, "starting", 0.0, "starting the build", failures)
            command = [sys.executable, "-m", "hansa.engines.qemu.images", "--cache", str(self.cache), "build", family]
            self._builders.add(spawn(command, self.cache / f"build-{family}.log"))
        except OSError as error:
            return Unavailable(f"the image cannot be built in {self.cache}: {error.strerror or error}")
        return Building(0.0, "starting the build")

    def _note(self, family: str, state: str, progress: float, message: str, failures: int) -> None:
        said = {"state": state, "progress": progress, "message": message, "failures": failures, "at": time.time()}
        write_json(self.cache / f"build-{family}.json", said, mode=0o644)

    @contextlib.contextmanager
    def _turn(self, family: str, on_progress: Report) -> Iterator[None]:
        """Hold the family's lock: one builder at a time, and no wait without an end."""
        end = time.monotonic() + _TURN_LIMIT_S
        with contextlib.ExitStack() as held:
            while True:
                try:
                    held.enter_context(_locked(self._lock(family)))
                    break
                except BlockingIOError:
                    pass
                if time.monotonic() > end:
                    raise Refused("ImageUnavailable", f"another builder of {family} does not end")
                other = self.progress(family)
                on_progress(other.get("progress", 0.0), other.get("message", "building"))
                time.sleep(_TURN_POLL_S)
            yield

    def _lock(self, family: str) -> Path:
        return self.cache / f"build-{family}.lock"

    def _being_built(self, family: str) -> bool:
        try:
            with _locked(self._lock(family)):
                return False
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False

    def _recipe(self, family: str) -> str:
        """A hash over everything of ours that makes the image what it is."""
        if family not in self._recipes:
            self._recipes[family] = hashlib.sha256(b"\0".join(RECIPES[family].ours())).hexdigest()
        return self._recipes[family]


def _recipe_of(folder: Path) -> str:
    found = read_json(folder / "image.json") or {}
    return str(found.get("recipe", ""))


def _digest(recipe: str, packages: list[Package]) -> str:
    words = [recipe, *(f"{package.name}={package.version} {package.hash}" for package in packages)]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]


def _pause_s(failures: int) -> float:
    return float(min(_BACKOFF_MAX_S, _BACKOFF_S * 2 ** max(0, failures - 1)))


def _make_cache(cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True, mode=0o755)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file. Raises BlockingIOError when another holds it, FileNotFoundError without a cache."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def main(arguments: list[str]) -> int:
    """`[--cache DIR] build FAMILY`: the builder's process."""
    cache = Path(arguments[1]) if arguments[:1] == ["--cache"] else None
    verb, family = arguments[-2:]
    if verb != "build" or family not in FAMILIES:
        print(f"usage: python -m {__spec__.name} [--cache DIR] build {'|'.join(FAMILIES)}", file=sys.stderr)
        return 2
    try:
        image = ImageStore(cache).build(family, lambda share, doing: print(f"{share:4.0%} {doing}", flush=True))
    except HansaError as error:
        print(f"{error.message}\n{error.detail}".strip(), file=sys.stderr)
        return 1
    print(image.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
