"""Sealing at rest: several keys, where they come from, and a change of keys that may be cut off anywhere."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hansa import rotation
from hansa.api.keys import SigningKeys
from hansa.clock import SeededIds, SystemClock
from hansa.config import Settings
from hansa.errors import Bug, Invalid
from hansa.rotation import reseal, rotate, seen
from hansa.sealing import KEYS_MAX, Sealer, read_keys, write_keys
from hansa.store.port import SetSecret
from hansa.store.sqlite import open_sqlite
from hansa.store.store import SqlStore
from hansa.wiring import sealer_of

pytestmark = pytest.mark.anyio
OLD, NEW = b"o" * 32, b"n" * 32


def text(*keys: bytes) -> str:
    return ",".join(base64.b64encode(key).decode() for key in keys)


# -- the keys ---------------------------------------------------------------------------------------


def test_a_value_opens_where_it_belongs_and_nowhere_else() -> None:
    sealer = Sealer(OLD)
    sealed = sealer.seal(b"value", "a/name")
    assert b"value" not in sealed and sealer.open(sealed, "a/name") == b"value"
    for wrong, context in (
        (sealed, "b/name"),
        (sealed[:-1] + bytes([sealed[-1] ^ 1]), "a/name"),
        (b"", "a/name"),
        (b"HS1", "a/name"),
    ):
        with pytest.raises(Bug):
            sealer.open(wrong, context)
    with pytest.raises(Bug):
        Sealer(NEW).open(sealed, "a/name")


def test_the_newest_key_seals_and_older_ones_open() -> None:
    before = Sealer(OLD).seal(b"value", "c")
    both = Sealer(OLD, NEW)
    assert both.open(before, "c") == b"value" and not both.is_newest(before)
    after = both.seal(b"value", "c")
    assert both.is_newest(after) and Sealer(NEW).open(after, "c") == b"value"


def test_what_was_sealed_before_keys_had_ids_still_opens() -> None:
    nonce = os.urandom(12)
    legacy = nonce + AESGCM(OLD).encrypt(nonce, b"value", b"c")
    assert Sealer(OLD, NEW).open(legacy, "c") == b"value" and not Sealer(OLD).is_newest(legacy)


def test_keys_come_from_the_environment_else_a_named_file_else_the_folder(tmp_path: Path) -> None:
    named, own = tmp_path / "named", tmp_path / "keys" / "sealing.key"
    write_keys(named, [OLD])
    sealed = Sealer(NEW).seal(b"value", "c")
    assert Sealer.load(own, key_file=named, given=text(OLD, NEW)).open(sealed, "c") == b"value"
    assert Sealer.load(own, key_file=named).open(Sealer(OLD).seal(b"x", "c"), "c") == b"x"
    assert not own.exists(), "no key is made where one is given"
    made = Sealer.load(own).seal(b"x", "c")
    assert Sealer.load(own).open(made, "c") == b"x" and own.stat().st_mode & 0o777 == 0o600
    assert read_keys(own) != [OLD]


def test_the_settings_name_the_keys_and_never_show_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANSA_SEAL_KEY", text(OLD))
    settings = Settings(data=tmp_path)
    assert sealer_of(settings, tmp_path).open(Sealer(OLD).seal(b"x", "c"), "c") == b"x"
    assert text(OLD) not in repr(settings) + str(settings) + settings.model_dump_json()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv("HANSA_SEAL_KEY")
    monkeypatch.setenv("HANSA_SEAL_KEY_FILE", str(tmp_path / "k"))
    write_keys(tmp_path / "k", [NEW])
    assert sealer_of(Settings(data=tmp_path), tmp_path).open(Sealer(NEW).seal(b"x", "c"), "c") == b"x"


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"no base64 !\n", base64.b64encode(b"short") + b"\n"])
def test_a_file_that_holds_no_keys_is_refused_and_not_repeated(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "k").write_bytes(content)
    with pytest.raises(Invalid) as refused:
        Sealer.load(tmp_path / "own", key_file=tmp_path / "k")
    assert "short" not in refused.value.message and str(tmp_path / "k") in refused.value.message


def test_a_missing_named_file_makes_no_key(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="cannot be read"):
        Sealer.load(tmp_path / "own", key_file=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_there_is_a_limit_on_keys() -> None:
    with pytest.raises(Invalid):
        Sealer(*[bytes([n]) * 32 for n in range(KEYS_MAX + 1)])
    with pytest.raises(Invalid):
        Sealer()


def test_a_running_process_takes_up_a_changed_file(tmp_path: Path) -> None:
    file = tmp_path / "k"
    write_keys(file, [OLD])
    running = Sealer.load(tmp_path / "own", key_file=file)
    first = running.seal(b"x", "c")
    write_keys(file, [OLD, NEW])
    assert running.open(Sealer(NEW).seal(b"y", "c"), "c") == b"y", "sealed by another process that saw it before"
    assert Sealer(NEW).is_newest(running.seal(b"x", "c"))
    file.write_text("half a line")
    assert running.open(running.seal(b"x", "c"), "c") == b"x", "what was read before still works"
    file.unlink()
    assert running.open(first, "c") == b"x", "a file that is gone for a moment takes nothing away"


# -- changing them ----------------------------------------------------------------------------------


class House:
    def __init__(self, store: SqlStore, folder: Path) -> None:
        self.store, self.folder, self.file = store, folder, folder / "sealing.key"
        self.values = {(f"uid-{n}", "password"): f"value {n}".encode() for n in range(5)}

    def sealer(self) -> Sealer:
        return Sealer.load(self.file)

    async def fill(self) -> None:
        sealer = self.sealer()
        for (uid, name), value in self.values.items():
            await self.store.commit(SetSecret(uid, name, sealer.seal(value, f"{uid}/{name}")))

    async def check(self, sealer: Sealer) -> None:
        for (uid, name), value in self.values.items():
            sealed = await self.store.secret(uid, name)
            assert sealed is not None and sealer.open(sealed, f"{uid}/{name}") == value


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    store = await open_sqlite(":memory:", clock=SystemClock(), ids=SeededIds(1), inline=True)
    it = House(store, tmp_path / "keys")
    await it.fill()
    yield it
    await store.close()


async def test_a_change_seals_everything_anew(house: House) -> None:
    first = read_keys(house.file)
    signing = SigningKeys.in_folder(house.folder, house.sealer())
    token = signing.sign({"a": 1})
    done, added = await rotate(house.store, house.folder, house.file)
    assert (done.values, done.older, added) == (5, 5, True)
    keys = read_keys(house.file)
    assert keys[0] == first[0] and len(keys) == 2
    await house.check(Sealer(keys[-1]))  # nothing needs the old one
    again = SigningKeys.in_folder(house.folder, Sealer(keys[-1]))
    assert again.verified(token) is not None
    assert (await seen(house.store, house.sealer())).older == 0


async def test_keys_do_not_pile_up(house: House) -> None:
    for _ in range(4):
        await rotate(house.store, house.folder, house.file)
        assert len(read_keys(house.file)) == 2
        await house.check(house.sealer())


@pytest.mark.parametrize("at", range(4))
async def test_a_change_that_is_cut_off_goes_on_where_it_was(
    at: int, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power fails before the n-th write: to the key file, of each page of values, to the file again."""
    count = 0

    def counted(call: Any) -> Any:
        def wrapped(*words: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            if count > at:
                raise RuntimeError("power")
            return call(*words, **more)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(rotation, "PAGE", 2)
        patch.setattr(rotation, "write_keys", counted(write_keys))
        patch.setattr(house.store, "commit", counted(house.store.commit))
        with pytest.raises(RuntimeError, match="power"):
            await rotate(house.store, house.folder, house.file)
    await house.check(house.sealer())  # the cloud starts again, and everything opens
    await rotate(house.store, house.folder, house.file)
    newest = read_keys(house.file)[-1]
    await house.check(Sealer(newest))
    assert len(read_keys(house.file)) == 2


async def test_what_a_slow_process_sealed_under_the_key_before_is_not_lost(house: House) -> None:
    slow = Sealer(read_keys(house.file)[-1])  # has not seen the new file
    await rotate(house.store, house.folder, house.file)
    house.values[("late", "password")] = b"late"
    await house.store.commit(SetSecret("late", "password", slow.seal(b"late", "late/password")))
    await house.check(house.sealer())
    _, added = await rotate(house.store, house.folder, house.file)
    assert not added, "first the one before is finished"
    await house.check(Sealer(read_keys(house.file)[-1]))


async def test_what_somebody_changes_meanwhile_is_left_to_them(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    write_keys(house.file, [*read_keys(house.file), NEW])
    commit = house.store.commit

    async def crossed(*writes: Any, **more: Any) -> int:
        monkeypatch.setattr(house.store, "commit", commit)
        house.values[("uid-0", "password")] = b"changed"
        await commit(SetSecret("uid-0", "password", house.sealer().seal(b"changed", "uid-0/password")))
        return await commit(*writes, **more)

    monkeypatch.setattr(house.store, "commit", crossed)
    await reseal(house.store, house.sealer())
    await house.check(house.sealer())


async def test_no_key_goes_while_something_opens_under_none(house: House) -> None:
    await house.store.commit(SetSecret("odd", "x", Sealer(b"x" * 32).seal(b"?", "odd/x")))
    with pytest.raises(Bug, match="no key was dropped"):
        await rotate(house.store, house.folder, house.file)
    assert len(read_keys(house.file)) == 2
    await house.check(house.sealer())


async def test_a_plain_signing_key_is_sealed_when_it_is_read(tmp_path: Path) -> None:
    plain = SigningKeys.in_folder(tmp_path)
    token, file = plain.sign({"a": 1}), tmp_path / "signing-1.jwk"
    assert '"d"' in file.read_text()
    sealed = SigningKeys.in_folder(tmp_path, Sealer(OLD))
    assert sealed.verified(token) is not None
    assert '"d"' not in file.read_text() and file.stat().st_mode & 0o777 == 0o600
    assert SigningKeys.in_folder(tmp_path, Sealer(OLD)).verified(token) is not None
    for wrong in (None, Sealer(NEW)):
        with pytest.raises(Bug):
            SigningKeys.in_folder(tmp_path, wrong)
