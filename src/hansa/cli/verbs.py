"""The verbs over all kinds: get, describe, delete, start, stop, wait, logs, events."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from hansa.cli.options import Progress, client_of, placed
from hansa.errors import HansaError, NotFound
from hansa.sdk import names

FORMS = click.Choice(["table", "json", "yaml", "name"])
STOP_WAIT_S = 30.0  # for a machine that is off already
ALL = ("vm", "disk", "hotswap", "snap", "pg", "vpc", "subnet", "sg", "ip", "sa")


@click.command("get")
@click.argument("words", nargs=-1, required=True, metavar="KIND [NAME...] | KIND/NAME...")
@click.option("-o", "--output", type=FORMS, default="table", show_default=True)
@click.option("--field", metavar="PATH", help="Only this field of each, a line each, as in status.serial; for scripts.")
@click.option("-l", "--selector", default="", help="Labels, as in tier=web,env!=test.")
@click.option("-w", "--watch", is_flag=True, help="Go on: a line for each change, also of what is deleted.")
@placed
def get_command(
    words: tuple[str, ...], output: str, field: str | None, selector: str, watch: bool, **place: Any
) -> None:
    """List objects of a kind, or show some of them.

    \b
      hansa get vm
      hansa get vm web-1 -o yaml
      hansa get vm,disk -l tier=web
      hansa get ip front --field status.publicIPv4Address
      hansa get all
    """
    from hansa.cli import show

    client = client_of(**place)
    kinds = words[0].split(",")
    asked = list(names.targets((",".join(",".join(ALL) if kind == "all" else kind for kind in kinds), *words[1:])))
    if watch:
        from hansa.cli.watch import watch_objects

        watch_objects(client, asked, output, selector)
        return
    found: list[tuple[names.Known, list[show.Document]]] = []
    for target in asked:
        if target.name is None:
            items = client.list(target.known.kind, selector=selector)
        else:
            items = [client.request("GET", client.path_of(target))]
        if found and found[-1][0] is target.known:
            found[-1][1].extend(items)
        else:
            found.append((target.known, list(items)))
    if field is not None:
        for known, items in found:
            click.echo("".join(_field(known, item, field) + "\n" for item in items), nl=False)
        return
    _print(found, output, single=len(asked) == 1 and asked[0].name is not None, quiet="all" in kinds)


def _field(known: names.Known, item: dict[str, Any], path: str) -> str:
    """One value, as it stands: text bare, all else as JSON. Raises NotFound when there is none."""
    from hansa.cli import show

    value = show.at(item, path)
    if value is None:
        about = f"{known.called}/{item['metadata']['id']}"
        raise NotFound(f"{about} has no {path}; `hansa get {about} -o yaml` shows what it has")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _print(found: list[tuple[names.Known, list[dict[str, Any]]]], output: str, *, single: bool, quiet: bool) -> None:
    from hansa.cli import show

    items = [item for _, some in found for item in some]
    if output in ("json", "yaml"):
        click.echo(show.document(items[0] if single else {"items": items}, output))
        return
    if output == "name":
        for known, some in found:
            for item in some:
                click.echo(f"{known.called}/{item['metadata']['id']}")
        return
    shown = [(known, some) for known, some in found if some or not quiet]
    for i, (known, some) in enumerate(shown):
        if len(shown) > 1:
            click.echo(("\n" if i else "") + known.collection)
        click.echo(
            show.listing(known, some)
            if some
            else f"no {known.collection} here; `hansa explain {known.called}` says how to make one"
        )


@click.command("describe")
@click.argument("words", nargs=-1, required=True, metavar="KIND NAME | KIND/NAME")
@placed
def describe_command(words: tuple[str, ...], **place: Any) -> None:
    """Everything about one object, with its conditions and events."""
    from hansa.cli import show

    client = client_of(**place)
    for target in names.targets(words):
        if target.name is None:
            raise click.UsageError("say which one: KIND NAME")
        path = client.path_of(target)
        item = client.request("GET", path)
        click.echo(show.described(item, client.request("GET", path + "/events", {"limit": "12"})["items"]))


@click.command("delete")
@click.argument("words", nargs=-1, metavar="KIND NAME... | KIND/NAME...")
@click.option("-f", "--file", "files", multiple=True, help="Delete what a file, a folder or - names.")
@click.option("--wait/--no-wait", default=False, help="Wait until they are gone.")
@click.option("--timeout", default=180.0, show_default=True, help="Seconds to wait at most.")
@placed
def delete_command(words: tuple[str, ...], files: tuple[str, ...], wait: bool, timeout: float, **place: Any) -> None:
    """Delete objects, by name or as a file names them (in reverse order).

    \b
      hansa delete vm web-1 --wait
      hansa delete -f web.yaml --wait
    """
    from hansa.cli.apply import ordered, read_documents
    from hansa.errors import InUse

    client = client_of(**place)
    asked = list(names.targets(words))
    for document in reversed(ordered(read_documents(files))):
        asked.append(names.Target(names.named(document["kind"]), document["metadata"]["id"]))
    if not asked or any(t.name is None for t in asked):
        raise click.UsageError("say which: KIND NAME..., or -f FILE")
    for target in asked:
        end = time.monotonic() + timeout
        while True:
            try:
                client.request("DELETE", client.path_of(target))
                click.echo(f"{target} is being deleted")
            except NotFound:
                if not files:
                    raise
                click.echo(f"{target} is not there")
            except InUse:
                if not wait or time.monotonic() > end:
                    raise
                time.sleep(0.5)
                continue
            break
    for target in asked if wait else ():
        _wait(client, target, "deleted", timeout)


@click.command("start")
@click.argument("words", nargs=-1, required=True, metavar="NAME...")
@placed
def start_command(words: tuple[str, ...], **place: Any) -> None:
    """Start stopped machines, also one that switched itself off."""
    client = client_of(**place)
    for target in names.targets(words, default="vm"):
        item = client.request("GET", client.path_of(target))
        if item["spec"].get("running", True) and item["status"].get("virtualMachineStatus") == "Stopped":
            # it switched itself off, and that stands until somebody has seen the wish to stop
            client.request("POST", client.path_of(target) + "/stop")
            client.wait_for(client.path_of(target), str(target), "ready", STOP_WAIT_S, Progress(str(target)).told)
        client.request("POST", client.path_of(target) + "/start")
        click.echo(f"{target} is starting")


@click.command("stop")
@click.argument("words", nargs=-1, required=True, metavar="NAME...")
@placed
def stop_command(words: tuple[str, ...], **place: Any) -> None:
    """Ask running machines to power off."""
    client = client_of(**place)
    for target in names.targets(words, default="vm"):
        client.request("POST", client.path_of(target) + "/stop")
        click.echo(f"{target} is stopping")


@click.command("wait")
@click.argument("words", nargs=-1, required=True, metavar="KIND NAME... | KIND/NAME...")
@click.option("--for", "until", default="ready", show_default=True, help="ready, stopped, deleted, or a condition.")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds to wait at most.")
@placed
def wait_command(words: tuple[str, ...], until: str, timeout: float, **place: Any) -> None:
    """Wait until objects are ready, stopped or gone. Stops at once when that cannot happen any more."""
    client = client_of(**place)
    for target in names.targets(words):
        if target.name is None:
            raise click.UsageError("say which one: KIND NAME")
        _wait(client, target, until, timeout)


def _wait(client: Any, target: names.Target, until: str, timeout: float) -> None:
    progress = Progress(str(target))
    try:
        client.wait_for(client.path_of(target), str(target), until, timeout, progress.told)
    except HansaError:
        progress.end()
        raise
    progress.end()
    click.echo(f"{target} is {until}")


@click.command("logs")
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on as it grows.")
@click.option("--bytes", "count", default=65536, show_default=True, help="How much of the end.")
@placed
def logs_command(name: str, follow: bool, count: int, **place: Any) -> None:
    """The console log of a machine, over all its starts. `hansa console` is the live one."""
    client = client_of(**place)
    name = next(iter(names.targets([name], default="vm"))).name or name
    seen = client.logs(name, bytes_max=count)
    click.echo(seen, nl=False)
    while follow:
        time.sleep(1.0)
        now = client.logs(name, bytes_max=count)
        if now != seen:
            fresh = now[len(seen) :] if now.startswith(seen) else now
            click.echo(fresh, nl=False)
            seen = now


@click.command("events")
@click.argument("words", nargs=-1, metavar="[KIND NAME | KIND/NAME]")
@click.option("-w", "--watch", is_flag=True, help="Go on as they come.")
@click.option("--limit", default=50, show_default=True)
@placed
def events_command(words: tuple[str, ...], watch: bool, limit: int, **place: Any) -> None:
    """What happened, in a project or to one object."""
    from hansa.cli import show

    client = client_of(**place)
    target = next(iter(names.targets(words)), None)
    if target is not None and target.name is not None:
        found = client.events(target.known.kind, target.name, limit=limit)
    else:
        found = client.events(limit=limit)
    click.echo(show.event_table(found))
    while watch:
        time.sleep(1.0)
        after = found[-1]["revision"] if found else 0
        fresh = client.events(after=after, limit=limit)
        if fresh:
            click.echo(show.event_table(fresh).split("\n", 1)[1])
            found = fresh
