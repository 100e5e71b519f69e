"""`hansa iam`: roles, bindings, people, and what one may do oneself."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from hansa.cli.options import client_of, placed
from hansa.errors import HansaError
from hansa.sdk import names

if TYPE_CHECKING:
    from hansa.sdk.client import Client

IAM = "/iam/v1beta1"
ON = click.option("--whole", is_flag=True, help="On the organisation, not on the project.")


@click.group("iam")
def iam_command() -> None:
    """Who may do what: roles, bindings, people, oneself.

    \b
      hansa iam whoami
      hansa iam can delete vm/web-1
      hansa iam grant ada@example.com computeOperator
      hansa iam user add ada@example.com --name "Ada"
    """


@iam_command.command("whoami")
@placed
def whoami(**place: Any) -> None:
    """Who you are to this cloud, and which roles you hold where."""
    from hansa.cli.show import table

    me = client_of(**place).request("GET", f"{IAM}/me")
    click.echo(me["principal"])
    rows = [
        [g["role"].rpartition("/")[2], g["scope"], ", ".join(g.get("resources", ["everything"]))] for g in me["grants"]
    ]
    click.echo(table(["ROLE", "ON", "FOR"], rows) if rows else "no role anywhere")


@iam_command.command("roles")
@click.argument("role", required=False)
@placed
def roles(role: str | None, **place: Any) -> None:
    """All roles; or the permissions of one."""
    from hansa.cli.show import table

    items = client_of(**place).request("GET", f"{IAM}/roles")["items"]
    if role is None:
        click.echo(table(["ROLE", "ON", "WHAT FOR"], [[_bare(i["id"]), i["scope"], i["description"]] for i in items]))
        return
    found = next((i for i in items if _bare(i["id"]) == _bare(role)), None)
    if found is None:
        raise click.ClickException(f"there is no role {role}; `hansa iam roles` lists them")
    click.echo("\n".join(found["permissions"]))


@iam_command.command("bindings")
@ON
@placed
def bindings(whole: bool, **place: Any) -> None:
    """Who holds which roles on the project or the organisation."""
    from hansa.cli.show import table

    client = client_of(**place)
    called = _people(client)
    rows = []
    for item in client.request("GET", f"{IAM}/{_scope(client, whole)}/roleBindings")["items"]:
        who = item["spec"]["principal"]
        for bound in item["spec"]["roles"]:
            rows.append(
                [called.get(who, who), _bare(bound["name"]), ", ".join(bound.get("resources") or ["everything"])]
            )
    click.echo(table(["WHO", "ROLE", "FOR"], rows) if rows else "no bindings: owners alone are let in")


@iam_command.command("grant")
@click.argument("who")
@click.argument("role")
@click.option("--for", "resources", multiple=True, help="Only for these: references in which * is one segment.")
@placed
def grant(who: str, role: str, resources: tuple[str, ...], **place: Any) -> None:
    """Give WHO (an address, a service account's name, or a reference) a role that you hold yourself."""
    client = client_of(**place)
    body = {"principal": _principal(client, who), "role": f"/iam/roles/{_bare(role)}"}
    scope = _scope(client, _bare(role).startswith("organization"))
    made = client.request(
        "POST",
        f"{IAM}/{scope}/roleBindings/assign",
        body={**body, **({"resources": list(resources)} if resources else {})},
    )
    click.echo(f"{who} is {', '.join(_bare(r['name']) for r in made['spec']['roles'])} on {scope}")


@iam_command.command("revoke")
@click.argument("who")
@click.argument("role")
@placed
def revoke(who: str, role: str, **place: Any) -> None:
    """Take a role away from WHO. It counts within a second."""
    client = client_of(**place)
    body = {"principal": _principal(client, who), "role": f"/iam/roles/{_bare(role)}"}
    scope = _scope(client, _bare(role).startswith("organization"))
    left = client.request("POST", f"{IAM}/{scope}/roleBindings/revoke", body=body)
    roles = ", ".join(_bare(r["name"]) for r in left["spec"]["roles"])
    click.echo(f"{who} is {roles} on {scope}" if roles else f"{who} has no role on {scope} any more")


@iam_command.command("can")
@click.argument("action")
@click.argument("what", metavar="KIND[/NAME]")
@click.option("--as", "who", help="Somebody else: an address, a service account's name, or a reference.")
@placed
def can(action: str, what: str, who: str | None, **place: Any) -> None:
    """May you (or --as WHO) do ACTION (read, create, update, delete, console, ssh) with KIND/NAME? Exit status 6: no."""
    client = client_of(**place)
    kind, _, name = what.partition("/")
    known = names.named(kind)
    resource = known.ref(known.scope_in(client.place), name or "x")
    check = {"permission": f"{known.service}.{known.collection.split('/')[0]}.{action}", "resource": resource}
    if who is None:
        found = client.request("POST", f"{IAM}/testPermissions", body={"checks": [check]})
    else:
        found = client.request(
            "POST", f"{IAM}/checkAccess", body={"principal": _principal(client, who), "checks": [check]}
        )
    allowed = found["results"][0]["allowed"]
    click.echo(f"{'yes' if allowed else 'no'}: {check['permission']} on {resource}")
    if not allowed:
        sys.exit(6)


# -- people -------------------------------------------------------------------------------------


@iam_command.group("user")
def user_command() -> None:
    """The people of the organisation, and their passwords. For its owners."""


@user_command.command("list")
@placed
def user_list(**place: Any) -> None:
    """Who there is."""
    from hansa.cli.show import table

    items = client_of_organization(**place)[1]
    rows = [
        [i["spec"].get("email") or "-", i["spec"]["name"], str(i["spec"]["enabled"]).lower(), i["metadata"]["id"]]
        for i in items
    ]
    click.echo(table(["ADDRESS", "NAME", "ENABLED", "ID"], rows) if rows else "nobody")


@user_command.command("add")
@click.argument("email")
@click.option("--name", help="For people; the address when it is not given.")
@click.option("--password-stdin", is_flag=True, help="Read a first password from standard input, one line.")
@placed
def user_add(email: str, name: str | None, password_stdin: bool, **place: Any) -> None:
    """Add a person, who logs in by EMAIL. Without a role they see nothing: `hansa iam grant` gives one."""
    client = client_of(**place)
    body: dict[str, Any] = {"spec": {"email": email, "name": name or email}, "password": _new_password(password_stdin)}
    made = client.request("POST", _users(client), body=body)
    click.echo(f"{email} is {made['metadata']['id']}")


@user_command.command("passwd")
@click.argument("who", required=False)
@click.option(
    "--password-stdin", is_flag=True, help="Read from standard input: the present password (of your own), the new one."
)
@placed
def user_passwd(who: str | None, password_stdin: bool, **place: Any) -> None:
    """Set a password: of WHO, or your own with the present one as proof. Logins made with the old one end."""
    client = client_of(**place)
    if who is None:
        current = (
            sys.stdin.readline().rstrip("\r\n") if password_stdin else click.prompt("Present password", hide_input=True)
        )
        client.request(
            "POST", f"{IAM}/me/password", body={"current": current, "password": _new_password(password_stdin)}
        )
        click.echo("your password is changed; log in again")
        return
    found = _user(client, who)
    client.request("POST", f"{_users(client)}/{found}/password", body={"password": _new_password(password_stdin)})
    click.echo(f"the password of {who} is changed")


@user_command.command("disable")
@click.argument("who")
@placed
def user_disable(who: str, **place: Any) -> None:
    """Let WHO in no more, within a second. Their roles stay, for later."""
    _enabled(client_of(**place), who, enabled=False)


@user_command.command("enable")
@click.argument("who")
@placed
def user_enable(who: str, **place: Any) -> None:
    """Let WHO in again."""
    _enabled(client_of(**place), who, enabled=True)


# -- beneath ------------------------------------------------------------------------------------


def client_of_organization(**place: Any) -> tuple[Client, list[dict[str, Any]]]:
    client = client_of(**place)
    return client, client.request("GET", _users(client))["items"]


def _enabled(client: Client, who: str, *, enabled: bool) -> None:
    path = f"{_users(client)}/{_user(client, who)}"
    client.request("PATCH", path, body={"spec": {"enabled": enabled}})
    click.echo(f"{who} is {'enabled' if enabled else 'disabled'}")


def _users(client: Client) -> str:
    return f"{IAM}/{_scope(client, True)}/users"


def _scope(client: Client, whole: bool) -> str:
    what = "organization" if whole else "project"
    if not client.place.get(what):
        raise click.UsageError(f"say which: --{what}")
    return f"{what}s/{quote(client.place[what], safe='')}"


def _people(client: Client) -> dict[str, str]:
    """Addresses by reference, as far as the caller may read them."""
    try:
        items = client.request("GET", _users(client))["items"] if client.place.get("organization") else []
    except HansaError:
        return {}
    return {f"/iam/users/{i['metadata']['id']}": i["spec"].get("email") or i["spec"]["name"] for i in items}


def _user(client: Client, who: str) -> str:
    """The id behind an address or a reference."""
    if "@" not in who:
        return who.rpartition("/")[2]
    for ref, called in _people(client).items():
        if called.casefold() == who.casefold():
            return ref.rpartition("/")[2]
    raise click.ClickException(f"nobody of this organisation has the address {who}, or you may not read who there is")


def _principal(client: Client, who: str) -> str:
    if who.startswith("/"):
        return who
    if "@" in who:
        return f"/iam/users/{_user(client, who)}"
    return f"/iam/{_scope(client, False)}/serviceAccounts/{who}"


def _bare(role: str) -> str:
    return role.rpartition("/")[2]


def _new_password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    text: str = click.prompt("New password", hide_input=True, confirmation_prompt=True)
    return text
