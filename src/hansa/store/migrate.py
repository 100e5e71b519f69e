"""Applies the numbered .sql files of `hansa.store.migrations`, each once, in order, each in one transaction."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from importlib import resources

from hansa.errors import HansaError

NUMBERED = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


class NewerDatabase(HansaError):
    """The database was written by a newer program; an older one must not touch it."""


def files() -> list[tuple[int, str]]:
    """(number, text) of every migration, in order."""
    found = [(m, f) for f in resources.files("hansa.store.migrations").iterdir() if (m := NUMBERED.fullmatch(f.name))]
    return sorted((int(m[1]), f.read_text()) for m, f in found)


def migrate(connection: sqlite3.Connection) -> int:
    """Brings the schema up to date; returns its version. Raises NewerDatabase."""
    connection.execute("create table if not exists schema_version (version integer not null)")
    row = connection.execute("select max(version) from schema_version").fetchone()
    present, known = row[0] or 0, files()
    if present > known[-1][0]:
        raise NewerDatabase(
            f"the database has schema {present}, this program knows {known[-1][0]}: run the newer hansa, or restore a backup"
        )
    for number, text in known:
        if number > present:
            _apply(connection, number, text)
    return known[-1][0]


def _apply(connection: sqlite3.Connection, number: int, text: str) -> None:
    connection.execute("begin immediate")
    try:
        for statement in statements(text):
            connection.execute(statement)
        connection.execute("insert into schema_version (version) values (?)", (number,))
    except sqlite3.Error:
        connection.execute("rollback")
        raise
    connection.execute("commit")


def statements(text: str) -> Iterator[str]:
    """The statements of a file. None of ours has a semicolon inside."""
    without_comments = re.sub(r"--[^\n]*", "", text)
    yield from (s.strip() for s in without_comments.split(";") if s.strip())
