"""`hansa apply`: files into objects. All is checked before anything is written."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hansa.cli.options import client_of, placed
from hansa.errors import HansaError, Invalid, NotFound
from hansa.sdk import names

Document = dict[str, Any]
ORDER = (
    "Project", "SovereigntyPolicy", "VirtualPrivateCloud", "Subnet", "SecurityGroup", "PublicIP", "PlacementGroup",
    "EncryptionKey", "Bucket", "BucketServiceAccount", "CustomDiskImage", "Disk", "Snapshot", "VirtualMachine",
    "HotswapDiskAttachment", "ServiceAccount", "ServiceAccountCredential", "S3Key",
)  # fmt: skip
DOCUMENTS_MAX = 1000


def read_documents(files: Iterable[str]) -> list[Document]:
    """The documents of files, folders (*.yaml, *.yml, *.json) and `-`. Raises Invalid naming the file."""
    found: list[Document] = []
    for name in files:
        for source, text in _texts(name):
            found += _parse(source, text)
    if len(found) > DOCUMENTS_MAX:
        raise Invalid(f"{len(found)} documents; at most {DOCUMENTS_MAX} are taken at once")
    return found


def _texts(name: str) -> Iterable[tuple[str, str]]:
    if name == "-":
        return [("standard input", sys.stdin.read())]
    path = Path(name)
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.suffix in (".yaml", ".yml", ".json"))
        return [(str(p), p.read_text()) for p in inside]
    if not path.is_file():
        raise NotFound(f"there is no file {name}")
    return [(name, path.read_text())]


def _parse(source: str, text: str) -> list[Document]:
    import yaml

    try:
        documents = [d for d in yaml.safe_load_all(text) if d is not None]
    except yaml.YAMLError as error:
        raise Invalid(f"{source} is no YAML: {error}") from error
    for i, document in enumerate(documents):
        if not isinstance(document, dict) or not isinstance(document.get("metadata"), dict):
            raise Invalid(f"{source}, document {i + 1}: needs kind, metadata and spec")
        for path in ("kind",):
            if not document.get(path):
                raise Invalid(f"{source}, document {i + 1}: {path} is required")
        if not document["metadata"].get("id"):
            raise Invalid(f"{source}, document {i + 1}: metadata.id is required")
    return documents


def ordered(documents: Sequence[Document]) -> list[Document]:
    """What is pointed at first; a disk from a snapshot after the snapshots."""
    return sorted(documents, key=_rank)


def _rank(document: Document) -> tuple[int, bool]:
    kind = names.named(document["kind"]).kind
    source = (document.get("spec") or {}).get("source") if kind == "Disk" else None
    restored = isinstance(source, dict) and bool(source.get("snapshotRef"))
    kind = "Snapshot" if restored else kind
    return ORDER.index(kind) if kind in ORDER else len(ORDER), restored


@click.command("apply")
@click.option("-f", "--file", "files", multiple=True, required=True, help="A file, a folder, or - for standard input.")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--wait/--no-wait", default=False, help="Wait until everything is ready.")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds to wait at most, for each.")
@placed
def apply_command(files: tuple[str, ...], dry_run: bool, wait: bool, timeout: float, **place: Any) -> None:
    """Make it as a file, a folder or standard input says. Applying twice changes nothing.

    \b
      hansa apply -f web.yaml --wait
      cat web.yaml | hansa apply -f - --dry-run
    """
    from hansa.cli.verbs import _wait

    plans = planned(client_of(**place), files)
    if dry_run:
        for plan in plans:
            plan.tell()
        click.echo("dry run: nothing was written")
        return
    _write(sorted(plans, key=lambda plan: (*_rank(plan.document), plan.lines is not None)))
    for plan in plans if wait else ():
        _wait(plan.client, plan.target, "ready", timeout)


@dataclass(frozen=True, slots=True)
class Plan:
    """What applying one document would do. `lines`: None creates, else what changes, empty for nothing."""

    client: Any
    target: names.Target
    lines: list[str] | None
    body: Document
    document: Document

    def patch(self, **query: str) -> None:
        self.client.request("PATCH", self.client.path_of(self.target), {"strict": "true", **query}, self.body)

    def tell(self) -> None:
        done = "unchanged" if self.lines == [] else "created" if self.lines is None else "changed"
        click.echo("\n  ".join([f"{self.target}: {done}", *(self.lines or ())]))


def planned(client: Any, files: Iterable[str]) -> list[Plan]:
    """What applying the files would do, in order, all of it checked. Raises what the cloud or the files say against it."""
    plans = [_plan(_at(client, document), document) for document in ordered(read_documents(files))]
    fresh = {str(plan.target.name) for plan in plans if plan.lines is None}
    for plan in plans:
        _check(plan, fresh)
    return plans


def _at(client: Any, document: Document) -> Any:
    meta = document["metadata"]
    return client.at(project=meta.get("project"), region=meta.get("region"), serviceAccount=meta.get("serviceAccount"))


def _plan(client: Any, document: Document) -> Plan:
    from hansa.cli.show import changes

    target = names.Target(names.named(document["kind"]), document["metadata"]["id"])
    labels = document["metadata"].get("userLabels")
    meta = {"id": target.name, **({"userLabels": labels} if labels is not None else {})}
    body = {"metadata": meta, "spec": document.get("spec") or {}}
    try:
        present = client.request("GET", client.path_of(target))
    except NotFound:
        return Plan(client, target, None, body, document)
    lines = changes(present["spec"], body["spec"], "spec")
    if labels is not None and labels != present["metadata"].get("userLabels", {}):
        lines.append(f"metadata.userLabels: {present['metadata'].get('userLabels', {})} -> {labels}")
    return Plan(client, target, lines, body, document)


def _check(plan: Plan, fresh: Set[str]) -> None:
    """Fields and rules. By the cloud, where all is there already that it points at; else here, or when it is written."""
    from hansa.api.admission import asked
    from hansa.kinds import catalogue
    from hansa.kinds.registry import kind_named

    assert catalogue.MODULES
    if plan.lines is None:
        asked(kind_named(plan.target.known.kind), "", plan.body, strict=True)
    elif plan.lines and not fresh & set(_named(plan.body["spec"])):
        plan.patch(dryRun="true")


def _named(value: Any, field: str = "") -> Iterator[str]:
    """The names in all references of a document."""
    if isinstance(value, str) and field.endswith(("Ref", "Refs")):
        yield value.rsplit("/", 1)[-1]
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _named(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner, field)


def _write(plans: Sequence[Plan]) -> None:
    """One after the other, each told of once it is written. Security groups that name one another get the rules that do so
    at the end. Raises what the first is refused with; what comes after it is not written."""
    unmade = {p.target.name for p in plans if p.lines is None and p.target.known.kind == "SecurityGroup"}
    late = []
    for number, plan in enumerate(plans):
        unmade -= {plan.target.name}
        try:
            whole = _written(plan, unmade)
        except HansaError:
            after = len(plans) - number - 1
            click.echo(f"{plan.target}: refused" + (f"; {after} more are not written" if after else ""), err=True)
            raise
        plan.tell()
        late += [] if whole else [plan]
    for plan in late:
        plan.patch()


def _written(plan: Plan, unmade: Collection[str | None]) -> bool:
    """Whether all of it is written: a new group comes without the rules that name what is not made yet."""
    if plan.lines is not None:
        if plan.lines:
            plan.patch()
        return True
    first = without_rules(plan.body, unmade) if plan.target.known.kind == "SecurityGroup" else plan.body
    plan.client.post(plan.target.known, first, {"strict": "true"})
    return first == plan.body


def without_rules(body: Document, groups: Collection[str | None]) -> Document:
    """A group without the rules that name one of these groups: fewer rules let less through. Pure."""
    rules = body["spec"].get("rules") or []
    kept = [r for r in rules if str(r["remote"].get("securityGroupRef") or "").rsplit("/", 1)[-1] not in groups]
    return body if kept == rules else {**body, "spec": {**body["spec"], "rules": kept}}
