"""Meters: what of an object is measured while it is there, and what its status remembers of that.

A kind declares its meters and says, from a status alone, how much of each it draws now. When an interval opens
or closes is arithmetic in `hansa.ledger.usage`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hansa.kinds.resource import Status, Wire
from hansa.kinds.rules import hidden


@dataclass(frozen=True, slots=True)
class Meter:
    """`name` says what adds up over an interval (`vcpu_seconds`), `unit` what is drawn at any moment (`vCPU`)."""

    name: str
    unit: str


VCPU = Meter("vcpu_seconds", "vCPU")
MEMORY = Meter("memory_byte_seconds", "byte")
GPU = Meter("gpu_seconds", "GPU")
DISK = Meter("disk_byte_seconds", "byte")
SNAPSHOT = Meter("snapshot_byte_seconds", "byte")
PUBLIC_IP = Meter("public_ip_seconds", "address")
BUCKET = Meter("bucket_byte_seconds", "byte")
# Counted in windows of a minute, by whoever serves them: no amount over time.
S3_READS, S3_WRITES, S3_LISTS = (Meter(f"s3_{name}_requests", "request") for name in ("read", "write", "list"))
S3_RECEIVED, S3_SENT = Meter("s3_received_bytes", "byte"), Meter("s3_sent_bytes", "byte")
S3_COUNTED = (S3_READS, S3_WRITES, S3_LISTS, S3_RECEIVED, S3_SENT)


@dataclass(frozen=True, slots=True)
class Measure:
    """What is drawn now, by meter; nothing is drawn of a meter that is not named.

    `since` (epoch seconds): from when on that is so, where the engine knows; None: from now. `sku` is what a price
    is looked up by beside the meter: a compute profile. `simulated`: no real thing stands behind it. `until` (epoch
    seconds): till when what is drawn no more was drawn, where the engine knows; None: till now.
    """

    levels: Mapping[Meter, int] = field(default_factory=dict)
    zone: str = ""
    sku: str = ""
    since: float | None = None
    simulated: bool = False
    until: float | None = None


NOTHING = Measure()


class OpenInterval(Wire):
    """An interval that began at `start` (whole epoch seconds) and has not ended."""

    id: str
    meter: str
    quantity: int
    start: int
    zone: str = ""
    sku: str = ""


class Metering(Wire):
    """The open intervals of an object, and the end of its last closed one: the next begins no earlier."""

    open: tuple[OpenInterval, ...] = ()
    until: int = 0


class MeteredStatus(Status):
    """The status of a kind that has meters. The loop keeps `metering`; reconcilers leave it alone."""

    metering: Metering | None = hidden()
