"""Completion in shells: verbs and options by click, kinds by the table, names by asking the cloud, within a second.

A shell waits for the answer, so whatever is wrong (no cloud, no right, too slow) means no names, and nothing is said.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from hansa.errors import HansaError

LIMIT_S = 1.0
NAMES_MAX = 500
_VARIABLE = "_HANSA_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """The script that teaches a shell to complete verbs, options, kinds and names.

    \b
      eval "$(hansa completion bash)"            in ~/.bashrc; zsh: in ~/.zshrc
      hansa completion fish > ~/.config/fish/completions/hansa.fish
    """
    found = get_completion_class(shell)
    if found is None:  # the choices above are those that click knows
        raise click.UsageError(f"there is no completion for {shell}")
    root = click.get_current_context().find_root().command
    click.echo(found(root, {}, "hansa", _VARIABLE).source())


class Objects(click.ParamType[str]):
    """Words that name objects: `vm web-1 …` or `vm/web-1 …`; with `default`, names of that kind alone."""

    name = "object"

    def __init__(self, default: str | None = None, *, kinds_only: bool = False) -> None:
        self.default, self.kinds_only = default, kinds_only

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        given = ctx.params.get(param.name or "") or ()
        before = [given] if isinstance(given, str) else list(given)
        try:
            return [CompletionItem(word) for word in self.words(ctx.params, before, incomplete)]
        except (HansaError, OSError, ValueError, KeyError, Late):
            return []

    def words(self, params: dict[str, Any], before: Sequence[str], incomplete: str) -> list[str]:
        """Everything that may stand here. Raises what the cloud refuses with."""
        from hansa.sdk import names

        kind, slash, begun = incomplete.partition("/")
        kinds = sorted(known.called for known in names.kinds())
        if self.kinds_only:
            return [word for word in kinds if word.startswith(incomplete)]
        if slash:
            return [f"{kind}/{name}" for name in _names_of(params, names.named(kind), begun)]
        if self.default is not None and not before:
            return _names_of(params, names.named(self.default), incomplete)
        if before and "/" not in before[0]:
            return [n for n in _names_of(params, names.named(before[0]), incomplete) if n not in before[1:]]
        ending = "/" if before else ""  # after `vm/web-1` only KIND/NAME may follow
        return [word + ending for word in kinds if word.startswith(incomplete)]


OF_MACHINES = frozenset({"start", "stop", "ssh", "console", "logs"})


def teach(verb: str, command: click.Command) -> None:
    """Lets the words of a verb be completed. Only called while a shell asks."""
    for param in command.params:
        if isinstance(param, click.Argument) and param.name in ("words", "name", "kind"):
            param.type = Objects("vm" if verb in OF_MACHINES else None, kinds_only=param.name == "kind")


def _names_of(params: dict[str, Any], known: Any, begun: str) -> list[str]:
    from hansa.cli.options import client_of

    with within(LIMIT_S):
        client = client_of(*(params.get(name) for name in ("data", "project", "region", "organization")))
        items = client.list(known.kind)
    found = (str(item["metadata"]["id"]) for item in items)
    return sorted(name for name in found if name.startswith(begun))[:NAMES_MAX]


class Late(BaseException):  # noqa: N818 - no error of ours: nothing below is to catch it
    """The time is over; nothing below catches it."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises Late out of whatever waits. For the main thread of a process that does nothing else."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
