"""`hansa s3`: the keys with which service accounts use S3 in a whole project, and a look over all that is stored."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from hansa.cli.options import client_of, placed
from hansa.errors import AlreadyExists, HansaError

if TYPE_CHECKING:
    from hansa.sdk.client import Client

IAM = "/iam/v1beta1"
ROLE = "/iam/roles/"
SECRET_MAX = 4096  # characters of a file that holds one secret
_SPAN = re.compile(r"(\d{1,6})([mhd])", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


@click.group("s3")
def s3_command() -> None:
    """S3 for programs: keys of service accounts, good for all buckets of a project.

    \b
      hansa s3 keys create backup --account backup
      hansa s3 keys rotate backup --grace 1h
      hansa s3 keys revoke backup --reason "left on a train"

    Keys for some buckets only are bucket service accounts: `hansa explain bsa`.
    """


@s3_command.command("scrub")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Folder of all state.")
@click.option("--rate", type=click.IntRange(1, 100_000), default=200, show_default=True, help="MB read in a second.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def scrub_command(data: Path | None, rate: int, output: str) -> None:
    """Read everything that is stored, and say what is missing or damaged. On the cloud's own machine.

    The cloud may go on running; its gateways do the same once a week. One that was cut off goes on where it was. Ends with
    status 1 when something is not well: what that is stands in the report, and nothing is ever thrown away for it.
    """
    import asyncio

    from hansa.cli.options import settings_of
    from hansa.cli.process import logging_on
    from hansa.errors import Conflict
    from hansa.wiring_s3 import scrub_once

    logging_on()
    report = asyncio.run(scrub_once(settings_of(data=data), rate * 10**6))
    if report is None:
        raise Conflict("a gateway of this cloud is reading everything at this moment; its log tells what it finds")
    click.echo(_report(report, output))
    if report.found:
        raise HansaError(f"{report.found} things are not well")


def _report(report: Any, output: str) -> str:
    import json
    from dataclasses import asdict

    if output == "json":
        return json.dumps(asdict(report), indent=2)
    lines = [f"{report.versions} versions, {report.bytes} bytes read, {report.orphans} blobs that nothing points at"]
    lines += [
        f"{f.what}: {f.bucket} {f.key!r} {f.id}".rstrip() + (f" ({f.detail})" if f.detail else "")
        for f in report.findings
    ]
    return "\n".join(lines)


@s3_command.command("rotate-encryption-key")
@click.argument("name")
@placed
def rotate_encryption_key_command(name: str, **place: Any) -> None:
    """Give an encryption key new material. New objects lie under it; what lies under older material stays readable."""
    client = client_of(**place)
    status = client.request("POST", f"{client.path('encryptionkey', name)}/rotate", body={})["status"]
    click.echo(f"{name} has material of generation {status['generation']} since {status['rotatedAt']}")


@s3_command.group("keys")
def keys_command() -> None:
    """Make, list, turn and end keys; bring some from elsewhere."""


@keys_command.command("list")
@placed
def list_command(**place: Any) -> None:
    """The keys of the project. Their secrets were shown when they were made."""
    from hansa.cli.show import table

    items = client_of(**place).list("s3key")
    rows = [
        [i["metadata"]["id"], i["status"].get("accessKeyID", ""), i["spec"]["serviceAccountRef"].rpartition("/")[2],
         _state(i), i["spec"].get("description", "")]
        for i in items
    ]  # fmt: skip
    click.echo(table(["NAME", "ACCESS KEY", "ACCOUNT", "STATE", "DESCRIPTION"], rows) if rows else "no keys")


def _state(item: dict[str, Any]) -> str:
    if revoked := item["status"].get("revokedAt"):
        return f"revoked {revoked[:10]}"
    expires = item["spec"].get("expiresAt")
    return f"until {expires[:10]}" if expires else "counts"


@keys_command.command("create")
@click.argument("name")
@click.option("--account", required=True, help="The service account that acts with it; made when it is not there.")
@click.option("--role", "roles", multiple=True, help="No more than this role, though the account holds more.")
@click.option(
    "--for", "resources", multiple=True, help="And that for these only: references in which * is one segment."
)
@click.option("--expires", help="A date (RFC 3339), or so long from now: 12h, 90d.")
@click.option("--description", help="For people.")
@placed
def create_command(
    name: str, account: str, roles: tuple[str, ...], resources: tuple[str, ...], expires: str | None,
    description: str | None, **place: Any,
) -> None:  # fmt: skip
    """Make a key. Its secret is shown now and never again, as lines for a shell."""
    if resources and not roles:
        raise click.UsageError("--for narrows a --role: say which")
    client = client_of(**place)
    spec: dict[str, Any] = {"serviceAccountRef": _account(client, account)}
    if roles:
        only = {"resources": list(resources)} if resources else {}
        spec["roles"] = [{"name": f"{ROLE}{role.removeprefix(ROLE)}", **only} for role in roles]
    spec |= {"expiresAt": _moment(expires)} if expires else {}
    spec |= {"description": description} if description else {}
    _tell(client.create("s3key", name, spec))


@keys_command.command("rotate")
@click.argument("name")
@click.option("--grace", default="1d", show_default=True, metavar="TIME", help="How long the old pair still counts.")
@placed
def rotate_command(name: str, grace: str, **place: Any) -> None:
    """Give a key a new pair. Shown now and never again; the old one counts for --grace more."""
    client = client_of(**place)
    body = {"graceSeconds": int(_span(grace).total_seconds())}
    _tell(client.request("POST", f"{client.path('s3key', name)}/rotate", body=body))


@keys_command.command("revoke")
@click.argument("name")
@click.option("--reason", default="", help="For the audit, and for people.")
@placed
def revoke_command(name: str, reason: str, **place: Any) -> None:
    """End a key, within a second and for ever."""
    client = client_of(**place)
    ended = client.request("POST", f"{client.path('s3key', name)}/revoke", body={"reason": reason})
    click.echo(f"{name} was revoked at {ended['status']['revokedAt']}")


@keys_command.command("import")
@click.option("--access-key", required=True, help="As it is known elsewhere.")
@click.option(
    "--secret-key-file", required=True, metavar="FILE", type=click.Path(allow_dash=True, path_type=str),
    help="A file with the secret alone; - is standard input.",
)  # fmt: skip
@click.option("--user-id", required=True, help="What S3 calls its owner by (the canonical user id).")
@click.option("--display-name", default="", help="And by name.")
@click.option("--account", help="The service account that acts with it; one of the user id is made otherwise.")
@click.option("--name", help="Of the key in this cloud; it follows from the access key otherwise.")
@placed
def import_command(
    access_key: str, secret_key_file: str, user_id: str, display_name: str, account: str | None, name: str | None,
    **place: Any,
) -> None:  # fmt: skip
    """Take over a pair that was made elsewhere: for migrations, and suites that bring their own users.

    For the operator of the cloud alone: others grant rights to a user id.
    """
    client = client_of(**place)
    pair = {"accessKeyID": access_key, "secretAccessKey": _secret_in(secret_key_file), "userId": user_id}
    pair |= {"displayName": display_name} if display_name else {}
    who = _account(client, account or f"s3-{_word(user_id)}")
    client.create("s3key", name or f"s3-{_word(access_key)}", {"serviceAccountRef": who, "imported": pair})
    click.echo(f"{access_key} counts in project {client.place['project']}, as {who.rpartition('/')[2]}")


# -- beneath --------------------------------------------------------------------------------------


def _account(client: Client, name: str) -> str:
    """The reference of a service account, made with the role to make and delete buckets when it is not there."""
    project = client.place.get("project")
    if not project:
        raise click.UsageError("say which: --project")
    if name.startswith("/"):
        return name
    ref = f"/iam/projects/{project}/serviceAccounts/{name}"
    try:
        client.create("serviceaccount", name, {"description": "uses S3"})
    except AlreadyExists:
        return ref
    body = {"principal": ref, "role": f"{ROLE}storageOperator"}
    try:
        client.request("POST", f"{IAM}/projects/{quote(project, safe='')}/roleBindings/assign", body=body)
    except HansaError as error:  # the next try would find the account and take it for one with its role
        error.add_note(f"service account {name} was made and has no role: `hansa delete serviceaccount {name}`")
        raise
    return ref


def _word(text: str) -> str:
    """A text as a part of a name: what is no letter or digit becomes -, and what is long is cut."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:50] or "user"


def _secret_in(file: str) -> str:
    if file == "-":
        text = sys.stdin.read(SECRET_MAX + 1)
    else:
        try:
            with Path(file).open() as opened:
                text = opened.read(SECRET_MAX + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise click.ClickException(f"{file} cannot be read: {error}") from error
    if len(text) > SECRET_MAX or len(text.split()) != 1:
        raise click.ClickException(f"{file} must hold one secret key and nothing else")
    return text.strip()


def _moment(text: str) -> str:
    """A date as it is; a span from now as a date."""
    if _SPAN.fullmatch(text) is None:
        return text
    return (datetime.now(UTC) + _span(text)).isoformat(timespec="seconds").replace("+00:00", "Z")


def _span(text: str) -> timedelta:
    match = _SPAN.fullmatch(text)
    if match is None:
        raise click.UsageError(f"{text!r} is no time as in 30m, 12h, 7d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _tell(made: dict[str, Any]) -> None:
    """The pair as lines that a shell reads. Nowhere else does the secret stand."""
    click.echo(f"export AWS_ACCESS_KEY_ID={made['status']['accessKeyID']}")
    click.echo(f"export AWS_SECRET_ACCESS_KEY={made['status']['secretAccessKey']}")
    click.echo("keep the secret now: it is not shown again", err=True)
