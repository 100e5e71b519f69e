"""A new key for what is sealed: first the key is added, then everything is sealed under it, then old keys go.

Each step is safe to lose power in: until the last one every key that something is sealed under stays in the file,
and the same command goes on where it was. The key before the newest stays until the next change: a process that
sealed a moment before it saw the new file used that one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hansa.api.keys import SigningKeys
from hansa.errors import Bug
from hansa.sealing import KEY_BYTES, Sealer, read_keys, write_keys
from hansa.store.port import SetSecret, Store

PAGE = 200
KEPT = 2  # keys that stay in the file


@dataclass(frozen=True, slots=True)
class Sealed:
    """What there is: values in the store, those of them under an older key, and under none that we have."""

    values: int
    older: int
    stuck: tuple[str, ...] = ()


async def seen(store: Store, sealer: Sealer) -> Sealed:
    """Looks, and changes nothing."""
    return await _walk(store, sealer, write=False)


async def reseal(store: Store, sealer: Sealer) -> Sealed:
    """Seals everything under the newest key. A value that somebody changes meanwhile is left to them."""
    return await _walk(store, sealer, write=True)


async def _walk(store: Store, sealer: Sealer, *, write: bool) -> Sealed:
    after, values, older, stuck = ("", ""), 0, 0, []
    while page := await store.secrets(after=after, limit=PAGE):
        after = (page[-1].uid, page[-1].name)
        values += len(page)
        writes = []
        for it in page:
            if sealer.is_newest(it.sealed):
                continue
            older += 1
            context = f"{it.uid}/{it.name}"
            try:
                writes.append(
                    SetSecret(it.uid, it.name, sealer.seal(sealer.open(it.sealed, context), context), it.sealed)
                )
            except Bug:
                stuck.append(context)
        if write and writes:
            await store.commit(*writes, by="/hansa/seal")
    return Sealed(values, older, tuple(stuck))


async def rotate(store: Store, keys_folder: Path, file: Path) -> tuple[Sealed, bool]:
    """One change of keys, or the rest of one that was cut off. Gives what was sealed anew, and whether a key was
    added. Raises Bug when something opens under no key: then every key is kept."""
    now = Sealer(*read_keys(file), file=file)
    keys, found = read_keys(file), await seen(store, now)
    fresh = len(keys) == 1 or found.older == len(found.stuck)
    if fresh:
        write_keys(file, [*keys, os.urandom(KEY_BYTES)])
    sealer = Sealer(*read_keys(file), file=file)
    SigningKeys.in_folder(keys_folder, sealer)  # reading them seals them anew
    done = await reseal(store, sealer)
    if done.stuck:
        raise Bug(
            f"{len(done.stuck)} sealed values open under none of the keys: no key was dropped",
            detail=", ".join(done.stuck[:5]),
        )
    write_keys(file, read_keys(file)[-KEPT:])
    return done, fresh
