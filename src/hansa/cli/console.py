"""`hansa console`: the serial console of a machine, typed at on a terminal or fed from a pipe.

Plain bytes both ways. A thread shows what the guest writes; this one hands over what is typed, until the
console ends, `Ctrl-]` is pressed, or standard input is at its end and what was asked for has come.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from hansa.cli.options import client_of, placed
from hansa.errors import HansaError
from hansa.sdk import names
from hansa.sdk.errors import Ended, TimedOut

if TYPE_CHECKING:
    from types import FrameType

    from hansa.sdk.console import Console

LEAVE = b"\x1d"  # Ctrl-]
TYPED_BYTES_MAX = 16 << 10  # at once
CLOSED_S = 5.0
STDIN, STDOUT = 0, 1


@click.command("console")
@click.argument("name")
@click.option("--linger", default=2.0, show_default=True, help="Seconds to go on after the end of standard input.")
@click.option("--until", default="", metavar="TEXT", help="Go on until the guest writes this, instead of --linger.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for --until at most.")
@placed
def console_command(name: str, linger: float, until: str, timeout: float, **place: Any) -> None:
    """The serial console of a machine, live: read and type. Only owners may.

    \b
      hansa console web-1                                    on a terminal; Ctrl-] leaves it
      printf 'uname -a\\n' | hansa console web-1             shows what comes of it for 2 s
      hansa console web-1 --until 'login:' < /dev/null       waits for a text

    What the guest wrote last comes first. --until looks at what comes after the first byte that was typed, or
    at everything when nothing is typed; on a terminal it only watches. Whoever is logged in at the console
    stays so when you leave: log out first.
    """
    target = next(iter(names.targets([name], default="vm")))
    if target.known.kind != "VirtualMachine" or target.name is None:
        raise click.UsageError("only machines have a console: give the name of one")
    with client_of(**place).console(target.name) as console:
        screen = Screen(console, until.encode())
        if sys.stdin.isatty() and not until:
            _at_terminal(console, screen, str(target))
            return
        if not sys.stdin.isatty():
            _hand_over(console, screen)
        _stay(screen, str(target), until, timeout if until else linger)


class Screen:
    """Shows what the guest writes, and looks for a text in it. `over` is readable once nothing more comes."""

    def __init__(self, console: Console, wanted: bytes) -> None:
        self._console, self._wanted = console, wanted
        self._end = b""  # of what was shown, as much as may hold the beginning of the text
        self._news = threading.Condition()
        self._typed = self._ended = False
        self.found = False
        self.error: HansaError | None = None
        self.over, self._told = os.pipe()
        threading.Thread(target=self._show_all, daemon=True).start()

    def forget(self) -> None:
        """What was there before does not count any more: something is typed."""
        with self._news:
            self._typed, self._end, self.found = True, b"", False

    def wait(self, seconds: float, *, for_text: bool) -> None:
        """Until the text has come (when it is waited for), nothing more comes, or the time is over."""
        with self._news:
            self._news.wait_for(lambda: self._ended or (for_text and self.found), seconds)

    def _show_all(self) -> None:
        try:
            self._show(self._console.before, before=True)
            while data := self._console.read():
                self._show(data)
        except HansaError as error:
            self.error = error
        except BrokenPipeError:
            pass  # whoever read along has seen enough
        finally:
            with self._news:
                self._ended = True
                self._news.notify_all()
            os.close(self._told)

    def _show(self, data: bytes, *, before: bool = False) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(STDOUT, left) :]
        with self._news:
            if not self._wanted or (before and self._typed):
                return
            text = self._end + data
            self.found = self.found or self._wanted in text
            self._end = text[-len(self._wanted) :]
            self._news.notify_all()


def _at_terminal(console: Console, screen: Screen, what: str) -> None:
    click.echo(f"console of {what}; Ctrl-] leaves it", err=True)
    with _raw():
        _hand_over(console, screen, LEAVE)
    if screen.error is not None:
        click.echo(err=True)
        raise screen.error
    click.echo(f"\n{what}: {console.ended or 'left the console'}", err=True)


def _hand_over(console: Console, screen: Screen, leave: bytes = b"") -> None:
    """Types what comes from standard input, to its end, to the console's end, or to the key that leaves."""
    typed = False
    while True:
        ready, _, _ = select.select([STDIN, screen.over], [], [])
        if screen.over in ready:
            return
        data = os.read(STDIN, TYPED_BYTES_MAX)
        text, left, _ = data.partition(leave) if leave else (data, b"", b"")
        if text and not typed:
            typed = True
            screen.forget()
        try:
            console.write(text)
        except HansaError:
            screen.wait(CLOSED_S, for_text=False)  # the thread that reads is told why
            return
        if left or not data:
            return


def _stay(screen: Screen, what: str, until: str, seconds: float) -> None:
    """Goes on for a while, or until a text has come. Raises TimedOut, Ended, and what ended the console."""
    end = time.monotonic() + seconds
    screen.wait(seconds, for_text=bool(until))
    if screen.found or (screen.error is None and not until):
        return
    if screen.error is not None:
        raise screen.error
    if time.monotonic() >= end:
        raise TimedOut(f"{what} did not write {until!r} within {seconds:.0f} s")
    raise Ended("ConsoleClosed", f"the console of {what} ended before {until!r} came")


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """The terminal hands over each key as it is, and is put back however this ends."""
    import termios
    import tty

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = termios.tcgetattr(STDIN)
    handlers = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setraw(STDIN)
        yield
    finally:
        termios.tcsetattr(STDIN, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
