"""The command `hansa`: which verbs there are, and how an error becomes a line and an exit status.

Verbs are imported only when they are called, so that `hansa --help` and a first `hansa get` start at once:
nothing here imports pydantic, an HTTP library or a renderer. What each verb does stands in its own module.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from hansa.errors import Conflict, Forbidden, HansaError, NotFound, Unauthenticated

VERBS = {
    "up": ("hansa.cli.up:up_command", "Start a whole cloud on this machine, in the foreground."),
    "serve": (
        "hansa.cli.serve:serve_command",
        "Run one process of a cloud: its API, its control loop, both, or S3.",
    ),
    "get": ("hansa.cli.verbs:get_command", "List objects of a kind, or show some of them."),
    "describe": ("hansa.cli.verbs:describe_command", "Everything about one object, with its conditions and events."),
    "apply": ("hansa.cli.apply:apply_command", "Make it as a file, a folder or standard input says."),
    "diff": ("hansa.cli.diff:diff_command", "What `apply` of a file would change, and whether anything."),
    "delete": ("hansa.cli.verbs:delete_command", "Delete objects, by name or as a file names them."),
    "start": ("hansa.cli.verbs:start_command", "Start stopped machines."),
    "stop": ("hansa.cli.verbs:stop_command", "Stop running machines."),
    "wait": ("hansa.cli.verbs:wait_command", "Wait until objects are ready, stopped or gone."),
    "why": ("hansa.cli.why:why_command", "Why an object is as it is: one screen."),
    "quota": ("hansa.cli.quota:quota_command", "How much of its quotas a project uses; `quota set` sets them."),
    "usage": ("hansa.cli.usage:usage_command", "What a project used: machines, disks, objects, over time."),
    "ssh": ("hansa.cli.ssh:ssh_command", "Log in to a machine, or run a command in it."),
    "console": ("hansa.cli.console:console_command", "The serial console of a machine, live: read and type."),
    "logs": ("hansa.cli.verbs:logs_command", "The console log of a machine, over all its starts."),
    "events": ("hansa.cli.verbs:events_command", "What happened, in a project or to one object."),
    "explain": ("hansa.cli.explain:explain_command", "The kinds, their fields and rules, and what is not built yet."),
    "bucket": ("hansa.cli.bucket:bucket_command", "Objects in buckets, by S3: list, copy, keep folders alike."),
    "login": ("hansa.cli.login:login_command", "Log in to a cloud by name and password; log out."),
    "s3": ("hansa.cli.s3:s3_command", "Keys with which programs use S3; a look over all that is stored."),
    "iam": ("hansa.cli.iam:iam_command", "Who may do what: roles, bindings, people, oneself."),
    "audit": ("hansa.cli.audit:audit_command", "Who did what, and who was refused."),
    "seal": ("hansa.cli.seal:seal_command", "The keys that seal secrets at rest: look at them, change them."),
    "image": ("hansa.cli.image:image_command", "Build, list and remove images of this machine."),
    "fleet": ("hansa.cli.fleet:fleet_command", "Check a fleet file, show one, and the schema for editors."),
    "migrate": ("hansa.cli.stores:migrate_command", "Bring the schema of the database up to date."),
    "backup": ("hansa.cli.stores:backup_command", "Write the store into one file, while the cloud runs."),
    "restore": ("hansa.cli.stores:restore_command", "Put a backup in place, on either database."),
    "host": ("hansa.cli.host:host_command", "Look at and set up this machine as a host."),
    "completion": ("hansa.cli.completion:completion_command", "The script that lets a shell complete kinds and names."),
}

COMPLETING = "_HANSA_COMPLETE"  # set while a shell asks for completions

EXIT_CODES = """\b
Exit status:
  0  done                            4  timed out
  1  failed                          5  conflict: exists, in use, changed meanwhile
  2  wrong usage                     6  not allowed, or not known who asks
  3  not found                       7  no cloud answers
                                   130  interrupted
"""

EPILOG = f"""\b
Which cloud: --data DIR of a verb, else HANSA_* or EVROC_* in the environment
(`source DIR/hansa.env`), else the folder hansa-data of this directory, else `hansa login`.

{EXIT_CODES}
\b
Completion:  eval "$(hansa completion bash)"     (or zsh, fish)
Colour is used on a terminal only, and never with NO_COLOR set.
"""


class Verbs(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, name = VERBS[cmd_name][0].split(":")
        command: click.Command = getattr(import_module(module), name)
        if COMPLETING in os.environ:
            from hansa.cli.completion import teach

            teach(cmd_name, command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, 1)
            meant = f" Did you mean {near[0]}?" if near else " `hansa --help` lists the verbs."
            raise click.UsageError(f"There is no verb {args[0]!r}.{meant}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The verbs without importing them; options as ever."""
        verbs = [CompletionItem(name, help=about) for name, (_, about) in VERBS.items() if name.startswith(incomplete)]
        return verbs or super().shell_complete(ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, about) for name, (_, about) in VERBS.items()])


HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.command(cls=Verbs, epilog=EPILOG, context_settings=HELP)
@click.version_option(package_name="hansa")
def hansa() -> None:
    """An open cloud of your own hosts: machines, disks, networks and object storage.

    \b
      hansa up --data DIR            start a cloud here
      source DIR/hansa.env           say which cloud is meant
      hansa apply -f web.yaml        make what a file asks for
      hansa get vm                   what there is
      hansa why vm/web-1             why it is so
    """


def main() -> None:
    """Runs the command and exits with its status."""
    try:
        code = hansa.main(prog_name="hansa", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = 130
    except HansaError as error:
        show_error(error)
        code = exit_code(error)
    sys.exit(code if isinstance(code, int) else 0)


def exit_code(error: HansaError) -> int:
    """The exit status that an error stands for, as `hansa --help` says."""
    by_reason = {"TimedOut": 4, "Unreachable": 7, "Unclear": 2}
    if error.reason in by_reason:
        return by_reason[error.reason]
    for kind, code in ((NotFound, 3), (Conflict, 5), (Forbidden, 6), (Unauthenticated, 6)):
        if isinstance(error, kind):
            return code
    return 1


def show_error(error: HansaError) -> None:
    """What went wrong, which fields, where help stands: to standard error."""
    red = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    click.echo(f"{click.style('error:', fg='red') if red else 'error:'} {error.message}", err=True)
    for field in error.fields:
        line = f"{field.path}: {field.message}"
        if line not in error.message:
            click.echo(f"  {line}", err=True)
    for note in getattr(error, "__notes__", ()):
        click.echo(f"  help: {note}", err=True)
    if error.detail and error.status >= 500:
        click.echo(f"  {error.detail}", err=True)
