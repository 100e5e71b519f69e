"""`scripts/bench [store|database|api|access|boot|machines|network|objects|quota|stored ...]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from benchmarks import access, api, boot, database, machines, network, objects, quota, store, stored

SUITES = {
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
}


def main(words: list[str]) -> int:
    if unknown := set(words) - set(SUITES):
        print(f"usage: scripts/bench [{'|'.join(SUITES)}]...; not known: {', '.join(unknown)}", file=sys.stderr)
        return 2
    for word in words or SUITES:
        figures: Iterable[dict[str, Any]] = SUITES[word]()
        for figure in figures:
            print(json.dumps(figure), flush=True)
    return 0


sys.exit(main(sys.argv[1:]))
