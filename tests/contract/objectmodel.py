"""What an object index must say, worked out the naive way: dictionaries and sorting. The suites compare with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from hansa.objectindex.records import NULL, Held, Versioning


@dataclass
class Entry:
    id: str
    marker: bool
    size: int
    blob: str


@dataclass
class Model:
    """One bucket. Each key's versions, the newest last."""

    keys: dict[str, list[Entry]] = field(default_factory=dict)
    garbage: set[str] = field(default_factory=set)

    def publish(self, key: str, entry: Entry, versioning: Versioning) -> None:
        if versioning is not Versioning.ENABLED:
            entry.id = NULL
            self._drop(key, NULL)
        self.keys.setdefault(key, []).append(entry)

    def delete(self, key: str, id: str, versioning: Versioning) -> None:
        if versioning is Versioning.NEVER:
            self._drop(key, NULL)
        else:
            self.publish(key, Entry(id, True, 0, ""), versioning)

    def remove(self, key: str, id: str) -> None:
        self._drop(key, id)

    def _drop(self, key: str, id: str) -> None:
        left = [entry for entry in self.keys.get(key, []) if entry.id != id]
        self.garbage |= {entry.blob for entry in self.keys.get(key, []) if entry.id == id and entry.blob}
        self.keys[key] = left
        if not left:
            del self.keys[key]

    def latest(self, key: str) -> Entry | None:
        return self.keys[key][-1] if key in self.keys else None

    def listed(self, prefix: str, delimiter: str, after: str = "") -> list[str]:
        """Keys and common prefixes of a plain listing, in order."""
        names: dict[str, None] = {}
        for key in _in_order(self.keys):
            if key.startswith(prefix) and key.encode() > after.encode() and not self.keys[key][-1].marker:
                rolled = _rolled(key, prefix, delimiter)
                if rolled is None or rolled != after:
                    names[key if rolled is None else rolled] = None
        return list(names)

    def versions(self, prefix: str, delimiter: str) -> list[tuple[str, str, bool]]:
        """(key or prefix, version's id or empty, whether it is the latest)."""
        found: list[tuple[str, str, bool]] = []
        for key in _in_order(self.keys):
            if key.startswith(prefix):
                if (rolled := _rolled(key, prefix, delimiter)) is not None:
                    found.append((rolled, "", False))
                else:
                    newest = self.keys[key][-1]
                    found += [(key, entry.id, entry is newest) for entry in reversed(self.keys[key])]
        return list(dict.fromkeys(found))

    def held(self) -> Held:
        every = [entry for entries in self.keys.values() for entry in entries]
        return Held(sum(entry.size for entry in every), len(every), len(self.listed("", "")))


def _rolled(key: str, prefix: str, delimiter: str) -> str | None:
    """The common prefix that stands for the key, if one does."""
    head, met, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
    return prefix + head + met if met else None


def _in_order(keys: dict[str, list[Entry]]) -> list[str]:
    return sorted(keys, key=str.encode)
