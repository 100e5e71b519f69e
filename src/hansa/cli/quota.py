"""`hansa quota`: how much of what an organisation and a project may hold is in use, and setting it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from hansa.cli.options import client_of, placed
from hansa.errors import Forbidden, Invalid, NotFound
from hansa.units import UNIT_BYTES, human_size

Document = dict[str, Any]
BAR_WIDTH = 20
COUNT_MAX = 2**31 - 1  # a count that says: no limit
# As people write a quantity, and the part of the quotas in which it stands.
PARTS = {
    "vCPUs": "compute", "memory": "compute", "blockStorage": "compute", "virtualMachines": "compute", "disks": "compute",
    "snapshots": "compute", "publicIPs": "networking", "virtualPrivateClouds": "networking", "totalSize": "objectStorage",
    "buckets": "objectStorage", "objects": "objectStorage", "requestsPerSecond": "objectStorage", "projects": "iam",
}  # fmt: skip
SIZES = ("memory", "blockStorage", "totalSize")
PACES = ("requestsPerSecond",)  # nothing of them is ever in use


@click.group("quota", invoke_without_command=True)
@placed
@click.pass_context
def quota_command(context: click.Context, /, **place: Any) -> None:
    """How much of its quotas a project and its organisation use; `hansa quota set` sets them.

    \b
      hansa quota
      hansa quota set vCPUs=64 memory=256GB
      hansa quota set --of organization blockStorage=20TB
    """
    if context.invoked_subcommand is not None:
        context.obj = place
        return
    client = client_of(**place)
    shown = []
    for title, kind in (("organization", "OrgQuota"), ("project", "ProjectQuota")):
        try:
            found = client.list(kind)[0]
        except (Forbidden, NotFound) as refused:
            shown.append(f"{title}: {refused.message}")
            continue
        limits = found["spec"].get("quotas", found["spec"])
        shown.append("\n".join(screen(f"{title} {found['metadata']['id']}", limits, found["status"]["quotaUsage"])))
    click.echo("\n\n".join(shown))


@quota_command.command("set")
@click.argument("words", nargs=-1, required=True, metavar="NAME=VALUE...")
@click.option("--of", type=click.Choice(["project", "organization"]), default="project", show_default=True)
@placed
@click.pass_context
def quota_set_command(context: click.Context, /, words: tuple[str, ...], of: str, **place: Any) -> None:
    """Set limits of the project, or of the organisation.

    VALUE is a count, a size as in 64GB, `unlimited`, or `default` (no limit of its own). GPUs: gpus.L40S=4.
    A limit below what is in use takes nothing away: it refuses only who asks for more.
    """
    above = context.obj or {}
    client = client_of(**{name: value or above.get(name) for name, value in place.items()})
    name = client.place.get(of, "")
    path = client.path(of, name)
    client.request("PATCH", path, body={"spec": {"quotas": patch_of(words)}})
    click.echo(f"{of} {name}: " + ", ".join(words))


# -- pure ---------------------------------------------------------------------------------------


def patch_of(words: tuple[str, ...]) -> Document:
    """`vCPUs=4 gpus.L40S=1` as a merge patch of quotas. Raises Invalid naming the word."""
    patch: Document = {}
    for word in words:
        name, equals, text = word.partition("=")
        plain = next((known for known in PARTS if known.lower() == name.lower()), "")
        model = name.removeprefix("gpus.") if name.lower().startswith("gpus.") else ""
        if not equals or not (plain or model):
            known = ", ".join(PARTS)
            raise Invalid(f"{word!r}: write NAME=VALUE, and as NAME one of {known}, or gpus.MODEL")
        if model:
            patch.setdefault("compute", {}).setdefault("gpus", {})[model] = _count(word, text)
        else:
            value = _size(word, text) if plain in SIZES else _count(word, text)
            patch.setdefault(PARTS[plain], {})[plain] = value
    return patch


def _count(word: str, text: str) -> int | None:
    if text in ("unlimited", "default"):
        return COUNT_MAX if text == "unlimited" else None
    if not (text.isascii() and text.isdigit() and int(text) <= COUNT_MAX):
        raise Invalid(f"{word!r}: the value must be a whole number from 0, `unlimited` or `default`")
    return int(text)


def _size(word: str, text: str) -> str | None:
    if text in ("unlimited", "default"):
        return None if text == "default" else text
    number, unit = text.strip()[:-2].strip(), text.strip()[-2:].upper()
    if unit not in UNIT_BYTES or not (number.isascii() and number.isdigit()):
        raise Invalid(f"{word!r}: the value must be a size as in 64GB, `unlimited` or `default`")
    return f"{number} {unit}"


def screen(title: str, limits: Document, used: Document) -> list[str]:
    """One owner's quotas as a table with bars."""
    from hansa.cli.show import table

    rows = []
    for name, amount, limit, share in lines_of(limits, used):
        bar = "" if share is None else f"{_bar(share)} {share:>4.0%}"
        rows.append([name, amount, limit, bar])
    return [title, table(["QUANTITY", "USED", "LIMIT", ""], rows)]


def lines_of(limits: Document, used: Document) -> Iterator[tuple[str, str, str, float | None]]:
    """Name, used, limit and the share that is used; None where there is no limit."""
    for name, part in PARTS.items():
        amount, limit = used.get(part, {}).get(name), limits.get(part, {}).get(name)
        if amount is None and (name not in PACES or limit is None):
            continue
        yield (
            name,
            "-" if amount is None else _text(name, amount),
            "-" if _number(limit) is None else _text(name, limit),
            _share(_number(amount), _number(limit)),
        )
    models = {**limits.get("compute", {}).get("gpus", {}), **used.get("compute", {}).get("gpus", {})}
    for model in sorted(models):
        amount = used["compute"].get("gpus", {}).get(model, 0)
        limit = limits.get("compute", {}).get("gpus", {}).get(model)
        shown = "-" if _number(limit) is None else str(limit)
        yield f"gpus.{model}", str(amount), shown, _share(amount, _number(limit))


def _text(name: str, value: Any) -> str:
    return (human_size(_number(value) or 0) if _number(value) else "0 GB") if name in SIZES else str(value)


def _number(value: Any) -> int | None:
    """A count, or the bytes of `64 GB`; None: no limit."""
    if value in (None, "unlimited", COUNT_MAX):
        return None
    if isinstance(value, int):
        return value
    text = str(value).replace(" ", "")
    return int(text[:-2]) * UNIT_BYTES[text[-2:]]


def _share(amount: int | None, limit: int | None) -> float | None:
    if limit is None or amount is None:
        return None
    return amount / limit if limit else float(amount > 0)


def _bar(share: float) -> str:
    from hansa.cli.show import GREEN, RED, YELLOW, coloured

    filled = min(BAR_WIDTH, round(share * BAR_WIDTH) or (share > 0))
    colour = RED if share >= 1 else YELLOW if share >= 0.8 else GREEN
    return coloured("█" * filled, colour) + "·" * (BAR_WIDTH - filled)
