"""One function for all gates: may this caller do this with that, under these rules?

Pure. It knows the roles (`policy.access`), the catalogues that everybody may read, and the territories of
sovereignty policies; later issues add layers, not gates.
"""

from __future__ import annotations

from hansa.policy.access import CATALOGUES, on, permission, reaches, within_bounds
from hansa.policy.verdict import PROGRAM, Act, Caller, Grant, Rules, Subject, Verdict

_WORDS = {
    Act.CONSOLE: "open the console of",
    Act.SSH: "log in to or read the log of",
    Act.BYPASS: "bypass the retention in",
}


def decide(caller: Caller, act: Act, subject: Subject, rules: Rules) -> Verdict:
    """Roles first, then written rules; the first refusal stands."""
    by_role = Verdict(True, "program") if caller is PROGRAM else _by_role(caller, act, subject)
    if not by_role.allowed:
        return by_role
    return _by_territory(subject, rules) if subject.territory and act in (Act.CREATE, Act.PLACE) else by_role


def decide_some(caller: Caller, subject: Subject) -> bool:
    """May this caller read at least some objects of a collection, each of which is then asked for?"""
    needed = permission(subject.kind, Act.READ)
    mine = any(reaches(grant, subject, needed, partly=True) for grant in on(caller, subject))
    return mine and within_bounds(caller, subject, needed, partly=True)


def _by_role(caller: Caller, act: Act, subject: Subject) -> Verdict:
    if subject.kind in CATALOGUES:
        return _catalogue(act, subject)
    grants, needed = on(caller, subject), permission(subject.kind, act)
    for grant in grants:
        if reaches(grant, subject, needed):
            return Verdict(True, grant.role) if within_bounds(caller, subject, needed) else _bounded(caller, needed)
    return _refused(caller, act, subject, needed, grants) if grants else _unseen(caller, subject)


def _refused(caller: Caller, act: Act, subject: Subject, needed: str, grants: list[Grant]) -> Verdict:
    roles = sorted({grant.role for grant in grants})
    what = f"{_WORDS.get(act, act.value)} {subject.kind} {subject.name}".strip()
    why = f"to {what} takes the permission {needed or 'that nobody holds'}; {caller.ref} is {', '.join(roles)} here"
    return Verdict(False, roles[0], (why,), details={"permission": needed})


def _bounded(caller: Caller, needed: str) -> Verdict:
    why = f"the key {caller.via} does not reach as far as {needed} here, though its account does"
    return Verdict(False, "key", (why,), details={"permission": needed})


def _unseen(caller: Caller, subject: Subject) -> Verdict:
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
