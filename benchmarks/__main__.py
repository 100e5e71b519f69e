"""`scripts/bench [store|database|api|access|boot|machines|network|objects|quota|stored|s3 ...] [--long]`.

`--long` adds what takes minutes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from benchmarks import access, api, boot, database, machines, network, objects, quota, s3, store, stored

Figures = Iterable[dict[str, Any]]
LONG = "--long"
SUITES: dict[str, Callable[[], Figures]] = {
    "store": store.run,
    "database": database.run,
    "api": api.run,
    "access": access.run,
    "boot": boot.run,
    "machines": machines.run,
    "network": network.run,
    "objects": objects.run,
    "quota": quota.run,
    "stored": stored.run,
    "s3": s3.run,
}


def main(words: list[str]) -> int:
    suites = SUITES | ({"s3": partial(s3.run, long=True)} if LONG in words else {})
    words = [word for word in words if word != LONG]
    if unknown := set(words) - set(suites):
        print(
            f"usage: scripts/bench [{'|'.join(suites)}]... [{LONG}]; not known: {', '.join(unknown)}", file=sys.stderr
        )
        return 2
    for word in words or suites:
        for figure in suites[word]():
            print(json.dumps(figure), flush=True)
    return 0


sys.exit(main(sys.argv[1:]))
