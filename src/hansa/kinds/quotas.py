"""How much an organisation or a project may hold: the contract's section 3.7, and counts of ours.

A quantity is named by its path (`compute.vCPUs`, `compute.gpus.nvidia.com/AD102GL_L40S`); its amounts are whole
numbers, of bytes where it is a size. What is absent has no limit of its own. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator

from hansa.kinds.compute import REGIONAL
from hansa.kinds.resource import Document, Resource, Spec, Status, Wire
from hansa.units import from_bytes, to_bytes

COUNT_MAX = 2**31 - 1  # the most that a count can say on the wire: as good as no limit
NO_LIMIT = "unlimited"  # of a size
_SIZE = re.compile(r"(\d{1,12}) ?(KB|MB|GB|TB)", re.ASCII)


def size_bytes(text: str) -> int:
    """Bytes of `64 GB` or `5TB`. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(
            f'must be "{NO_LIMIT}" or a number with KB, MB, GB or TB, as in "64 GB" (given: {text[:40]!r})'
        )
    return to_bytes(int(match[1]), match[2])


def check_size(text: str | None) -> str | None:
    """A size, or `unlimited`. Raises ValueError."""
    if text not in (None, NO_LIMIT):
        size_bytes(text or "")
    return text


ModelName = Annotated[str, StringConstraints(min_length=1, max_length=100)]
CountLimit = Annotated[int, Field(ge=0, le=COUNT_MAX)]

VCPUS, MEMORY, BLOCK_STORAGE, GPUS = "compute.vCPUs", "compute.memory", "compute.blockStorage", "compute.gpus"
MACHINES, DISKS, SNAPSHOTS = "compute.virtualMachines", "compute.disks", "compute.snapshots"
PUBLIC_IPS, VPCS = "networking.publicIPs", "networking.virtualPrivateClouds"
OBJECT_STORAGE, PROJECTS = "objectStorage.totalSize", "iam.projects"
BUCKETS, OBJECTS = "objectStorage.buckets", "objectStorage.objects"
REQUESTS = "objectStorage.requestsPerSecond"  # a pace: nothing of it is ever in use
SIZES = frozenset({MEMORY, BLOCK_STORAGE, OBJECT_STORAGE})  # in bytes; everything else is a count
COUNTS = (VCPUS, MACHINES, DISKS, SNAPSHOTS, PUBLIC_IPS, VPCS, BUCKETS, OBJECTS, PROJECTS)  # the last: of organisations
_GPU_KEYS = {"L40S": "nvidia.com/AD102GL_L40S", "B200": "nvidia.com/GB100_B200"}  # by the model of a profile


class ComputeQuotas(Wire):
    vcpus: CountLimit | None = Field(None, alias="vCPUs")
    memory: str | None = None  # a size
    block_storage: str | None = None  # a size: of disks and snapshots
    gpus: dict[ModelName, CountLimit] | None = Field(None, max_length=64)  # by model
    virtual_machines: CountLimit | None = None
    disks: CountLimit | None = None
    snapshots: CountLimit | None = None

    _sizes = field_validator("memory", "block_storage")(check_size)


class NetworkingQuotas(Wire):
    public_ips: CountLimit | None = Field(None, alias="publicIPs")
    virtual_private_clouds: CountLimit | None = None  # without the default ones


class ObjectStorageQuotas(Wire):
    total_size: str | None = None  # a size
    buckets: CountLimit | None = None
    objects: CountLimit | None = None  # with all their versions
    requests_per_second: CountLimit | None = None  # of S3

    _sizes = field_validator("total_size")(check_size)


class IamQuotas(Wire):
    projects: CountLimit | None = None  # of an organisation


class Quotas(Wire):
    """Limits by quantity. Sizes are text with a decimal unit, or `unlimited`; the rest are counts."""

    compute: ComputeQuotas | None = None
    networking: NetworkingQuotas | None = None
    object_storage: ObjectStorageQuotas | None = None
    iam: IamQuotas | None = None

    def limits(self) -> dict[str, int]:
        """Limits by the path of their quantity; one that is switched off is not there."""
        found: dict[str, int] = {}
        for part, values in self.wire().items():
            for name, value in values.items():
                path = f"{part}.{name}"
                if path == GPUS:
                    found |= {gpu_path(model): count for model, count in value.items()}
                elif path not in SIZES:
                    found[path] = value
                elif value != NO_LIMIT:
                    found[path] = size_bytes(value)
        return found

    def off(self) -> frozenset[str]:
        """The sizes whose limit is switched off here, whatever the default is."""
        parts = self.wire()
        texts = {path: parts.get(path.split(".")[0], {}).get(path.split(".")[1]) for path in SIZES}
        return frozenset(path for path, text in texts.items() if text == NO_LIMIT)


SHIPPED = Quotas.model_validate({
    "compute": {"vCPUs": 20_000, "memory": "80 TB", "blockStorage": "20000 TB", "virtualMachines": 20_000,
                "disks": 200_000, "snapshots": 200_000, "gpus": dict.fromkeys(_GPU_KEYS.values(), 1000)},
    "networking": {"publicIPs": 1000, "virtualPrivateClouds": 10_000},
    "objectStorage": {"totalSize": NO_LIMIT, "buckets": 10_000},
    "iam": {"projects": 1000},
})  # fmt: skip
"""What every organisation may hold where the operator says nothing else: generous, and an end to mistakes."""


def gpu_path(model: str) -> str:
    """The quantity of a GPU model, by its own name or by the one of the wire."""
    return f"{GPUS}.{_GPU_KEYS.get(model, model)}"


def size_text(amount: int) -> str:
    """`64 GB`: in the largest unit from GB on, or in MB or KB, that has no remainder."""
    if amount % 10**9 == 0:
        return f"{amount // 10**9} GB"
    number, unit = from_bytes(amount)
    return f"{number} {unit}"


def limits_document(limits: Mapping[str, int]) -> Document:
    """An organisation's limits as the contract shows them: those that clients expect are always there."""
    return _document(limits, {VCPUS: COUNT_MAX, PUBLIC_IPS: COUNT_MAX}, SIZES)


def project_limits_document(limits: Mapping[str, int]) -> Document:
    """A project's own limits; its organisation's hold as well, so that few have any."""
    return _document(limits, {}, {OBJECT_STORAGE})


def usage_document(used: Mapping[str, int]) -> Document:
    """An organisation's amounts in use, sizes also as numbers in the units of the contract."""
    return _usage({**dict.fromkeys((*COUNTS, *SIZES), 0), **used})


def project_usage_document(used: Mapping[str, int]) -> Document:
    return _usage({**dict.fromkeys((*COUNTS[:-1], *SIZES), 0), **used})


def _usage(amounts: Mapping[str, int]) -> Document:
    shown = _document(amounts, {}, ())
    shown["compute"]["memoryInKiBs"] = -(-amounts[MEMORY] // 1024)
    shown["compute"]["blockStorageInMBs"] = -(-amounts[BLOCK_STORAGE] // 10**6)
    return shown


def _document(amounts: Mapping[str, int], always: Mapping[str, int], sizes: Iterable[str]) -> Document:
    """By part and name. `always`: counts that are there in any case; `sizes`: likewise, `unlimited` when not limited."""
    shown: Document = {"compute": {"gpus": {}}, "networking": {}, "objectStorage": {}}
    for path in sizes:
        part, name = path.split(".")
        shown[part][name] = NO_LIMIT
    for path, amount in sorted({**always, **amounts}.items()):
        if path.startswith(f"{GPUS}."):
            shown["compute"]["gpus"][path.removeprefix(f"{GPUS}.")] = amount
            continue
        part, name = path.split(".")
        shown.setdefault(part, {})[name] = size_text(amount) if path in SIZES else amount
    return shown


# -- what the contract shows of them --------------------------------------------------------------


class OrgQuotaSpec(Spec):
    quotas: Quotas


class QuotaStatus(Status):
    quota_usage: dict[str, Any]


class OrgQuota(
    Resource[OrgQuotaSpec, QuotaStatus],
    service="quotas", version="v1alpha2", collection="orgQuotas",
    scope="organizations/{organization}/regions/{region}", verbs="S",
    columns=(("VCPUS", "spec.quotas.compute.vCPUs"), ("MEMORY", "spec.quotas.compute.memory"),
             ("STORAGE", "spec.quotas.compute.blockStorage"), ("PUBLIC IPS", "spec.quotas.networking.publicIPs")),
):  # fmt: skip
    """What an organisation may hold in all its projects and regions together, and what it holds.

    One object, not a list; the same in every region. `hansa quota set` sets it.
    """


class ProjectQuotaSpec(Spec, Quotas):
    pass


class ProjectQuota(
    Resource[ProjectQuotaSpec, QuotaStatus],
    service="quotas", version="v1alpha2", collection="projectQuotas", scope=REGIONAL, verbs="S",
    columns=(("VCPUS", "spec.compute.vCPUs"), ("MEMORY", "spec.compute.memory"),
             ("STORAGE", "spec.compute.blockStorage"), ("OBJECTS", "spec.objectStorage.totalSize")),
):  # fmt: skip
    """What a project may hold in all regions together, and what it holds; the organisation's limits hold as well.

    One object, not a list; the same in every region. `hansa quota set` sets it.
    """
