"""Every statement of the index finds its rows by an index, on SQLite as it plans them: none walks over a table."""

from __future__ import annotations

import re
import sqlite3

import pytest

from hansa.objectindex import statements as sql
from hansa.objectindex.migrate import migrate_sqlite

STATEMENTS = {
    name: text
    for name, text in vars(sql).items()
    if isinstance(text, str) and re.match(r"\s*(select|insert|update|delete)\b", text) and not name.startswith("_")
}


def plan(name: str) -> list[str]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate_sqlite(connection)
    words = dict.fromkeys(re.findall(r"(?<![:\w]):([a-z_]+)", STATEMENTS[name]), 0)
    steps = [row[3] for row in connection.execute(f"explain query plan {STATEMENTS[name]}", words)]
    connection.close()
    return steps


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_walks_over_a_table_or_sorts(name: str) -> None:
    assert not [step for step in plan(name) if "SCAN s3_" in step or "TEMP B-TREE" in step]


@pytest.mark.parametrize("name", ["LIST", "ORDER_OF", "KNOWN"])
def test_what_listings_need_stands_in_the_index(name: str) -> None:
    assert any("COVERING INDEX" in step for step in plan(name))


def test_all_statements_are_looked_at() -> None:
    assert len(STATEMENTS) > 45
