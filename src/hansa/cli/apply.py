"""`hansa apply`: files into objects. All is checked before anything is written."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from hansa.cli.options import client_of, placed
from hansa.errors import Invalid, NotFound
from hansa.sdk import names

Document = dict[str, Any]
ORDER = (
    "Project", "SovereigntyPolicy", "VirtualPrivateCloud", "Subnet", "SecurityGroup", "PublicIP", "PlacementGroup",
    "Disk", "Snapshot", "VirtualMachine", "HotswapDiskAttachment", "ServiceAccount", "ServiceAccountCredential",
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
    rank = {kind: i for i, kind in enumerate(ORDER)}

    def key(document: Document) -> tuple[int, bool]:
        kind = names.named(document["kind"]).kind
        source = (document.get("spec") or {}).get("source") if kind == "Disk" else None
        restored = isinstance(source, dict) and bool(source.get("snapshotRef"))
        return rank.get("Snapshot" if restored else kind, len(ORDER)), restored

    return sorted(documents, key=key)


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

    client = client_of(**place)
    documents = ordered(read_documents(files))
    plans = [_plan(_at(client, document), document) for document in documents]
    for target, lines, _ in plans:
        click.echo(f"{target}: {'unchanged' if lines == [] else 'created' if lines is None else 'changed'}")
        for line in lines or ():
            click.echo(f"  {line}")
    if dry_run:
        click.echo("dry run: nothing was written")
        return
    for (target, lines, body), document in zip(plans, documents, strict=True):
        here = _at(client, document)
        if lines is None:
            here.post(target.known, body, {"strict": "true"})
        elif lines:
            here.request("PATCH", here.path_of(target), {"strict": "true"}, body)
    for (target, _, _), document in zip(plans, documents, strict=True):
        if wait:
            _wait(_at(client, document), target, "ready", timeout)


def _at(client: Any, document: Document) -> Any:
    meta = document["metadata"]
    return client.at(project=meta.get("project"), region=meta.get("region"), serviceAccount=meta.get("serviceAccount"))


def _plan(client: Any, document: Document) -> tuple[names.Target, list[str] | None, Document]:
    """What applying would do: None creates, a list of changed lines, empty for nothing. Checks the form."""
    from hansa.cli.show import changes

    known = names.named(document["kind"])
    target = names.Target(known, document["metadata"]["id"])
    labels = document["metadata"].get("userLabels")
    meta = {"id": target.name, **({"userLabels": labels} if labels is not None else {})}
    body = {"metadata": meta, "spec": document.get("spec") or {}}
    try:
        present = client.request("GET", client.path_of(target))
    except NotFound:
        _check_form(known, body)
        return target, None, body
    lines = changes(present["spec"], body["spec"], "spec")
    if labels is not None and labels != present["metadata"].get("userLabels", {}):
        lines.append(f"metadata.userLabels: {present['metadata'].get('userLabels', {})} -> {labels}")
    if lines:
        client.request("PATCH", client.path_of(target), {"strict": "true", "dryRun": "true"}, body)
    return target, lines, body


def _check_form(known: names.Known, body: Document) -> None:
    """Fields and rules, here: what it points at may stand in the same file and is not there yet."""
    from hansa.api.admission import asked
    from hansa.kinds import catalogue
    from hansa.kinds.registry import kind_named

    assert catalogue.MODULES
    asked(kind_named(known.kind), "", body, strict=True)
