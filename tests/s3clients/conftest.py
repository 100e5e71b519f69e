"""One cloud for all clients, a tree of files that each of them carries there and back, and both ports of S3."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hansa.datafolder import read_environment

from ..processes.test_up import Up

LONG = bool(os.environ.get("HANSA_LONG"))
LIMIT_S = 1200 if LONG else 240
PYTHON = Path(sys.prefix) / "s3-clients/bin/python"


@dataclass(frozen=True)
class Cloud:
    """A running one. `variables`: what clients read; `secure`: by TLS."""

    data: Path
    variables: dict[str, str]
    secure: bool

    @property
    def endpoint(self) -> str:
        return self.variables["AWS_ENDPOINT_URL_S3"]

    @property
    def place(self) -> str:
        return self.endpoint.partition("://")[2]

    @property
    def authority(self) -> Path:
        return self.data / "ca.pem"

    def run(self, *words: str | Path, **more: str) -> str:
        """A client's command, with nothing of this machine's own settings. Its output; fails with what it said."""
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(self.data.parent), "LANG": "C.UTF-8", "AWS_EC2_METADATA_DISABLED": "true",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **self.variables, **more,
        }  # fmt: skip
        done = subprocess.run(
            [str(word) for word in words], stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False,
            env=environment,
        )  # fmt: skip
        assert done.returncode == 0, f"{words[0]}: {done.stdout.decode()[-2000:]}{done.stderr.decode()[-4000:]}"
        return done.stdout.decode()


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    made = Up(tmp_path_factory.mktemp("cloud"))
    made.ready()
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


@pytest.fixture(params=["plain", "tls"])
def cloud(started: Up, request: pytest.FixtureRequest) -> Cloud:
    said = read_environment(started.data)
    variables = {name: value for name, value in said.items() if name.startswith("AWS_")}
    secure = request.param == "tls"
    if secure:
        variables["AWS_ENDPOINT_URL_S3"] = said["HANSA_S3_TLS_URL"]
        variables["AWS_CA_BUNDLE"] = str(started.data / "ca.pem")
    return Cloud(started.data, variables, secure)


@dataclass(frozen=True)
class Tree:
    """A folder of small files, and a large file apart from it."""

    folder: Path
    large: Path
    files: int  # small ones
    large_bytes: int

    def same(self, other: Path) -> None:
        """Raises AssertionError where another folder is not the same."""
        assert digests(self.folder) == digests(other)

    def same_large(self, other: Path) -> None:
        assert digest(self.large) == digest(other)


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return _grown(tmp_path_factory.mktemp("tree"), 1000 if LONG else 500, (256 if LONG else 64) << 20)


@pytest.fixture
def huge_tree(tmp_path: Path) -> Tree:
    return _grown(tmp_path / "tree", 10_000, 5 << 30)


def _grown(root: Path, files: int, large_bytes: int) -> Tree:
    """Names with what tools stumble over, sizes around what servers treat apart; the large file by a seed."""
    dice = random.Random(11)
    folder = root / "small"
    for number in range(files):
        place = folder / f"d{number % 7}" / ("ünïcode" if number % 11 == 0 else "deep/er") / f"file {number}+&=%.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(dice.randbytes(dice.choice((1, 100, 4096, 16_384, 16_385, 40_000))))
    large = root / "large.bin"
    with large.open("wb") as out:
        for _ in range(large_bytes >> 20):
            out.write(dice.randbytes(1 << 20))
    return Tree(folder, large, files, large_bytes)


def digest(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def digests(folder: Path) -> dict[str, str]:
    return {f.relative_to(folder).as_posix(): digest(f) for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture
def bucket(cloud: Cloud, request: pytest.FixtureRequest) -> str:
    """A name that no other test has."""
    words: Callable[[str], str] = lambda text: "".join(c if c.isalnum() else "-" for c in text.lower())  # noqa: E731
    name: str = words(request.node.name.removeprefix("test_"))
    return f"{name[:50].strip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
