"""Memory that is used again: by nobody while somebody still looks into it."""

from __future__ import annotations

from hansa.gateways.s3.sealing.rooms import Rooms


def test_a_room_is_used_again_once_nobody_holds_it() -> None:
    rooms = Rooms(10, 1)
    room = rooms.free()
    assert room is not None and len(room) == 10
    room[:] = b"0123456789"
    assert rooms.free() is None
    del room
    assert bytes(rooms.free() or b"") == b"0123456789"


def test_a_view_holds_its_room_and_so_does_a_view_of_a_view() -> None:
    rooms = Rooms(10, 1)
    part = memoryview(rooms.free() or b"")[2:8][1:3]
    assert rooms.free() is None and len(part) == 2
    held = {"body": part}
    part = memoryview(b"")
    assert rooms.free() is None
    held.clear()
    assert rooms.free() is not None


def test_there_are_so_many_and_no_more() -> None:
    rooms = Rooms(10, 3)
    held = [rooms.free() for _ in range(5)]
    assert len({id(room) for room in held[:3]}) == 3 and held[3:] == [None, None]
    del held[1]
    assert rooms.free() is not None
