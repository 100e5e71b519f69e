"""Images of this machine: where they are, which one is the latest of a family, and getting one built.

An image is a folder `<digest>/` in a cache that every cloud of the machine shares: `image.json`, `disk.qcow2` and,
for direct boot, `vmlinuz` and `initrd`, all read-only. The digest names recipe and packages, so a new build is a new
folder and disks keep pointing to theirs. Building takes its own process, one at a time, whose progress is a file:

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
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hansa.engines.qemu import tiny
from hansa.engines.qemu.debian import Archive, Deadline, Package
from hansa.engines.qemu.files import read_json, write_json
from hansa.engines.qemu.process import reap, spawn
from hansa.errors import HansaError, Refused

FAMILIES = ("tiny",)
BUILD_LIMIT_S = 600.0

_BACKOFF_S, _BACKOFF_MAX_S = 30.0, 600.0
_START_LIMIT_S = 10.0  # until a builder that was started holds the lock


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


@dataclass(frozen=True, slots=True)
class Building:
    """Not there yet: `progress` runs from 0 to 1, `message` says what is being done."""

    progress: float
    message: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """It could not be built; `message` says why and what to do. It is tried again after a pause."""

    message: str


Report = Callable[[float, str], None]


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
        self.cache = cache or default_cache()
        self._recipes: dict[str, str] = {}
        self._builders: set[int] = set()

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
        found = (image_in(folder) for folder in folders if folder.is_dir() and not folder.is_symlink())
        return [image for image in found if image]

    def ensure(self, family: str) -> Image | Building | Unavailable:
        """The image, or how far its build is. Starts a build in a process of its own where none runs; never waits."""
        self._builders -= {pid for pid in self._builders if reap(pid)}
        if family not in FAMILIES:
            return Unavailable(f"there is no image {family} on this host; there are: {', '.join(FAMILIES)}")
        if image := self.find(family):
            return image
        progress = self.progress(family)
        age_s = time.time() - progress.get("at", 0.0)
        if self._being_built() or (progress.get("state") == "starting" and age_s < _START_LIMIT_S):
            return Building(progress.get("progress", 0.0), progress.get("message", "building"))
        failures = progress.get("failures", 0)
        if progress.get("state") == "failed" and age_s < _pause_s(failures):
            return Unavailable(progress.get("message", "the build failed"))
        if progress.get("state") in ("starting", "building"):  # its process ended without a word
            failures += 1
            if failures > 1:
                said = f"the build of {family} ended without a word: see {self.cache / f'build-{family}.log'}"
                self._note(family, "failed", 0.0, said, failures)
                return Unavailable(said)
        return self._start(family, failures)

    def progress(self, family: str) -> dict[str, Any]:
        """What the last build of `family` said: state (starting, building, failed, done), progress, message, at."""
        return read_json(self.cache / f"build-{family}.json") or {}

    def build(self, family: str, on_progress: Report = lambda _share, _doing: None) -> Image:
        """Build `family` here and now, or wait for whoever does. Blocks; raises Refused (ImageUnavailable)."""
        _make_cache(self.cache)
        with _locked(self.cache / "build.lock"):
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

    def _build(self, family: str, report: Report) -> Image:
        for leftover in self.cache.glob(".build-*"):
            shutil.rmtree(leftover)
        deadline = Deadline(BUILD_LIMIT_S)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=self.cache) as name:
            scaffold = Path(name)
            archive = Archive(scaffold / "apt", deadline)
            packages = tiny.packages(archive)
            recipe = self._recipe(family)
            digest = _digest(recipe, packages)
            if image_in(self.cache / digest) is None:
                work = scaffold / "image"
                work.mkdir()
                tiny.build(archive, packages, work, deadline, report)
                self._keep(work, digest, family, recipe, packages)
        self._point(family, digest)
        image = self.find(family)
        if image is None:
            raise Refused("ImageUnavailable", f"the image {family} was built and is not there: {self.cache / digest}")
        return image

    def _keep(self, work: Path, digest: str, family: str, recipe: str, packages: list[Package]) -> None:
        """Make the folder durable and read-only; its appearance under the digest is the commit."""
        write_json(
            work / "image.json",
            {
                "family": family,
                "osImage": tiny.OS_IMAGE,
                "osVersion": tiny.OS_VERSION,
                "sizeBytes": tiny.DISK_BYTES,
                "defaultBytes": tiny.DEFAULT_BYTES,
                "append": tiny.APPEND,
                "recipe": recipe,
                "builtAt": time.time(),
                "packages": [f"{package.name}={package.version}" for package in packages],
            },
        )
        for file in work.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
            file.chmod(0o444)
        work.chmod(0o755)
        if (self.cache / digest).exists():
            shutil.rmtree(self.cache / digest)
        work.rename(self.cache / digest)

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

    def _being_built(self) -> bool:
        try:
            with _locked(self.cache / "build.lock", wait=False):
                return False
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False

    def _recipe(self, family: str) -> str:
        """A hash over everything of ours that makes the image what it is."""
        if family not in self._recipes:
            parts = [Path(tiny.__file__).read_bytes(), *(tiny.guest_file(name) for name in tiny.GUEST_FILES)]
            self._recipes[family] = hashlib.sha256(b"\0".join(parts)).hexdigest()
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
def _locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file. Without `wait`, BlockingIOError when another holds it, FileNotFoundError without a cache."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
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
