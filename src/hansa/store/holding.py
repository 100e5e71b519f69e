"""What is backed up, and put in place, as one: the tables of one family of migrations. The store is one such holding, the
object index another (`hansa.objectindex.holding`); both may lie in one database and know nothing of one another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from hansa.store.migrate import STORE as STORE_MIGRATIONS
from hansa.store.migrate import Family

_MADE = re.compile(r"\bcreate (table|function) (?:if not exists )?(\w+)")


@dataclass(frozen=True, slots=True)
class Holding:
    format: str  # the first word of its backups
    what: str  # for people
    family: Family
    filled: tuple[str, ...]  # it holds something when one of these tables has a row
    numbered: tuple[tuple[str, str], ...]  # table and column whose numbers are given out by the database
    afterwards: str  # a statement after a restore: what was true of processes that are gone
    batch: int  # rows at a time: as wide as its rows may be

    def made(self) -> dict[str, str]:
        """Everything that its migrations make: name -> table or function. Nothing else in the database is ours."""
        texts = [part for migration in self.family.known() for part in migration.parts.values()]
        return {name: what for text in texts for what, name in _MADE.findall(text)}

    def tables(self) -> list[str]:
        return [name for name, what in self.made().items() if what == "table"]

    def functions(self) -> list[str]:
        return [name for name, what in self.made().items() if what == "function"]


STORE: Final = Holding(
    format="hansa-backup",
    what="a store",
    family=STORE_MIGRATIONS,
    filled=("objects", "changes", "records", "claims"),
    numbered=(("changes", "revision"),),
    afterwards="update work set leased_until = 0, token = ''",
    batch=1000,
)
