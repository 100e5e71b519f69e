"""The file of a backup, of the store or of another holding: written, verified, read.

The tables themselves are the business of `hansa.store.tables`.

A gzip file of JSON lines. The first says what it is (format, schema, tables with their columns); then each table: its
name, a line a row, an end with the count and the digest of its rows; the last line has the digest of all before it.
A file that lacks its last line is no backup. Values are numbers, texts and null; bytes stand as {"b": base64}.

Digests tell damage, not forgery: whoever can write the file can write its digests.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import os
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import orjson

from hansa.errors import HansaError, Invalid
from hansa.store.holding import STORE, Holding
from hansa.store.migrate import NewerDatabase

VERSION = 1
LINE_MAX = 64 * 1024 * 1024  # bytes of one row
TABLES_MAX = 100

Row = Sequence[Any]
Columns = Mapping[str, Sequence[str]]  # by table
Progress = Callable[[str, int], None]  # table, rows of it so far


class BrokenBackup(HansaError):
    """The file is no backup, or it was damaged or cut short."""


@dataclass(slots=True)
class Summary:
    """What a backup holds."""

    schema: int
    made_at: float
    database: str
    program: str
    columns: dict[str, list[str]]
    rows: dict[str, int] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)


class Source(Protocol):
    """A store at one moment, however long the reading takes."""

    name: str

    async def schema(self) -> int: ...

    async def columns(self) -> Columns: ...

    def rows(self, table: str, columns: Sequence[str]) -> AsyncIterator[Sequence[Row]]:
        """All rows of a table, in batches."""
        ...


# -- writing ------------------------------------------------------------------------------------


async def write_backup(
    source: Source, path: Path, *, at: float, program: str, told: Progress, of: Holding = STORE
) -> Summary:
    """One file, readable by its owner alone, in place only when it is whole. Raises Invalid when it is there."""
    if path.exists():
        raise Invalid.field("FILE", f"{path} is there already")
    part = path.with_name(f".{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as raw:
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=3, mtime=0) as file:
                summary = await _write(source, file, at=at, program=program, told=told, of=of)
            raw.flush()
            os.fsync(raw.fileno())
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return summary


async def _write(
    source: Source, file: gzip.GzipFile, *, at: float, program: str, told: Progress, of: Holding
) -> Summary:
    columns = {table: list(names) for table, names in (await source.columns()).items()}
    summary = Summary(await source.schema(), at, source.name, program, columns)
    whole = sha256()

    def put(line: bytes | bytearray) -> None:
        whole.update(line)
        file.write(line)

    put(_line({"format": of.format, "version": VERSION, "schema": summary.schema, "madeAt": at, "database": source.name,
               "program": program, "tables": columns}))  # fmt: skip
    for table, names in columns.items():
        put(_line({"table": table}))
        count, digest = 0, sha256()
        async for batch in source.rows(table, names):
            lines = bytearray()  # one by one: a line takes far more room while it is made
            for row in batch:
                lines += _line([_out(value) for value in row])
            digest.update(lines)
            put(lines)
            count += len(batch)
            told(table, count)
        summary.rows[table], summary.digests[table] = count, digest.hexdigest()
        put(_line({"end": table, "rows": count, "sha256": digest.hexdigest()}))
    file.write(_line({"end": of.format, "sha256": whole.hexdigest()}))
    return summary


def _line(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def _out(value: Any) -> Any:
    return {"b": base64.b64encode(value).decode()} if isinstance(value, bytes | memoryview) else value


# -- reading ------------------------------------------------------------------------------------


def holding_of(path: Path, among: Sequence[Holding]) -> Holding:
    """Whose backup it says to be; the first of them where it says nothing of the kind: `verify` tells what is wrong.

    Raises Invalid, NewerDatabase."""
    for of in among:
        with suppress(BrokenBackup), reading(path, of):
            return of
    return among[0]


def verify(
    path: Path, told: Progress, each: Callable[[str, dict[str, Any]], None] | None = None, *, of: Holding = STORE
) -> Summary:
    """Reads the file from end to end: every line, count and digest. `each(table, row)` sees the rows by column.

    Raises BrokenBackup, NewerDatabase when a newer program made it.
    """
    with reading(path, of) as (summary, batches):
        for table, batch in batches:
            if each is not None:
                for row in batch:
                    each(table, dict(zip(summary.columns[table], row, strict=True)))
            told(table, summary.rows.get(table, 0) + len(batch))
    return summary


@contextmanager
def reading(path: Path, of: Holding) -> Iterator[tuple[Summary, Iterator[tuple[str, list[list[Any]]]]]]:
    """What the file says of itself, and its rows in batches. `rows` and `digests` of the summary fill as it is
    read; once the batches are used up without an error, the file was whole."""
    try:
        with gzip.open(path, "rb") as file:
            lines = _Lines(file)
            summary = _header(lines.next(), of)
            yield summary, _batches(lines, summary, of)
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise Invalid.field("FILE", f"{path} cannot be read: {error.strerror}") from error
        raise BrokenBackup(f"{path} is damaged or no backup: {error}") from error


class _Lines:
    def __init__(self, file: gzip.GzipFile) -> None:
        self._file, self.digest, self.number = file, sha256(), 0

    def next(self) -> Any:
        line = self._file.readline(LINE_MAX)
        self.number += 1
        if not line.endswith(b"\n"):
            raise BrokenBackup(f"line {self.number}: the file ends too early" if len(line) < LINE_MAX
                               else f"line {self.number}: longer than {LINE_MAX} bytes")  # fmt: skip
        self.line, self.before = line, self.digest.copy()
        self.digest.update(line)
        try:
            return orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise BrokenBackup(f"line {self.number}: no JSON") from error

    def wrong(self, what: str) -> BrokenBackup:
        return BrokenBackup(f"line {self.number}: {what}")

    def must_end(self) -> None:
        if self._file.read(1):
            raise BrokenBackup("there is more after the end")


def _header(said: Any, of: Holding) -> Summary:
    if not isinstance(said, dict) or said.get("format") != of.format:
        raise BrokenBackup(f"this is no backup of {of.what}")
    if said.get("version") != VERSION:
        raise BrokenBackup(f"a backup of format {said.get('version')}, this program reads {VERSION}")
    tables: Any = said.get("tables")
    good = isinstance(tables, dict) and 0 < len(tables) <= TABLES_MAX and all(
        isinstance(names, list) and names and all(isinstance(n, str) for n in names) for names in tables.values()
    )  # fmt: skip
    if not good or not isinstance(said.get("schema"), int) or not isinstance(said.get("madeAt"), int | float):
        raise BrokenBackup("line 1: what it says of itself makes no sense")
    if said["schema"] > (newest := of.family.newest()):
        raise NewerDatabase(f"the backup has schema {said['schema']}, this program knows {newest}: use the newer hansa")
    return Summary(said["schema"], said["madeAt"], str(said.get("database")), str(said.get("program")), tables)


def _batches(lines: _Lines, summary: Summary, of: Holding) -> Iterator[tuple[str, list[list[Any]]]]:
    for table, names in summary.columns.items():
        if lines.next() != {"table": table}:
            raise lines.wrong(f"the table {table} must begin here")
        count, digest, batch = 0, sha256(), []
        while isinstance(row := lines.next(), list):
            if len(row) != len(names):
                raise lines.wrong(f"{len(row)} values, {table} has {len(names)} columns")
            digest.update(lines.line)
            batch.append([_in(value, lines) for value in row])
            count += 1
            if len(batch) == of.batch:
                yield table, batch
                summary.rows[table], batch = count, []
        if row != {"end": table, "rows": count, "sha256": digest.hexdigest()}:
            raise lines.wrong(f"count or digest of {table} is another one")
        yield table, batch
        summary.rows[table], summary.digests[table] = count, digest.hexdigest()
    if lines.next() != {"end": of.format, "sha256": lines.before.hexdigest()}:
        raise lines.wrong("the digest of the whole is another one")
    lines.must_end()


def _in(value: Any, lines: _Lines) -> Any:
    if not isinstance(value, dict):
        return value
    try:
        return base64.b64decode(value["b"], validate=True)
    except (KeyError, TypeError, binascii.Error) as error:
        raise lines.wrong("a value that makes no sense") from error
