"""Writes `sdk/table.py` from the registry: `python -m hansa.sdk.generate`. A promise test keeps it fresh."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

HEAD = '''"""What the command line knows of kinds before it imports them.

Generated from the registry by `python -m hansa.sdk.generate`: do not edit.
"""

from __future__ import annotations

from hansa.sdk.names import Known

# fmt: off
'''


def text() -> str:
    """The whole module, from the registry as it is now."""
    from hansa.kinds import catalogue  # noqa: F401 - declares the kinds
    from hansa.kinds.registry import all_kinds, all_unbuilt

    lines = [HEAD + "KINDS: tuple[Known, ...] = ("]
    for kind in sorted((k for k in all_kinds() if k.public), key=lambda k: k.kind):
        about = next(iter((kind.__doc__ or "").strip().splitlines()), "")
        place = map(_text, (kind.kind, kind.service, kind.version, kind.collection))
        lines += [f"    Known({', '.join(place)},"]
        lines += [f"          scopes={_tuple(map(_text, kind.scopes))}, verbs={_text(kind.verbs)},"]
        lines += [f"          short={_tuple(map(_text, kind.short))}, actions={_tuple(map(_text, kind.actions))},"]
        lines += ["          columns=("]
        lines += [f"              ({_text(heading)}, {_text(path)})," for heading, path in kind.columns]
        lines += ["          ),", f"          about={_text(about)}),"]
    lines += [")", "", "UNBUILT: tuple[tuple[str, str], ...] = ("]
    reasons = {u.collection: u.reason for u in all_unbuilt()}
    for collection, reason in sorted(reasons.items()):
        lines += [f"    ({_text(collection)},", f"     {_text(reason)}),"]
    return "\n".join([*lines, ")", ""])


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _tuple(values: Iterable[str]) -> str:
    inner = list(values)
    return f"({', '.join(inner)}{',' if len(inner) == 1 else ''})"


def main() -> None:
    path = Path(__file__).with_name("table.py")
    path.write_text(text(), encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
