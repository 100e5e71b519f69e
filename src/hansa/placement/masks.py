"""What refuses a host: one array operation a reason. True: this reason has nothing against the host.

In the order in which they are asked; a host is refused by the first that says no.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hansa.placement.fleet import FleetView
from hansa.placement.request import Request
from hansa.units import human_size

Mask = Callable[[Request, FleetView], NDArray[np.bool_]]


def in_zone(request: Request, fleet: FleetView) -> NDArray[np.bool_]:
    """Hosts of the zone that was asked for; waiting does not help."""
    return np.equal(fleet.site, f"{request.region}/{request.zone}").astype(np.bool_)


def lawful(request: Request, fleet: FleetView) -> NDArray[np.bool_]:
    """Hosts in territories that no policy forbids; waiting does not help."""
    forbidden = {territory for territory, _ in request.forbidden}
    return np.array([t not in forbidden for t in fleet.territory], dtype=np.bool_)


def in_service(request: Request, fleet: FleetView) -> NDArray[np.bool_]:
    """Hosts whose engine works; waiting may help."""
    return fleet.healthy


def gpu_fits(request: Request, fleet: FleetView) -> NDArray[np.bool_]:
    """Hosts with enough free GPUs of the model."""
    if not request.gpus:
        return np.ones(len(fleet.hosts), dtype=np.bool_)
    same = np.equal(fleet.gpu_model, request.gpu_model).astype(np.bool_)
    return np.logical_and(same, fleet.free_gpus >= request.gpus)


def vcpus_fit(request: Request, fleet: FleetView) -> NDArray[np.bool_]:
    """Hosts with enough free virtual CPUs; waiting may help."""
    return fleet.free_vcpus >= request.vcpus


def memory_fits(request: Request, fleet: FleetView) -> NDArray[np.bool_]:
    """Hosts with enough free memory (bytes); waiting may help."""
    return fleet.free_memory_bytes >= request.memory_bytes


def group_spread(request: Request, fleet: FleetView) -> NDArray[np.bool_]:
    """Hosts without a member of the same spread group."""
    return np.array([not request.group or request.group not in h.groups for h in fleet.hosts], dtype=np.bool_)


# reason, mask, may waiting help, what is said of a refusal
MASKS: tuple[tuple[str, Mask, bool], ...] = (
    ("OtherZone", in_zone, False),
    ("PolicyDenied", lawful, False),
    ("OutOfService", in_service, True),
    ("GpuMissing", gpu_fits, False),
    ("CpuShort", vcpus_fit, True),
    ("MemoryShort", memory_fits, True),
    ("GroupMemberThere", group_spread, False),
)


def shortfall(reason: str, request: Request, fleet: FleetView, refused: NDArray[np.bool_]) -> str:
    """One sentence that names numbers, for the hosts that a reason refused."""
    names = [h.name for h, no in zip(fleet.hosts, refused, strict=True) if no]
    match reason:
        case "OtherZone":
            return f"not in zone {request.zone} of {request.region}"
        case "PolicyDenied":
            return "; ".join(dict.fromkeys(why for _, why in request.forbidden))
        case "OutOfService":
            said = {h.message for h, no in zip(fleet.hosts, refused, strict=True) if no and h.message}
            return "; ".join(sorted(said)) or f"{', '.join(names)} is out of service"
        case "GpuMissing":
            return f"asks for {request.gpus} GPU of {request.gpu_model}, and no such GPU is free there"
        case "CpuShort":
            most = int(fleet.free_vcpus[refused].max())
            return f"asks for {request.vcpus} vCPUs, at most {most} are free on one host"
        case "MemoryShort":
            most = max(0, int(fleet.free_memory_bytes[refused].max()))
            return f"asks for {human_size(request.memory_bytes)}, at most {human_size(most)} is free on one host"
        case _:
            return f"a member of the same spread group stands on {', '.join(names[:5])}"
