"""Rows of the database and what they are outside: objects, changes, claims, records. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from hansa.kinds.resource import Key, Stored
from hansa.store.driver import Row
from hansa.store.port import UNLIMITED, Change, Claim, Entry, Held, Pointer


def key_columns(key: Key) -> dict[str, str]:
    return {"kind": key.kind, "scope": key.scope, "name": key.name}


def pattern_below(scope: str) -> str:
    """A LIKE pattern for every scope below this one; names hold no `!` but `_` is a wildcard."""
    escaped = scope.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return f"{escaped}/%"


def text_of(value: Any) -> str:
    return orjson.dumps(value).decode()


def texts_of(it: Stored) -> dict[str, str]:
    return {
        "labels": text_of(it.labels), "system_labels": text_of(it.system_labels),
        "spec": text_of(it.spec), "status": text_of(it.status),
    }  # fmt: skip


def body_of(it: Stored, texts: dict[str, str]) -> str:
    """The object as one JSON text, from parts that are JSON already."""
    head = text_of({
        "created_at": it.created_at, "generation": it.generation, "user_revision": it.user_revision,
        "observed": it.observed, "deleted_at": it.deleted_at,
    })  # fmt: skip
    return head[:-1] + "".join(f',"{name}":{text}' for name, text in texts.items()) + "}"


def stored_of(row: Row) -> Stored:
    return Stored(
        Key(row[0], row[1], row[2]), row[3], row[4], row[5], row[6], row[7], row[8], row[9],
        orjson.loads(row[10]), orjson.loads(row[11]), orjson.loads(row[12]), orjson.loads(row[13]),
    )  # fmt: skip


def change_of(row: Row) -> Change:
    revision, at, kind, scope, name, uid, act, by, request, body = row
    key = Key(kind, scope, name)
    stored = None
    if body is not None:
        stored = Stored(key, uid, revision=revision, **orjson.loads(body))
    return Change(revision, at, key, uid, act, by, request, stored)


def entry_of(row: Row) -> Entry:
    return Entry(row[0], row[1], row[2], row[3], orjson.loads(row[4]))


def pointer_of(row: Row) -> Pointer:
    return Pointer(Key(row[0], row[1], row[2]), row[3], Key(row[4], row[5], row[6]), row[7], bool(row[8]))


def held_of(row: Row) -> Held:
    scope, key, owner, amount, single, until, note = row
    return Held(owner, Claim(scope, key, amount, None if single else UNLIMITED, until, note))
