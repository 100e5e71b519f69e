"""Sealed segments: every range comes back, and nothing that was changed, cut, swapped or brought in ever does."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.errors import Invalid
from hansa.gateways.s3.sealing import keys, segments
from hansa.gateways.s3.sealing.keys import Keyring
from hansa.gateways.s3.sealing.segments import (
    HEADER,
    SEGMENT,
    TAG,
    WHOLE,
    Cipher,
    Damaged,
    Place,
    SealedKey,
    first_of,
    plan,
    segments_of,
    split,
    stored_size,
    unwrap,
    wrap,
)
from hansa.gateways.s3.wire.errors import S3Error
from hansa.kinds.storage import generation_name, named_generation

PLACE = Place("project", "region", "bucket")
ID = bytes(range(16))
KEY = b"k" * 32


def sealed(plain: bytes, cipher: Cipher | None = None) -> bytes:
    cipher = cipher or Cipher(KEY, PLACE, ID)
    count = segments_of(len(plain))
    parts = [plain[n * SEGMENT : (n + 1) * SEGMENT] for n in range(count)]
    return HEADER + b"".join(cipher.seal(n, part, last=n == count - 1) for n, part in enumerate(parts))


def opened(stored: bytes, size: int, start: int, length: int, cipher: Cipher | None = None) -> bytes:
    run = plan(size, start, length)
    part = stored[run.at : run.at + run.stored]
    return b"".join((cipher or Cipher(KEY, PLACE, ID)).open_run(run, size, part))


PLAIN = os.urandom(3 * SEGMENT + 1000)
STORED = sealed(PLAIN)
edges = st.sampled_from([0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 3 * SEGMENT, 3 * SEGMENT + 999])


@given(start=edges | st.integers(0, len(PLAIN) - 1), length=edges | st.integers(1, len(PLAIN)))
def test_any_range_comes_back(start: int, length: int) -> None:
    length = min(max(length, 1), len(PLAIN) - start)
    assert opened(STORED, len(PLAIN), start, length) == PLAIN[start : start + length]
    run = plan(len(PLAIN), start, length)
    assert run.stored <= length + 2 * WHOLE, "at most one segment more at each end"


@given(start=edges, length=edges | st.integers(1, len(PLAIN)), count=st.integers(1, 3))
def test_a_range_is_opened_in_parts(start: int, length: int, count: int) -> None:
    length = min(max(length, 1), len(PLAIN) - start)
    parts = list(split(plan(len(PLAIN), start, length), len(PLAIN), count))
    assert sum(part.take for part in parts) == length and all(part.count <= count for part in parts)
    assert b"".join(opened(STORED, len(PLAIN), part.begin, part.take) for part in parts) == PLAIN[start:][:length]
    assert [part.at for part in parts[1:]] == [part.at + part.stored for part in parts[:-1]]
    assert parts[0].begin == start


@given(start=edges | st.integers(0, len(PLAIN) - 1), length=edges | st.integers(1, len(PLAIN)), count=st.integers(1, 5))
def test_the_first_of_a_range_ends_where_a_segment_ends(start: int, length: int, count: int) -> None:
    end = start + min(max(length, 1), len(PLAIN) - start)
    first = first_of(len(PLAIN), start, end, count)
    until = start + first.take
    assert first.begin == start and first.count <= count and (until == end or (until < end and until % SEGMENT == 0))
    assert until == end or first.count == count


def test_a_segment_is_sealed_into_memory_of_the_callers() -> None:
    room = bytearray(WHOLE)
    Cipher(KEY, PLACE, ID).seal_into(1, memoryview(PLAIN)[SEGMENT : 2 * SEGMENT], memoryview(room), last=False)
    assert room == STORED[whole(1)]


def test_a_segment_is_opened_into_memory_of_the_callers() -> None:
    cipher, room = Cipher(KEY, PLACE, ID), bytearray(SEGMENT)
    cipher.open_into(1, STORED[whole(1)], memoryview(room), last=False)
    assert room == PLAIN[SEGMENT : 2 * SEGMENT]
    for number, last, stored in ((2, False, STORED), (1, True, STORED), (1, False, flipped(whole(1).start + 7))):
        with pytest.raises(Damaged):
            cipher.open_into(number, stored[whole(1)], memoryview(room), last=last)


@pytest.mark.parametrize("size", [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT])
def test_the_stored_size_is_known_beforehand(size: int) -> None:
    assert stored_size(size) == len(sealed(b"x" * size))


def test_a_small_piece_is_sealed_in_one_go() -> None:
    assert segments.seal_small(Cipher(KEY, PLACE, ID), b"body") == sealed(b"body")
    assert segments.seal_small(Cipher(KEY, PLACE, ID), b"") == sealed(b"")


def test_nothing_of_the_plain_bytes_shows() -> None:
    plain = b"a secret that is long enough " * 20_000
    assert b"a secret" not in sealed(plain) and sealed(plain) != sealed(plain, Cipher(b"l" * 32, PLACE, ID))


def whole(number: int) -> slice:
    begin = len(HEADER) + number * WHOLE
    return slice(begin, begin + WHOLE)


def flipped(at: int) -> bytes:
    return STORED[:at] + bytes((STORED[at] ^ 1,)) + STORED[at + 1 :]


@pytest.mark.parametrize("at", [8, 8 + SEGMENT // 2, 8 + SEGMENT, 8 + WHOLE, len(STORED) - 1, len(STORED) - TAG])
def test_a_bit_that_was_flipped_is_found(at: int) -> None:
    with pytest.raises(Damaged):
        opened(flipped(at), len(PLAIN), 0, len(PLAIN))


def test_the_other_segments_of_a_damaged_piece_are_still_there() -> None:
    assert opened(flipped(100), len(PLAIN), SEGMENT, SEGMENT) == PLAIN[SEGMENT : 2 * SEGMENT]


def test_segments_in_another_order_do_not_open() -> None:
    swapped = HEADER + STORED[whole(1)] + STORED[whole(0)] + STORED[whole(2).start :]
    with pytest.raises(Damaged):
        opened(swapped, len(PLAIN), 0, 10)


def test_a_piece_that_was_cut_does_not_pass_for_a_shorter_one() -> None:
    """Not at a segment's border, not with the index's size changed to fit, and not by a byte."""
    for size, stored in ((3 * SEGMENT, STORED[: whole(3).start]), (SEGMENT, STORED[: whole(1).start])):
        assert len(stored) == stored_size(size)
        with pytest.raises(Damaged):
            opened(stored, size, 0, size)
    for stored in (STORED[:-1], STORED[: whole(3).start], b""):
        with pytest.raises(Damaged):
            opened(stored, len(PLAIN), 0, len(PLAIN))


def test_a_piece_does_not_grow_at_its_end() -> None:
    longer = sealed(PLAIN) + Cipher(KEY, PLACE, ID).seal(4, b"more", last=True)
    with pytest.raises(Damaged):
        opened(longer, len(PLAIN) + 4, 3 * SEGMENT, 1004)


@pytest.mark.parametrize(
    "place",
    [Place("other", "region", "bucket"), Place("project", "region", "other"), Place("projectb", "region", "ucket")],
)
def test_bytes_do_not_open_elsewhere(place: Place) -> None:
    with pytest.raises(Damaged):
        opened(STORED, len(PLAIN), 0, 10, Cipher(KEY, place, ID))


def test_a_segment_of_another_piece_under_the_same_key_does_not_open() -> None:
    other = sealed(PLAIN, Cipher(KEY, PLACE, b"o" * 16))
    with pytest.raises(Damaged):
        opened(HEADER + other[whole(0)] + STORED[whole(1).start :], len(PLAIN), 0, 10)


# -- the wrap -----------------------------------------------------------------------------------

MASTER = b"m" * 32
BARE = SealedKey(ID, 12345, b"n" * 12, b"", "main")


def test_a_wrapped_key_comes_back_from_its_text() -> None:
    made = wrap(KEY, MASTER, PLACE, BARE)
    read = SealedKey.read(made.text())
    assert read == made and (read.id, read.crc, read.key, read.customers) == (ID, 12345, "main", False)
    assert unwrap(read, MASTER, PLACE) == KEY and KEY not in made.wrapped


@pytest.mark.parametrize(
    "change", [
        {"id": b"x" * 16}, {"crc": 12346}, {"nonce": b"x" * 12}, {"key": "other"}, {"key": ""}, {"customers": True},
        {"wrapped": b"x" * 48},
    ],
)  # fmt: skip
def test_nothing_of_a_wrap_can_be_changed(change: dict[str, object]) -> None:
    with pytest.raises(Damaged):
        unwrap(replace(wrap(KEY, MASTER, PLACE, BARE), **change), MASTER, PLACE)  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["project", "region", "bucket"])
def test_a_wrap_opens_in_its_own_place_alone(part: str) -> None:
    with pytest.raises(Damaged):
        unwrap(wrap(KEY, MASTER, PLACE, BARE), MASTER, replace(PLACE, **{part: "other"}))
    with pytest.raises(Damaged):
        unwrap(wrap(KEY, MASTER, PLACE, BARE), b"x" * 32, PLACE)


@pytest.mark.parametrize("text", ["", "!", "AAAA", "AQ==", "A" * 400, "é"])
def test_rubbish_is_no_key(text: str) -> None:
    with pytest.raises(Damaged):
        SealedKey.read(text)


class Source:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.disabled: set[str] = set()

    def key_material(self, project: str, name: str) -> bytes:
        self.asked.append((project, name))
        if name in self.disabled:
            raise S3Error("KMS.DisabledException")
        return (name or "default").ljust(32, ".").encode()


def test_a_key_that_is_disabled_opens_nothing_from_then_on() -> None:
    source = Source()
    ring = Keyring(source)
    text = ring.fresh(PLACE, name="main").sealed(ID, 1)
    assert ring.cipher(PLACE, text) is ring.cipher(PLACE, text), "unwrapped once"
    source.disabled.add("main")
    for call in (lambda: ring.cipher(PLACE, text), lambda: ring.fresh(PLACE, name="main")):
        with pytest.raises(S3Error, match="disabled"):
            call()
    with pytest.raises(Damaged):
        ring.cipher(replace(PLACE, bucket="other"), ring.fresh(PLACE).sealed(ID, 1))


def test_a_customers_key_opens_its_own_and_is_never_asked_for() -> None:
    source = Source()
    ring = Keyring(source)
    fresh = ring.fresh(PLACE, customer_key=b"c" * 32)
    text, stored = fresh.sealed(ID, 1), sealed(b"body", fresh.cipher(ID))
    assert opened(stored, 4, 0, 4, ring.cipher(PLACE, text, b"c" * 32)) == b"body"
    for wrong in (None, b"d" * 32):
        with pytest.raises(S3Error) as raised:
            ring.cipher(PLACE, text, wrong)
        assert raised.value.code == "InvalidRequest"
    assert source.asked == []
    with pytest.raises(Damaged):
        keys.rewrapped(text, source, PLACE, PLACE, "")


def test_a_key_is_wrapped_anew_for_another_key_and_place() -> None:
    source = Source()
    ring = Keyring(source)
    fresh = ring.fresh(PLACE)
    stored, text = sealed(b"body", fresh.cipher(ID)), fresh.sealed(ID, 77)
    moved = replace(PLACE, region="elsewhere")
    anew = keys.rewrapped(text, source, PLACE, moved, "main")
    assert opened(stored, 4, 0, 4, ring.cipher(moved, anew)) == b"body" and SealedKey.read(anew).crc == 77
    with pytest.raises(Damaged):
        ring.cipher(PLACE, anew)
    source.disabled.add("")
    assert opened(stored, 4, 0, 4, ring.cipher(moved, anew)) == b"body"


def test_new_objects_lie_under_the_newest_generation_and_old_ones_stay_readable() -> None:
    materials = {"": b"0" * 32, "vault": b"1" * 32}
    source = _Materials(materials)
    newest = {"vault": "vault"}
    ring = Keyring(source, lambda project, name: newest.get(name, name))
    before = ring.fresh(PLACE, name="vault").sealed(ID, 1)
    materials["vault@2"], newest["vault"] = b"2" * 32, "vault@2"
    after = ring.fresh(PLACE, name="vault").sealed(ID, 1)
    assert (SealedKey.read(before).key, SealedKey.read(after).key) == ("vault", "vault@2")
    for sealed in (before, after):
        ring.cipher(PLACE, sealed)
    assert SealedKey.read(ring.fresh(PLACE, name="").sealed(ID, 1)).key == ""
    del materials["vault"]
    with pytest.raises(KeyError):
        ring.cipher(PLACE, before)
    ring.cipher(PLACE, after)


class _Materials:
    def __init__(self, known: dict[str, bytes]) -> None:
        self._known = known

    def key_material(self, project: str, name: str) -> bytes:
        return self._known[name]


def test_names_of_generations() -> None:
    for name, generation in (("vault", 1), ("vault", 2), ("vault", 100), ("", 1)):
        assert named_generation(generation_name(name, generation)) == (name, generation)
    for text in ("vault@", "vault@1", "vault@x", "vault@0002", "vault@-2", "vault@\u0662"):
        with pytest.raises(Invalid):
            named_generation(text)
