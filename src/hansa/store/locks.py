"""What a commit is going to touch, known before its first statement. Pure.

On SQLite one transaction writes at a time and nobody asks. Where many write side by side (PostgreSQL), a
transaction first takes everything named here, in one order for all, and only then looks and writes: so what it
looked at stays as it is until it commits, and two transactions never wait for each other.

Who writes an object holds its name alone; who leans on one (a parent, a target of a link) holds it shared. So the
links from and to an object stand still while it is held alone, and with them the set of neighbours it wakes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from hansa.kinds.resource import Key
from hansa.store.port import Create, Delete, Forget, Reserve, SetStatus, Settle, Update, Wake, Write


@dataclass(frozen=True, slots=True)
class Needs:
    """Names as numbers (see `number`), in rising order; keys sorted.

    `names`: (number, alone). `work`: rows of `work` that are written. `linked`: objects whose neighbours' rows of
    `work` are written too, whoever they are by then.
    """

    names: tuple[tuple[int, bool], ...] = ()
    work: tuple[Key, ...] = ()
    linked: tuple[Key, ...] = ()


NOTHING = Needs()


def needs_of(writes: Iterable[Write]) -> Needs:
    names: dict[int, bool] = {}
    work: set[Key] = set()
    linked: set[Key] = set()

    def hold(name: int, *, alone: bool) -> None:
        names[name] = names.get(name, False) or alone

    for write in writes:
        match write:
            case Create() | Update():
                hold(object_name(write.key), alone=True)
                for link in write.links:
                    hold(object_name(link.target), alone=False)
                    work.add(link.target)
                if isinstance(write, Create):
                    for parent in write.parents:
                        hold(object_name(parent), alone=False)
                    if write.links:
                        linked.add(write.key)
                else:
                    work.add(write.key)
                    linked.add(write.key)
            case SetStatus() | Delete() | Forget():
                hold(object_name(write.key), alone=True)
                work.add(write.key)
                if not isinstance(write, SetStatus) or write.wake:
                    linked.add(write.key)
            case Reserve():
                for claim in write.claims:
                    hold(number("claim", claim.scope, claim.key), alone=True)
            case Wake():
                work.add(write.key)
            case Settle():
                work.add(write.lease.key)
            case _:
                pass
    return Needs(tuple(sorted(names.items())), tuple(sorted(work)), tuple(sorted(linked)))


def object_name(key: Key) -> int:
    return number("object", key.kind, key.scope, key.name)


def number(*words: str) -> int:
    """A name as 64 signed bits, the same in every process. Two names with one number only wait for one another
    without need."""
    return int.from_bytes(blake2b("\0".join(words).encode(), digest_size=8).digest(), "big", signed=True)
