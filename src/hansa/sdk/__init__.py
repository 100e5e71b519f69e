"""Hansa for programs: `Client`, and the errors that it raises beside those of `hansa.errors`."""

from hansa.sdk.client import Client, Seen
from hansa.sdk.credentials import Connection
from hansa.sdk.errors import Ended, TimedOut, Unclear, Unreachable
from hansa.sdk.watch import Event

__all__ = ["Client", "Connection", "Ended", "Event", "Seen", "TimedOut", "Unclear", "Unreachable"]
