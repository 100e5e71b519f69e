"""One function for all gates: may this caller do this with that, under these rules?

Pure. It knows the owner of an organisation, the members of a project, the catalogues that everybody may
read, and the territories of sovereignty policies; later issues add layers, not gates.
"""

from __future__ import annotations

from hansa.policy.verdict import PROGRAM, Act, Caller, Rules, Subject, Verdict

CATALOGUES = frozenset({"ComputeProfile", "DiskImage", "Region", "Zone", "Hall", "Rack", "Host", "PriceList"})
# Members read these, owners write them. Service accounts too: one of a project may own its organisation, and
# whoever could make a key for it would own it as well.
OWNERS_ONLY = frozenset({"Project", "SovereigntyPolicy", "ServiceAccount", "ServiceAccountCredential"})


def decide(caller: Caller, act: Act, subject: Subject, rules: Rules) -> Verdict:
    """Roles first, then written rules; the first refusal stands."""
    by_role = Verdict(True, "program") if caller is PROGRAM else _by_role(caller, act, subject)
    if not by_role.allowed:
        return by_role
    return _by_territory(subject, rules) if subject.territory and act in (Act.CREATE, Act.PLACE) else by_role


def _by_role(caller: Caller, act: Act, subject: Subject) -> Verdict:
    if subject.kind in CATALOGUES:
        return _catalogue(act, subject)
    if subject.organization and subject.organization in caller.owns:
        return Verdict(True, "organizationOwner")
    if subject.project and subject.project in caller.member_of:
        for_owners = act is Act.CONSOLE or subject.kind in OWNERS_ONLY
        if act is Act.READ or not for_owners:
            return Verdict(True, "projectMember")
        what = "open the console of" if act is Act.CONSOLE else act.value
        why = f"only an owner of the organisation may {what} a {subject.kind}; {caller.ref} is a member"
        return Verdict(False, "projectMember", (why,))
    what = f"project {subject.project}" if subject.project else f"{subject.kind} {subject.name}".strip()
    return Verdict(False, "stranger", (f"{caller.ref} has no role on {what}",), visible=False)


def _catalogue(act: Act, subject: Subject) -> Verdict:
    if act is Act.READ:
        return Verdict(True, "catalogue")
    return Verdict(False, "catalogue", (f"a {subject.kind} is part of a catalogue and cannot be changed",))


def _by_territory(subject: Subject, rules: Rules) -> Verdict:
    for rule in rules.territories:
        if subject.territory not in rule.territories:
            allowed = ", ".join(sorted(rule.territories))
            why = f"{rule.name} allows only {allowed}, and this place is in {subject.territory}"
            return Verdict(False, rule.name, (why,), details={"territory": subject.territory})
    return Verdict(True, "territories" if rules.territories else "roles")
