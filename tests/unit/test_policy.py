"""Who may do what: owners, members, strangers, and the acts that are for owners alone."""

from __future__ import annotations

import pytest

from hansa.policy.decide import OWNERS_ONLY, decide
from hansa.policy.verdict import PROGRAM, Act, Caller, Rules, Subject

MACHINE = Subject("VirtualMachine", "web-1", project="shop", organization="acme")
OWNER = Caller("/iam/users/o", owns=frozenset({"acme"}))
MEMBER = Caller("/iam/projects/shop/serviceAccounts/m", member_of=frozenset({"shop"}))
STRANGER = Caller("/iam/users/s", owns=frozenset({"other"}), member_of=frozenset({"elsewhere"}))


def test_a_console_is_opened_by_owners_of_the_organisation_only() -> None:
    assert decide(OWNER, Act.CONSOLE, MACHINE, Rules()).allowed
    refused = decide(MEMBER, Act.CONSOLE, MACHINE, Rules())
    assert not refused.allowed and refused.visible and refused.rule == "projectMember"
    assert "only an owner of the organisation may open the console of a VirtualMachine" in refused.why
    assert MEMBER.ref in refused.why


def test_a_stranger_is_not_told_that_the_machine_exists() -> None:
    for act in Act:
        verdict = decide(STRANGER, act, MACHINE, Rules())
        assert not verdict.allowed and not verdict.visible and verdict.rule == "stranger", act


@pytest.mark.parametrize("act", [act for act in Act if act is not Act.CONSOLE])
def test_members_do_everything_else_with_a_machine(act: Act) -> None:
    assert decide(MEMBER, act, MACHINE, Rules()).allowed


@pytest.mark.parametrize("kind", sorted(OWNERS_ONLY))
def test_what_owners_write_members_read(kind: str) -> None:
    subject = Subject(kind, "x", project="shop", organization="acme")
    assert decide(MEMBER, Act.READ, subject, Rules()).allowed
    assert not decide(MEMBER, Act.UPDATE, subject, Rules()).allowed
    assert decide(OWNER, Act.UPDATE, subject, Rules()).allowed


def test_a_catalogue_has_no_console_and_the_program_asks_nobody() -> None:
    assert not decide(OWNER, Act.CONSOLE, Subject("Host", "a-1"), Rules()).allowed
    assert decide(PROGRAM, Act.CONSOLE, MACHINE, Rules()).allowed
