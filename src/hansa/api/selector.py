"""Label selectors in Kubernetes' syntax: `a=b,c!=d,e in (f,g),h notin (i),j,!k`. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from hansa.errors import Invalid
from hansa.units import SELECTOR_LENGTH_MAX

Labels = Mapping[str, str]
Selector = Callable[[Labels], bool]

_KEY = r"[A-Za-z0-9][A-Za-z0-9._/-]*"
_SET = re.compile(rf"(?P<key>{_KEY})\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)")
_EQUAL = re.compile(rf"(?P<key>{_KEY})\s*(?P<op>==|=|!=)\s*(?P<value>[A-Za-z0-9._-]*)")
_EXISTS = re.compile(rf"(?P<no>!?)\s*(?P<key>{_KEY})")


def parse(text: str) -> Selector:
    """Raises Invalid naming the part that is no requirement."""
    if len(text) > SELECTOR_LENGTH_MAX:
        raise Invalid.field("labelSelector", f"is longer than {SELECTOR_LENGTH_MAX} characters")
    parts = [p.strip() for p in re.split(r",(?![^(]*\))", text)]
    requirements = [_requirement(p) for p in parts if p]
    return lambda labels: all(r(labels) for r in requirements)


def _requirement(text: str) -> Selector:
    if m := _SET.fullmatch(text):
        key, values = m["key"], frozenset(v.strip() for v in m["values"].split(","))
        if m["op"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: key not in labels or labels[key] not in values
    if m := _EQUAL.fullmatch(text):
        key, value = m["key"], m["value"]
        if m["op"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if m := _EXISTS.fullmatch(text):
        key = m["key"]
        return (lambda labels: key not in labels) if m["no"] else (lambda labels: key in labels)
    raise Invalid.field(
        "labelSelector", f'"{text}" is no requirement; write k=v, k!=v, k in (a,b), k notin (a), k or !k'
    )
