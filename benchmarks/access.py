"""One check of roles, pure and whole: by birth, by a binding, and with many bindings; and a login by password."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from argon2 import PasswordHasher

from hansa.policy.decide import decide
from hansa.policy.verdict import Act, Caller, Grant, Rules, Subject

ROUNDS = 20_000
REF = "/compute/projects/shop/regions/se-sto/virtualMachines/web-1"
MACHINE = Subject("VirtualMachine", "web-1", "shop", "acme", ref=REF)
PATTERN = ("/compute/projects/shop/regions/*/virtualMachines/*",)


def run() -> Iterator[dict[str, Any]]:
    elsewhere = tuple(Grant(f"projects/p{n}", "computeViewer") for n in range(50))
    callers = {
        "by birth": Caller("/iam/users/o", owns=frozenset({"acme"})),
        "by a binding": Caller("/iam/users/b", grants=(Grant("projects/shop", "computeOperator"),)),
        "by a pattern among 50 other bindings": Caller(
            "/iam/users/p", grants=(*elsewhere, Grant("projects/shop", "computeOperator", PATTERN))
        ),
        "refused": Caller("/iam/users/r", grants=(Grant("projects/shop", "networkingViewer"),)),
    }
    for what, caller in callers.items():
        decide(caller, Act.READ, MACHINE, Rules())
        began = time.perf_counter()
        for _ in range(ROUNDS):
            decide(caller, Act.READ, MACHINE, Rules())
        yield {"what": f"role check, {what}", "us": round((time.perf_counter() - began) / ROUNDS * 1e6, 2)}
    hasher = PasswordHasher(time_cost=3, memory_cost=65_536, parallelism=1)
    made, began = hasher.hash("a password"), time.perf_counter()
    hasher.verify(made, "a password")
    yield {"what": "one verification of a password", "ms": round((time.perf_counter() - began) * 1e3, 1)}
