"""Which key opens what: data keys, wrapped under the project's, a named, or the customer's key.

The key's keeper is asked each time (it answers from memory): a key that is disabled opens nothing from then on. What
was unwrapped is remembered for a minute, so that the many ranges of a large object cost one unwrapping.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Protocol

from hansa.gateways.s3.sealing.segments import KEY_BYTES, Cipher, Damaged, Place, SealedKey, unwrap, wrap
from hansa.gateways.s3.wire.errors import S3Error

KEPT_S: Final = 60.0
KEPT: Final = 4096


_read = lru_cache(maxsize=KEPT)(SealedKey.read)  # of what is asked for again; still wrapped, nothing secret


class KeySource(Protocol):
    def key_material(self, project: str, name: str) -> bytes:
        """32 bytes of the project's default key (empty name) or of a generation of a named one (`generation_name`).
        Raises S3Error (KMS.…) or Retry."""
        ...


Newest = Callable[[str, str], str]  # project, name -> the name of the generation that new objects lie under


def as_named(project: str, name: str) -> str:
    """For a keeper whose keys never change."""
    return name


class Keyring:
    def __init__(self, source: KeySource, newest: Newest = as_named) -> None:
        self._source, self._newest = source, newest
        self._kept: OrderedDict[tuple[str, Place, bytes], tuple[float, Cipher]] = OrderedDict()

    def fresh(self, place: Place, *, name: str = "", customer_key: bytes | None = None) -> Fresh:
        """A new data key for one piece. Raises what the key's keeper raises."""
        if customer_key is not None:
            return Fresh(place, customer_key, "", customers=True)
        newest = self._newest(place.project, name)
        return Fresh(place, self._source.key_material(place.project, newest), newest, customers=False)

    def cipher(self, place: Place, sealed_key: str, customer_key: bytes | None = None) -> Cipher:
        """What opens a piece. Raises Damaged, what the key's keeper raises, and S3Error (InvalidRequest) when the
        customer's key is another one or is due and not there."""
        sealed = _read(sealed_key)
        master = self._master(place, sealed, customer_key)
        kept, now = (sealed_key, place, master), time.monotonic()
        known = self._kept.get(kept)
        if known is not None and known[0] > now:
            return known[1]
        cipher = self._unwrapped(place, sealed, master)
        self._kept[kept] = (now + KEPT_S, cipher)
        self._kept.move_to_end(kept)
        while len(self._kept) > KEPT or next(iter(self._kept.values()))[0] <= now:
            self._kept.popitem(last=False)
        return cipher

    def _master(self, place: Place, sealed: SealedKey, customer_key: bytes | None) -> bytes:
        if not sealed.customers:
            return self._source.key_material(place.project, sealed.key)
        if customer_key is None:
            raise S3Error("InvalidRequest", "The object is encrypted with a key of the customer's; send the key.")
        return customer_key

    def _unwrapped(self, place: Place, sealed: SealedKey, master: bytes) -> Cipher:
        try:
            return Cipher(unwrap(sealed, master, place), place, sealed.id)
        except Damaged as error:
            if sealed.customers:
                raise S3Error(
                    "InvalidRequest", "The object is encrypted with another key than the one sent."
                ) from error
            raise


class Fresh:
    """A data key before it has a wrap: which is made last, when the stored bytes' CRC is known."""

    def __init__(self, place: Place, master: bytes, name: str, *, customers: bool) -> None:
        self._place, self._master, self._name, self._customers = place, master, name, customers
        self._key = os.urandom(KEY_BYTES)

    def cipher(self, id: bytes) -> Cipher:
        return Cipher(self._key, self._place, id)

    def sealed(self, id: bytes, crc: int) -> str:
        """`Piece.sealed_key`."""
        bare = SealedKey(id, crc, os.urandom(12), b"", self._name, self._customers)
        return wrap(self._key, self._master, self._place, bare).text()


def rewrapped(sealed_key: str, source: KeySource, old: Place, new: Place, name: str) -> str:
    """The same data key, bound to `new` and wrapped under the key `name` of its project: for a key's change. Raises
    Damaged, and Damaged too for a customer's key: only the customer can change that one."""
    sealed = SealedKey.read(sealed_key)
    if sealed.customers:
        raise Damaged("an object's key is wrapped under its customer's key and cannot be wrapped anew")
    data_key = unwrap(sealed, source.key_material(old.project, sealed.key), old)
    bare = SealedKey(sealed.id, sealed.crc, os.urandom(12), b"", name)
    return wrap(data_key, source.key_material(new.project, name), new, bare).text()
