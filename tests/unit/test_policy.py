"""Who may do what: the table of roles, what a caller holds where, the grant rule; and that more never means less."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.kinds.registry import all_kinds
from hansa.policy.access import AUDIT, CATALOGUES, OBJECTS, ROLES, held, meaning, not_held, permission, permissions_of
from hansa.policy.decide import decide, decide_some
from hansa.policy.verdict import PROGRAM, Act, Caller, Grant, Rules, Subject

REF = "/compute/projects/shop/regions/se-sto/virtualMachines/"
MACHINE = Subject("VirtualMachine", "web-1", project="shop", organization="acme", ref=f"{REF}web-1")
OWNER = Caller("/iam/users/o", owns=frozenset({"acme"}))
MEMBER = Caller("/iam/projects/shop/serviceAccounts/m", member_of=frozenset({"shop"}))
STRANGER = Caller("/iam/users/s", owns=frozenset({"other"}), member_of=frozenset({"elsewhere"}))
ASKED = [act for act in Act if act not in (Act.PLACE, Act.BYPASS)]  # the program's own; of objects in buckets only
FOR_OWNERS = ("Project", "SovereigntyPolicy", "ServiceAccount", "ServiceAccountCredential", "RoleBinding")


def with_role(role: str, scope: str = "projects/shop", *resources: str) -> Caller:
    return Caller("/iam/users/x", grants=(Grant(scope, role, resources),))


# -- what was before there were roles ---------------------------------------------------------------


def test_a_console_is_opened_by_owners_only() -> None:
    assert decide(OWNER, Act.CONSOLE, MACHINE, Rules()).allowed
    assert decide(with_role("projectOwner"), Act.CONSOLE, MACHINE, Rules()).allowed
    for other in (MEMBER, *(with_role(name) for name in ROLES if name != "projectOwner")):
        refused = decide(other, Act.CONSOLE, MACHINE, Rules())
        assert not refused.allowed
    refused = decide(MEMBER, Act.CONSOLE, MACHINE, Rules())
    assert refused.visible and refused.rule == "projectContributor"
    assert "open the console of VirtualMachine web-1" in refused.why
    assert "compute.virtualMachines.console" in refused.why and MEMBER.ref in refused.why


def test_a_stranger_is_not_told_that_the_machine_exists() -> None:
    for act in Act:
        verdict = decide(STRANGER, act, MACHINE, Rules())
        assert not verdict.allowed and not verdict.visible and verdict.rule == "stranger", act


@pytest.mark.parametrize("act", [act for act in ASKED if act is not Act.CONSOLE])
def test_members_do_everything_else_with_a_machine(act: Act) -> None:
    assert decide(MEMBER, act, MACHINE, Rules()).allowed


@pytest.mark.parametrize("kind", FOR_OWNERS)
def test_what_owners_write_members_read(kind: str) -> None:
    subject = Subject(kind, "x", project="shop", organization="acme")
    assert decide(MEMBER, Act.READ, subject, Rules()).allowed
    writes = [a for a in (Act.CREATE, Act.UPDATE, Act.DELETE) if meaning(permission(kind, a)) is not None]
    assert writes
    for act in writes:
        assert not decide(MEMBER, act, subject, Rules()).allowed
        assert decide(OWNER, act, subject, Rules()).allowed


def test_the_audit_is_for_owners_and_those_who_answer_incidents() -> None:
    subject = Subject(AUDIT, "", project="shop", organization="acme")
    for name, role in ROLES.items():
        caller = with_role(name, "projects/shop" if role.scope == "projects" else "organizations/acme")
        may = name in ("projectOwner", "organizationOwner", "securityIncidentResponder")
        assert decide(caller, Act.READ, subject, Rules()).allowed == may, name


def test_a_catalogue_has_no_console_and_the_program_asks_nobody() -> None:
    assert not decide(OWNER, Act.CONSOLE, Subject("Host", "a-1"), Rules()).allowed
    assert decide(PROGRAM, Act.CONSOLE, MACHINE, Rules()).allowed


# -- the table --------------------------------------------------------------------------------------


def test_the_roles_are_those_of_the_contract_and_three_of_ours() -> None:
    project = {name for name, role in ROLES.items() if role.scope == "projects"}
    assert project == {
        "projectOwner", "projectContributor", "projectAccessAdministrator", "computeViewer", "computeOperator",
        "networkingViewer", "networkingOperator", "networkingUser", "loadBalancerViewer", "loadBalancerOperator",
        "storageOperator", "thinkViewer", "thinkOperator", "quotaViewer", "cicdInfrastructureManager",
        "securityIncidentResponder", "kubernetesCCMAgent", "kubernetesCSIAgent",
        "storageObjectViewer", "storageObjectCreator", "storageObjectOperator",  # ours
    }  # fmt: skip
    assert set(ROLES) - project == {
        "organizationOwner", "organizationViewer", "organizationAccessAdministrator", "organizationProjectCreator",
    }  # fmt: skip


def test_every_verb_of_every_kind_has_a_permission_that_owners_hold() -> None:
    acts = {"G": Act.READ, "L": Act.READ, "S": Act.READ, "C": Act.CREATE, "P": Act.UPDATE, "D": Act.DELETE}
    for kind in all_kinds():
        if kind.public and kind.kind not in CATALOGUES:
            for verb in kind.verbs:
                text = permission(kind.kind, acts[verb])
                assert meaning(text) == (kind.kind, acts[verb])
                assert text in permissions_of("organizationOwner")


def test_viewers_change_nothing() -> None:
    for name in ROLES:
        if name.endswith("Viewer"):
            assert permissions_of(name) and all(p.endswith(".read") for p in permissions_of(name)), name


def test_what_is_in_buckets_is_not_for_those_who_only_look_after_things() -> None:
    subject = Subject(OBJECTS, "b", project="shop", organization="acme")
    for act, names in {
        Act.READ: ("storageObjectViewer", "storageObjectOperator"),
        Act.CREATE: ("storageObjectCreator", "storageObjectOperator"),
        Act.DELETE: ("storageObjectOperator",),
        Act.BYPASS: (),
    }.items():
        wide = {"organizationOwner", "projectOwner", "projectContributor", "storageOperator", *names}
        for name, role in ROLES.items():
            caller = with_role(name, "projects/shop" if role.scope == "projects" else "organizations/acme")
            assert decide(caller, act, subject, Rules()).allowed == (name in wide), (name, act)


def test_a_role_on_a_scope_of_another_sort_is_worth_nothing() -> None:
    assert not decide(with_role("organizationOwner", "projects/shop"), Act.READ, MACHINE, Rules()).allowed
    assert not decide(with_role("projectOwner", "organizations/acme"), Act.READ, MACHINE, Rules()).allowed
    assert not decide(with_role("noSuchRole"), Act.READ, MACHINE, Rules()).allowed


def test_a_role_of_the_organisation_reaches_its_projects_and_no_others() -> None:
    viewer = with_role("organizationViewer", "organizations/acme")
    assert decide(viewer, Act.READ, MACHINE, Rules()).allowed
    elsewhere = decide(viewer, Act.READ, Subject("VirtualMachine", "m", "other", "others"), Rules())
    assert not elsewhere.allowed and not elsewhere.visible


def test_an_empty_scope_covers_nothing() -> None:
    """A project that does not exist has no organisation: nobody may hold a role on that nothing."""
    for scope in ("projects/", "organizations/", "", "projects", "/"):
        for role in ("projectOwner", "organizationOwner"):
            assert not decide(with_role(role, scope), Act.READ, Subject("VirtualMachine"), Rules()).allowed


# -- parts of a scope -------------------------------------------------------------------------------


def test_resources_narrow_a_role() -> None:
    caller = with_role("computeOperator", "projects/shop", "/compute/projects/shop/regions/*/virtualMachines/web-1")
    assert decide(caller, Act.DELETE, MACHINE, Rules()).allowed
    other = Subject("VirtualMachine", "db", "shop", "acme", ref=f"{REF}db")
    refused = decide(caller, Act.READ, other, Rules())
    assert not refused.allowed and refused.visible
    assert decide(
        caller, Act.READ, Subject("Project", "shop", "shop", "acme", ref="/iam/projects/shop"), Rules()
    ).allowed


def test_a_star_stands_for_one_segment() -> None:
    caller = with_role("projectOwner", "projects/shop", "/iam/projects/shop/serviceAccounts/*")
    account = Subject("ServiceAccount", "a", "shop", "acme", ref="/iam/projects/shop/serviceAccounts/a")
    key = Subject(
        "ServiceAccountCredential", "k", "shop", "acme",
        ref="/iam/projects/shop/serviceAccounts/a/serviceAccountCredentials/k",
    )  # fmt: skip
    assert decide(caller, Act.READ, account, Rules()).allowed
    assert not decide(caller, Act.READ, key, Rules()).allowed


def test_a_collection_is_read_in_part_by_who_may_read_a_part() -> None:
    collection = Subject("VirtualMachine", "", "shop", "acme", ref=REF)
    part = with_role("computeViewer", "projects/shop", f"{REF}web-1")
    assert not decide(part, Act.READ, collection, Rules()).allowed and decide_some(part, collection)
    disks = Subject("Disk", "", "shop", "acme", ref="/compute/projects/shop/regions/se-sto/disks/")
    assert not decide_some(part, disks)


# -- the grant rule ---------------------------------------------------------------------------------


def test_nobody_grants_what_they_do_not_hold() -> None:
    administrator = with_role("projectAccessAdministrator")
    assert "compute.disks.read" in not_held(administrator, Grant("projects/shop", "computeViewer"), "acme")
    both = Caller("/iam/users/x", grants=(*administrator.grants, Grant("projects/shop", "computeOperator")))
    assert not_held(both, Grant("projects/shop", "computeViewer"), "acme") == ()
    assert not_held(both, Grant("projects/other", "computeViewer"), "acme") != ()
    assert not_held(both, Grant("organizations/acme", "organizationViewer"), "acme") != ()
    assert not_held(OWNER, Grant("organizations/acme", "organizationOwner"), "acme") == ()


def test_a_part_is_granted_out_of_a_whole_and_never_the_other_way() -> None:
    part, whole = (f"{REF}web-1",), (f"{REF}*",)
    narrow = Caller("/iam/users/x", grants=(Grant("projects/shop", "computeOperator", part),))
    wide = Caller("/iam/users/x", grants=(Grant("projects/shop", "computeOperator", whole),))
    assert not_held(wide, Grant("projects/shop", "computeOperator", part), "acme") == ()
    assert not_held(narrow, Grant("projects/shop", "computeOperator", whole), "acme") != ()
    assert not_held(narrow, Grant("projects/shop", "computeOperator"), "acme") != ()


# -- properties -------------------------------------------------------------------------------------

SCOPES = ["projects/shop", "projects/other", "organizations/acme", "organizations/others", "projects/", ""]
PATTERNS = [f"{REF}*", f"{REF}web-1", "/compute/projects/shop/regions/*/*/*", "/iam/projects/shop/serviceAccounts/*"]
KINDS = sorted({kind for kind, _ in map(meaning, permissions_of("organizationOwner")) if kind})  # type: ignore[misc]
GRANTS = st.builds(
    Grant, st.sampled_from(SCOPES), st.sampled_from([*ROLES, "none"]),
    st.lists(st.sampled_from(PATTERNS), max_size=2).map(tuple),
)  # fmt: skip
SUBJECTS = st.builds(
    lambda kind, project, name: Subject(
        kind, name, project, "acme" if project == "shop" else "others",
        ref=f"/compute/projects/{project}/regions/se-sto/virtualMachines/{name}",
    ),
    st.sampled_from([*KINDS, "Host", "NoSuchKind"]), st.sampled_from(["shop", "other"]), st.sampled_from(["web-1", "db", ""]),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(GRANTS, max_size=4), GRANTS, SUBJECTS, st.sampled_from(ASKED))
def test_another_binding_never_allows_less(grants: list[Grant], more: Grant, subject: Subject, act: Act) -> None:
    before = decide(Caller("/iam/users/x", grants=tuple(grants)), act, subject, Rules())
    after = decide(Caller("/iam/users/x", grants=(*grants, more)), act, subject, Rules())
    assert after.allowed or not before.allowed
    assert after.visible or not before.visible


@settings(max_examples=400, deadline=None)
@given(SUBJECTS, st.sampled_from(list(Act)))
def test_who_holds_nothing_may_read_catalogues_and_nothing_else(subject: Subject, act: Act) -> None:
    verdict = decide(Caller("/iam/users/x"), act, subject, Rules())
    assert verdict.allowed == (subject.kind in CATALOGUES and act is Act.READ)


@settings(max_examples=400, deadline=None)
@given(st.lists(GRANTS, max_size=3), GRANTS, SUBJECTS, st.sampled_from(ASKED))
def test_what_is_granted_by_the_rule_lets_nobody_do_more_than_the_giver(
    grants: list[Grant], given_on: Grant, subject: Subject, act: Act
) -> None:
    giver = Caller("/iam/users/x", grants=tuple(grants))
    organization = "acme" if given_on.scope in ("projects/shop", "organizations/acme") else "others"
    if not_held(giver, given_on, organization) or not list(held(Caller("/iam/users/y", grants=(given_on,)))):
        return
    if decide(Caller("/iam/users/y", grants=(given_on,)), act, subject, Rules()).allowed:
        assert decide(giver, act, subject, Rules()).allowed
