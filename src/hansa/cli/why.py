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
                lines.append(f"  {names.short_ref(p['ref']):<36} {state:<10} {p['reason']}".rstrip())
    lines += ["", "work"]
    left = why["due"]["in"]
    when = f"in {max(0, left):.0f} s" if left is not None else "when something changes"
    lines.append(f"  next look  {when}")
    if why["attempts"]["failures"] or why["attempts"]["lastError"]:
        lines.append(
            f"  attempts   {why['attempts']['failures']} failed in a row; last: {why['attempts']['lastError']}"
        )
    return lines
