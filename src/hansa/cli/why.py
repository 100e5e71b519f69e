"""`hansa why`: one screen that explains the state of one object."""

from __future__ import annotations

from typing import Any

import click

from hansa.cli.options import client_of, placed
from hansa.sdk import names
from hansa.units import human_size


@click.command("why")
@click.argument("words", nargs=-1, required=True, metavar="KIND NAME | KIND/NAME | decision/ID")
@placed
def why_command(words: tuple[str, ...], **place: Any) -> None:
    """Why an object is as it is: conditions, the placement's decision, what it waits for, what is due.

    \b
      hansa why vm/web-1
      hansa why decision/1d0c6a52-…      a refusal, or whatever else was decided, by its id
    """
    client = client_of(**place)
    decisions = [word.removeprefix("decision/") for word in words if word.startswith("decision/")]
    if decisions and len(decisions) < len(words):
        raise click.UsageError("ask for objects or for decisions, not for both at once")
    for id in decisions:
        click.echo("\n".join(decision_screen(client.decision(id))))
    if decisions:
        return
    for target in names.targets(words):
        if target.name is None:
            raise click.UsageError("say which one: KIND NAME")
        click.echo("\n".join(screen(client.request("GET", client.path_of(target) + "/why"))))


def decision_screen(found: dict[str, Any]) -> list[str]:
    """One decision: what was asked, what was said, for which reasons, what would help. Pure."""
    what = names.short_ref(found["ref"])
    if found["type"] == "placement":
        return [f"placement of {what}, {found['at']}", *placement_lines(found)]
    lines = [
        f"{found['act']} {what} was {found['verdict']}, {found['at']}",
        f"  asked by  {found['by']} (request {found['request']})",
        f"  rule      {found['rule']}",
    ]
    lines += [f"  because   {reason}" for reason in found["reasons"]]
    if quota := found.get("quota"):
        limit, over = quota["limit"], quota["used"] + quota["asked"] - quota["limit"]
        if quota["unit"] == "bytes":
            limit, over = human_size(limit), human_size(over)
        lines.append(f"  short     {quota['quota']} of {quota['of']}: {over} more than the limit of {limit}")
    if found.get("help"):
        lines.append(f"  helps     {found['help']}")
    return lines


def placement_lines(decision: dict[str, Any]) -> list[str]:
    lines = [f"  chosen   {c['host']}" for c in decision["chosen"]] or ["  chosen   none"]
    lines += [f"  ranked   {r['host']:<16} cost {r['cost']}" for r in decision.get("ranked", [])[1:4]]
    for r in decision["refused"]:
        lines.append(f"  refused  {r['hosts']:>3} host(s)  {r['reason']:<18} {r['message']}")
    return lines


def screen(why: dict[str, Any]) -> list[str]:
    """The lines of the screen. Pure."""
    lines = [why["summary"]]
    if why["help"]:
        lines.append(f"  {why['help']}")
    lines += ["", "conditions"]
    for c in why["conditions"]:
        lines.append(f"  {c['type']:<16} {c['status']:<7} {c['reason']:<20} {c.get('message', '')}".rstrip())
    if why["runsOn"]:
        words = ", ".join(f"{k}: {v}" for k, v in why["runsOn"].items() if k != "ssh")
        lines += ["", f"runs on  {words}"]
        if why["runsOn"].get("accelerator") == "tcg":
            lines.append("  isolation none: emulation is no wall between strangers; for trying things out only")
    if decision := why["decision"]:
        lines += ["", f"placement  (decision {decision['id']}, {decision['at']})"]
        lines += placement_lines(decision)
    for title, key in (("points at", "pointsAt"), ("pointed at by", "pointedAtBy")):
        if why[key]:
            lines += ["", title]
            for p in why[key]:
                state = {True: "ready", False: "not ready", None: "-"}[p["ready"]]
                message = f": {p['message']}" if p.get("message") else ""
                lines.append(f"  {names.short_ref(p['ref']):<36} {state:<10} {p['reason']}{message}".rstrip())
    return [*lines, *waiting_lines(why), *work_lines(why)]


def waiting_lines(why: dict[str, Any]) -> list[str]:
    """Where the chain of waiting ends, when that is somewhere else. Pure."""
    lines: list[str] = []
    others = [c for c in why.get("causes", ()) if c["ref"] != why["object"]]
    if others:
        lines += ["", "waits in the end for"]
    for cause in others:
        message = f": {cause['message']}" if cause["message"] else ""
        lines.append(f"  {names.short_ref(cause['ref']):<36} {cause['reason']}{message}")
    if why.get("helps"):
        lines += ["", "what helps", *(f"  {line}" for line in why["helps"])]
    return lines


def work_lines(why: dict[str, Any]) -> list[str]:
    """What was tried, and what comes next. Pure."""
    attempts, due = why["attempts"], why["due"]
    lines = ["", "work"]
    when = "when something changes" if due["in"] is None else f"in {due['in']:.0f} s"
    if due["in"] is not None and due["in"] <= 0:
        when = f"due since {-due['in']:.0f} s"
    if due.get("heldFor") is not None:
        when = f"under way, for {due['heldFor']:.0f} s more at most"
    lines.append(f"  next look  {when}")
    if attempts["failures"] or attempts["lastError"]:
        lines.append(f"  attempts   {attempts['failures']} failed in a row; last: {attempts['lastError']}".rstrip(": "))
    for told in attempts.get("recent", ()):
        times = f" ({told['times']} times)" if told["times"] > 1 else ""
        request = f" [request {told['request']}]" if told["request"] else ""
        lines.append(f"  {told['last']}  {told['reason']:<20} {told['message']}{times}{request}".rstrip())
    return lines
