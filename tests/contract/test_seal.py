"""`hansa seal` on either database: the command as an operator runs it, while others go on writing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hansa.clock import SystemClock, SystemIds
from hansa.rotation import reseal
from hansa.sealing import Sealer, read_keys
from hansa.store.open import open_store
from hansa.store.port import SetSecret
from hansa.store.store import SqlStore

from ..postgres import server
from ..programs import no_cloud

pytestmark = pytest.mark.anyio
COUNT = 450  # more than two pages of the walk


class House:
    """A cloud's folder and its store, with values sealed under the first key."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url, self.file = folder, url, folder / "keys" / "sealing.key"
        self.store: SqlStore

    async def open(self) -> None:
        self.store = await open_store(self.url or self.folder / "hansa.db", clock=SystemClock(), ids=SystemIds())
        sealer = Sealer.load(self.file)
        await self.store.commit(*(self.sealed(sealer, n) for n in range(COUNT)))

    def sealed(self, sealer: Sealer, n: int, text: str = "value") -> SetSecret:
        return SetSecret(f"u{n:03}", "password", sealer.seal(f"{text} {n}".encode(), f"u{n:03}/password"))

    async def value(self, sealer: Sealer, n: int) -> str:
        found = await self.store.secret(f"u{n:03}", "password")
        assert found is not None
        return sealer.open(found, f"u{n:03}/password").decode()

    async def run(self, verb: str) -> str:
        words = (sys.executable, "-m", "hansa", "seal", verb, "--data", str(self.folder))
        environment = no_cloud(**({"HANSA_DATABASE": self.url} if self.url else {}))
        process = await asyncio.create_subprocess_exec(
            *words, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(60):
            out, complaint = await process.communicate()
        assert process.returncode == 0, complaint.decode()
        return out.decode()


@pytest.fixture(params=["sqlite", "postgresql"])
async def house(request: Any, tmp_path: Path) -> AsyncIterator[House]:
    url = await server().empty() if request.param == "postgresql" else ""
    it = House(tmp_path, url)
    await it.open()
    yield it
    await it.store.close()
    if url:
        await server().drop(url)


async def test_the_command_seals_everything_under_a_new_key(house: House) -> None:
    (first,) = read_keys(house.file)
    assert f"{COUNT} values are sealed, 0 of them" in await house.run("status")
    said = await house.run("rotate")
    assert "a new key seals from now on" in said and f"{COUNT} of {COUNT} values were sealed anew" in said
    keys = read_keys(house.file)
    assert keys[0] == first and len(keys) == 2
    newest = Sealer(keys[-1])
    assert [await house.value(newest, n) for n in (0, 199, 200, COUNT - 1)] == [
        f"value {n}" for n in (0, 199, 200, COUNT - 1)
    ]
    assert "0 of them under an older key" in await house.run("status")
    await house.run("rotate")
    assert first not in read_keys(house.file), "nothing needs it any more"


async def test_what_somebody_changes_meanwhile_is_theirs(house: House) -> None:
    """Between the page that is read and the write, a value is set anew and another under the new key."""
    (first,) = read_keys(house.file)
    both = Sealer(first, b"n" * 32)
    commit, changed = house.store.commit, False

    async def late(*writes: Any, **more: Any) -> int:
        nonlocal changed
        if not changed:
            changed = True
            await commit(house.sealed(both, 3, "changed"), house.sealed(Sealer(first), 5, "also"))
        return await commit(*writes, **more)

    house.store.commit = late  # type: ignore[method-assign]
    done = await reseal(house.store, both)
    assert done.values == COUNT and done.stuck == ()
    assert await house.value(both, 3) == "changed 3" and await house.value(Sealer(first), 5) == "also 5"
    assert await house.value(Sealer(b"n" * 32), 4) == "value 4"
    assert (await reseal(house.store, both)).older == 1, "the next run finds what is left"
    assert await house.value(Sealer(b"n" * 32), 5) == "also 5"
