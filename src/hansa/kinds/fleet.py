"""Places: regions, their zones (one site each) and hosts. Ours, read-only through the API; the fleet file
says what there is, and each host's engine what it can do.
"""

from __future__ import annotations

from pydantic import Field

from hansa.kinds.resource import Resource, Spec, Status, Wire


class RegionSpec(Spec):
    name: str  # for people: "Stockholm"
    country: str  # ISO 3166-1 alpha-2


class Region(
    Resource[RegionSpec, Status],
    service="fleet", version="v1", collection="regions", scope="", verbs="GL",
    columns=(("NAME", "spec.name"), ("COUNTRY", "spec.country")),
):  # fmt: skip
    """One or more sites near one another, under one country's law."""


class ZoneSpec(Spec):
    region: str
    letter: str
    site: str
    country: str
    source: str = ""  # where the public fact stands, or "assumed"


class Zone(
    Resource[ZoneSpec, Status],
    service="fleet", version="v1", collection="zones", scope="", verbs="GL",
    columns=(("REGION", "spec.region"), ("LETTER", "spec.letter"), ("SITE", "spec.site"), ("COUNTRY", "spec.country")),
):  # fmt: skip
    """One site of a region. Its id is `{region}-{letter}`."""


class Capacity(Wire):
    """What can be promised, after overcommit."""

    vcpus: int = Field(0, alias="vCPUs")
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpu_model: str = ""
    gpus: int = 0


class HostSpec(Spec):
    region: str
    zone: str
    simulated: bool
    capacity: Capacity = Capacity()  # physical; of the real host it is measured


class HostStatus(Status):
    capacity: Capacity = Capacity()
    accelerator: str = ""
    isolation: str = ""
    network: str = ""  # how networks are made there: namespaces, user-namespaces, userspace, simulated
    uplink: str = ""  # the guests' way out: pasta, slirp, none
    limits: tuple[str, ...] = ()  # what bounds a guest there beyond QEMU's own limits: cpu, memory, pids, io
    disk_free_bytes: int = 0
    engine: str = ""
    simulated: bool = False
    message: str = ""


class Host(
    Resource[HostSpec, HostStatus],
    service="fleet", version="v1", collection="hosts", scope="", verbs="GL",
    columns=(("REGION", "spec.region"), ("ZONE", "spec.zone"), ("SIMULATED", "status.simulated"),
             ("ACCELERATOR", "status.accelerator"), ("ISOLATION", "status.isolation"), ("NETWORK", "status.network"), ("UPLINK", "status.uplink"),
             ("VCPUS", "status.capacity.vCPUs"), ("MEMORY", "status.capacity.memoryBytes")),
):  # fmt: skip
    """A machine that runs machines. `simulated` ones exist only on paper."""
