"""What `hansa s3 keys` leaves behind when it is refused half-way."""

from __future__ import annotations

from typing import Any

import pytest

from hansa.cli.s3 import _account
from hansa.errors import Forbidden


class NoRoles:
    """A client whose service account may be made and gets no role."""

    place = {"project": "demo"}

    def __init__(self) -> None:
        self.made: list[str] = []

    def create(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        self.made.append(name)

    def request(self, method: str, path: str, *, body: dict[str, Any]) -> None:
        assert path.endswith("/roleBindings/assign") and body["principal"].endswith(self.made[-1])
        raise Forbidden("you may not assign roles")


def test_an_account_that_got_no_role_is_told_of() -> None:
    client = NoRoles()
    with pytest.raises(Forbidden) as refused:
        _account(client, "robot")  # type: ignore[arg-type]
    assert client.made == ["robot"]
    assert any("hansa delete serviceaccount robot" in note for note in refused.value.__notes__)
