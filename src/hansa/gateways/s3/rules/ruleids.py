"""Ids of a bucket's lifecycle and replication rules: one for each that has none, and none twice. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from hansa.gateways.s3.wire.bucketrules import LifecycleRule, ReplicationRule
from hansa.gateways.s3.wire.errors import S3Error

ID_MAX = 255
R = TypeVar("R", LifecycleRule, ReplicationRule)


def identified(rules: Sequence[R]) -> tuple[R, ...]:
    """The rules, each with an id. Raises InvalidArgument for one that is too long, or that two have."""
    found = tuple(rule if rule.id else replace(rule, id=_id(rule, number)) for number, rule in enumerate(rules))
    check_unique("ID", [rule.id for rule in found])
    for rule in found:
        if len(rule.id) > ID_MAX:
            raise S3Error.argument("ID", rule.id, f"takes at most {ID_MAX} characters")
    return found


def check_unique(name: str, values: Sequence[str]) -> None:
    twice = next((value for value, count in Counter(values).items() if count > 1), None)
    if twice is not None:
        raise S3Error.argument(name, twice, "must be unique among the rules")


def _id(rule: LifecycleRule | ReplicationRule, number: int) -> str:
    """A name for a rule that has none: the same for the same rule at the same place."""
    return "rule-" + hashlib.sha256(f"{number} {rule!r}".encode()).hexdigest()[:16]
