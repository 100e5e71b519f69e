"""Every reason that a condition may give: a closed list, each with one line of help.

Clients read a `Ready=False` whose reason contains one of `TERMINAL_WORDS` as the end of the story; a
promise test keeps those words out of the transitional ones and inside the terminal ones.
"""

from __future__ import annotations

from dataclasses import dataclass

TERMINAL_WORDS = (
    "failed", "failure", "error", "invalid", "unavailable", "denied", "exceeded", "toosmall",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reason:
    name: str
    phase: str  # "ready", "working", "terminal"
    help: str


_ALL = [
    Reason("Available", "ready", "It is as the spec wants it."),
    Reason("Stopped", "ready", "It is stopped, as the spec wants it."),
    Reason("Simulated", "ready", "It runs on a simulated host: no real machine stands behind it."),
    Reason("Pending", "working", "It waits for its turn."),
    Reason("Creating", "working", "It is being made."),
    Reason("Provisioning", "working", "Room was found; it is being set up."),
    Reason("Updating", "working", "The spec changed and is being followed."),
    Reason("Starting", "working", "The machine is starting."),
    Reason("Stopping", "working", "The machine was asked to power off."),
    Reason("Deleting", "working", "It is being removed."),
    Reason("WaitingForReference", "working", "Something that it points at is not there or not ready yet."),
    Reason("WaitingForContents", "working", "What is inside is being removed first."),
    Reason("ImageBuilding", "working", "The image is being built on this machine; the message says how far."),
    Reason("Copying", "working", "It is being copied; the message says how far."),
    Reason("DetachPending", "working", "The guest does not let go of the disk: unmount it there, or stop the machine."),
    Reason("HostDiskFull", "working", "The host's disk is full: the operator must make room; it goes on by itself."),
    Reason("GuestPoweredOff", "working", "The guest switched itself off. `hansa start` starts it again."),
    Reason("GuestDied", "working", "The machine's process ended; it is started again with back-off."),
    Reason("StaleGeneration", "working", "The engine has seen a newer spec; the next pass follows that."),
    Reason("EngineNotAnswering", "working", "The host's engine gives no answer; it is asked again."),
    Reason("HostGone", "working", "The host that it stands on is not in the fleet any more."),
    Reason(
        "LeftFleetFile",
        "working",
        "It left the fleet file while something stands on it; it goes at a start after that is gone.",
    ),
    Reason("Overdue", "working", "It takes longer than it should; the message says since when."),
    Reason("ProvisioningFailed", "terminal", "It cannot be made as asked; the message says what to change."),
    Reason("NoCapacityUnavailable", "terminal", "No host has room; the message says what is short."),
    Reason("DiskTooSmall", "terminal", "The image needs a larger disk; the message names both sizes."),
    Reason("ImageUnavailable", "terminal", "The image cannot be had here; the message says how to get it."),
    Reason("ReferenceInvalid", "terminal", "It points at something that does not fit; the message says what."),
    Reason("ZoneInvalid", "terminal", "There is no such zone in the region."),
    Reason("PlacementGroupExceeded", "terminal", "The group has no host left on which it holds no machine."),
    Reason("PolicyDenied", "terminal", "A policy forbids it; the message names the rule."),
    Reason(
        "QuotaExceeded",
        "terminal",
        "A quota is spent; the message says which. `hansa quota` shows what is in use, and it goes on once there is room.",
    ),
    Reason("AddressesExceeded", "terminal", "The range has no free address."),
    Reason("NotFiltered", "working", "Its security groups are not enforced there (yet); the message says why."),
    Reason("NotForwarded", "working", "The public address leads nowhere (yet); the message says why."),
    Reason("Filtered", "ready", "Security groups are enforced."),
]

REASONS: dict[str, Reason] = {r.name: r for r in _ALL}

# What would help, a line for each reason that is not the wanted end: `hansa why` shows it.
HELPS: dict[str, str] = {
    "Pending": "Nothing: it is looked at when its turn comes.",
    "Creating": "Nothing: it takes a moment.",
    "Provisioning": "Nothing: it takes a moment; `hansa events` shows how far it is.",
    "Updating": "Nothing: the change is on its way.",
    "Starting": "Nothing: `hansa console` shows how the guest starts.",
    "Stopping": "Nothing for a minute; a guest that does not listen is cut off then.",
    "Deleting": "What still points at it must let go; see `pointed at by`.",
    "WaitingForReference": "Make what it points at, or wait until that is ready; see `points at`.",
    "WaitingForContents": "What is inside goes first; look at `pointed at by` for what does not go.",
    "ImageBuilding": "Nothing: the image is built once for all machines of this host.",
    "Copying": "Nothing: it takes as long as the bytes need.",
    "DetachPending": "Unmount the disk in the guest, or stop the machine.",
    "HostDiskFull": "Delete disks or snapshots of that host, or give it a larger disk.",
    "GuestPoweredOff": "`hansa start` starts it again; `spec.running: false` says that it shall stay off.",
    "GuestDied": "`hansa logs` shows the guest's last words; it is started again by itself.",
    "StaleGeneration": "Nothing: the next pass follows the newer spec.",
    "EngineNotAnswering": "The last attempts say what the engine answered; an operator looks at `hansa host probe`.",
    "LeftFleetFile": "Delete what stands there and start again, or put the place back into the fleet file.",
    "HostGone": "Put the host back into the fleet file, or delete the object.",
    "Overdue": "The last attempts say what is in the way.",
    "ProvisioningFailed": "Change what the message names and apply again, or delete it.",
    "NoCapacityUnavailable": "Ask for less, ask in another zone, or free a host; the decision says what is short where.",
    "DiskTooSmall": "Give the disk at least the size of the image: both stand in the message.",
    "ImageUnavailable": "Choose an image of `hansa get diskimage`, or build it with `hansa image build`.",
    "ReferenceInvalid": "Correct the reference that the message names.",
    "ZoneInvalid": "Choose one of the region's zones: `hansa get zone`.",
    "PlacementGroupExceeded": "Leave the group, make the group weaker, or wait for a host that holds none of it.",
    "PolicyDenied": "Ask for what the named rule allows, or have its owner change it.",
    "QuotaExceeded": "Delete what is not needed, or ask an owner for a larger quota.",
    "AddressesExceeded": "Delete what holds addresses there, or use another subnet with free ones.",
    "NotFiltered": "Nothing while it starts; else `hansa host probe` says what the host lacks.",
    "NotForwarded": "Attach the address to a machine that runs; the message says what is missing.",
}


def what_helps(reason: str) -> str:
    """A line for people, empty where nothing is amiss."""
    return HELPS.get(reason, "")


def is_terminal(reason: str) -> bool:
    """As the clients see it: by the words in the reason."""
    return any(word in reason.lower() for word in TERMINAL_WORDS)
