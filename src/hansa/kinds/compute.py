"""Machines, disks, snapshots, attachments, placement groups and the two catalogues that they choose from.

The contract's section 3.2 and 3.1, field by field; nothing here decides or does anything.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from hansa.kinds.meters import DISK, GPU, MEMORY, NOTHING, SNAPSHOT, VCPU, Measure, MeteredStatus
from hansa.kinds.resource import Document, Resource, Spec, Status, Stored, Wire
from hansa.kinds.rules import echoed, fixed, grows, hidden, refers, secret, stopped
from hansa.units import (
    AUTHORIZED_KEYS_MAX,
    DISK_BYTES_MAX,
    DISKS_PER_MACHINE_MAX,
    USER_DATA_BYTES_MAX,
    to_bytes,
)

REGIONAL = "projects/{project}/regions/{region}"
StackType = Literal["dual-stack", "ipv6-only", "ipv4-only"]
IMAGE_ENDINGS = (".qcow2", ".vhdx", ".raw")


class Size(Wire):
    """An amount and a decimal unit, kept as the user wrote them."""

    amount: int = Field(ge=0, le=2**31 - 1)
    unit: Literal["KB", "MB", "GB", "TB"]

    @property
    def size_bytes(self) -> int:
        return to_bytes(self.amount, self.unit)

    def __str__(self) -> str:
        return f"{self.amount} {self.unit}"


# -- catalogues ---------------------------------------------------------------------------------


class Gpus(Wire):
    model: str
    quantity: int
    local_disk: int = 0  # GB


class ComputeProfileSpec(Spec):
    vcpus: int = Field(alias="vCPUs")
    memory: Size
    processor_architecture: str = "amd64"
    gpus: Gpus | None = None


class ComputeProfile(
    Resource[ComputeProfileSpec, Status],
    service="compute", version="v1beta2", collection="computeProfiles", scope="global", verbs="GL",
    short=("profile", "profiles"),
    columns=(("VCPUS", "spec.vCPUs"), ("MEMORY", "spec.memory"), ("GPUS", "spec.gpus")),
):  # fmt: skip
    """A shape of machine: virtual CPUs, memory and, for some, GPUs. Named `family.size`."""


class DiskImageSpec(Spec):
    os_image: str
    os_version: str
    version: int = 1
    default_size: Size
    os_arch: str = "amd64"
    gpu_affinities: list[str] | None = None
    description: str | None = None


class DiskImageStatus(Status):
    family: str = hidden("")  # which image really stands behind it; empty: none, it is unavailable


class DiskImage(
    Resource[DiskImageSpec, DiskImageStatus],
    service="compute", version="v1beta2", collection="diskImages/evroc", scope="global", verbs="GL",
    short=("image", "images"),
    columns=(("OS", "spec.osImage"), ("VERSION", "spec.osVersion"), ("SIZE", "spec.defaultSize"),
             ("DESCRIPTION", "spec.description")),
):  # fmt: skip
    """A published image. `osImage` and `osVersion` say what really boots."""


class CustomImageSource(Wire):
    """One object of a bucket, of one version or of the latest. What ends its key is the format of the image."""

    bucket_ref: Annotated[str, refers("Bucket", holds=False)]
    service_account_ref: Annotated[str, refers("BucketServiceAccount", holds=False)]
    path: str
    version: str | None = Field(None, min_length=1, max_length=1024)

    @field_validator("path")
    @classmethod
    def _key(cls, path: str) -> str:
        if not 0 < len(path.encode()) <= 1024:
            raise ValueError("must have 1 to 1024 bytes, as every key of an object")
        if not path.endswith(IMAGE_ENDINGS):
            raise ValueError(f"must end with one of {', '.join(IMAGE_ENDINGS)}: the format of the image")
        return path

    @property
    def ending(self) -> str:
        return self.path.rpartition(".")[2]


class CustomDiskImageSpec(Spec):
    architecture: Literal["amd64"] = fixed()
    default_disk_size: Size
    source: CustomImageSource = fixed()
    description: str | None = Field(None, max_length=1000)
    os_name: str | None = Field(None, max_length=200)
    os_version: str | None = Field(None, max_length=200)
    image_version: str | None = Field(None, max_length=200)

    @field_validator("default_disk_size")
    @classmethod
    def _sane(cls, size: Size) -> Size:
        return _sane_size(size)


class CustomDiskImage(
    Resource[CustomDiskImageSpec, Status],
    service="compute", version="v1beta2", collection="customDiskImages", scope=REGIONAL, short=("customimage",),
    columns=(("PATH", "spec.source.path"), ("OS", "spec.osName"), ("VERSION", "spec.osVersion"),
             ("SIZE", "spec.defaultDiskSize")),
):  # fmt: skip
    """An image that lies in a bucket. Ready: the object is there, and the bucket service account may read it.

    What it really is shows when a disk is made of it: that is inspected and converted apart from everything else.
    """


# -- disks --------------------------------------------------------------------------------------


def _sane_size(size: Size) -> Size:
    if not 0 < size.size_bytes <= DISK_BYTES_MAX:
        raise ValueError("must be more than nothing and at most 64 TB")
    return size


class DiskPlacement(Wire):
    zone: str = ""


class DiskSource(Wire):
    type: Literal["blank", "image", "snapshot"] | None = None
    disk_image_ref: Annotated[str, refers("DiskImage", "CustomDiskImage", holds=False)] | None = None
    snapshot_ref: Annotated[str, refers("Snapshot", holds=False)] | None = None

    @model_validator(mode="after")
    def _matching(self) -> DiskSource:
        given = {"image": self.disk_image_ref, "snapshot": self.snapshot_ref}
        for kind, ref in given.items():
            field = "diskImageRef" if kind == "image" else "snapshotRef"
            if self.type == kind and ref is None:
                raise ValueError(f"type {kind} needs {field}")
            if ref is not None and self.type not in (None, kind):
                raise ValueError(f"{field} does not go with type {self.type}")
        if self.disk_image_ref is not None and self.snapshot_ref is not None:
            raise ValueError("give either diskImageRef or snapshotRef, not both")
        return self

    @property
    def blank(self) -> bool:
        return self.disk_image_ref is None and self.snapshot_ref is None


class DiskSpec(Spec):
    disk_size: Size | None = grows(None)
    placement: DiskPlacement = fixed(DiskPlacement())
    source: DiskSource | None = fixed(None)

    @field_validator("disk_size")
    @classmethod
    def _sane(cls, size: Size | None) -> Size | None:
        return None if size is None else _sane_size(size)

    @model_validator(mode="after")
    def _sized(self) -> DiskSpec:
        if self.disk_size is None and (self.source is None or self.source.blank):
            raise ValueError("a blank disk needs diskSize")
        return self


class DiskUsage(Wire):
    use_kind: Literal["permanent", "hotswap"]
    virtual_machine_ref: str
    attachment_ref: str | None = None


class DiskStatus(MeteredStatus):
    disk_size: Size | None = None
    placement: DiskPlacement | None = None
    disk_usage: tuple[DiskUsage, ...] = ()
    simulated: bool | None = None
    host: str | None = hidden()  # where its bytes are
    size_bytes: int = hidden(0)  # as the engine made it, 0: not yet
    family: str | None = hidden()  # image family that it was made from, "": none
    source: str | None = hidden()  # uid of the snapshot that it is a copy of
    upload: dict[str, Any] | None = hidden()  # the object that it is made from
    begun: bool = hidden(False)  # an engine may be making the copy

    @property
    def made(self) -> bool:
        """It exists, whatever is going on with it now: what it was made from is not needed any more."""
        return self.size_bytes > 0


class Disk(
    Resource[DiskSpec, DiskStatus],
    service="compute", version="v1beta2", collection="disks", scope=REGIONAL,
    columns=(("SIZE", "status.diskSize"), ("ZONE", "status.placement.zone"), ("IMAGE", "spec.source.diskImageRef"),
             ("USED BY", "status.diskUsage.0.virtualMachineRef")),
    meters=(DISK,),
):  # fmt: skip
    """A block device of one zone: blank, from an image or from a snapshot. It claims its size of the zone's pool."""

    @classmethod
    def measure(cls, status: DiskStatus) -> Measure:
        """Its promised size, from when it is made until it is gone, whoever uses it."""
        if not status.made or status.disk_size is None:
            return NOTHING
        zone = status.placement.zone if status.placement else ""
        return Measure({DISK: status.disk_size.size_bytes}, zone, simulated=bool(status.simulated))


# -- snapshots ----------------------------------------------------------------------------------


class SnapshotSpec(Spec):
    disk_ref: Annotated[str, refers("Disk", holds=False)] = fixed()


class SnapshotPlacement(Wire):
    zones: str  # one zone, in spite of its name


class SnapshotStatus(MeteredStatus):
    creation_time: str | None = None  # the moment that it shows
    restore_size: Size | None = None
    placement: SnapshotPlacement | None = None
    simulated: bool | None = None
    source: str | None = hidden()  # uid of the disk
    begun: bool = hidden(False)  # an engine may be making the copy
    family: str | None = hidden()  # image family of the disk, "": none

    @property
    def made(self) -> bool:
        """It exists: the disk is not needed any more."""
        return self.creation_time is not None


class Snapshot(
    Resource[SnapshotSpec, SnapshotStatus],
    service="compute", version="v1beta2", collection="snapshots", scope=REGIONAL, short=("snap", "snaps"),
    columns=(("DISK", "spec.diskRef"), ("SIZE", "status.restoreSize"), ("ZONE", "status.placement.zones"),
             ("TAKEN", "status.creationTime")),
    meters=(SNAPSHOT,),
):  # fmt: skip
    """A full copy of a disk at one moment, crash-consistent: what a power cut would have left on it.

    A running guest should write out first what it holds in memory. Once Ready it needs the disk no more.
    """

    @classmethod
    def measure(cls, status: SnapshotStatus) -> Measure:
        if not status.made or status.restore_size is None:
            return NOTHING
        zone = status.placement.zones if status.placement else ""
        return Measure({SNAPSHOT: status.restore_size.size_bytes}, zone, simulated=bool(status.simulated))


# -- machines -----------------------------------------------------------------------------------


class DiskUse(Wire):
    disk_ref: Annotated[str, refers("Disk")]
    boot_from: bool | None = None


class StaticAddress(Wire):
    public_ip_ref: Annotated[str, refers("PublicIP")] | None = Field(None, alias="publicIPRef")


class PublicAddress(Wire):
    static: StaticAddress | None = None


class SecurityGroupSettings(Wire):
    security_group_member_refs: list[Annotated[str, refers("SecurityGroup")]] | None = Field(None, max_length=16)


class MachineNetworking(Wire):
    subnet_ref: Annotated[str, refers("Subnet")] | None = fixed(None)
    stack_type: StackType | None = stopped(None)
    public_ipv4_address: PublicAddress | None = Field(None, alias="publicIPv4Address")
    security_group_settings: SecurityGroupSettings | None = None

    @property
    def public_ip_ref(self) -> str | None:
        static = self.public_ipv4_address.static if self.public_ipv4_address else None
        return static.public_ip_ref if static else None

    @property
    def security_group_refs(self) -> list[str]:
        settings = self.security_group_settings
        return list(settings.security_group_member_refs or []) if settings else []


class LoadBalancerMemberships(Wire):
    backend_pool_refs: list[Annotated[str, refers("BackendPool", holds=False, free=True)]] | None = None


class AuthorizedKey(Wire):
    value: str = Field(max_length=16384)

    @field_validator("value")
    @classmethod
    def _key(cls, value: str) -> str:
        if "\n" in value.strip() or len(value.split()) < 2:
            raise ValueError('must be one public key in OpenSSH form, as in "ssh-ed25519 AAAA… name"')
        return value


class Ssh(Wire):
    authorized_keys: list[AuthorizedKey] | None = Field(None, max_length=AUTHORIZED_KEYS_MAX)


class OsSettings(Wire):
    cloud_init_user_data: str | None = secret(None)
    ssh: Ssh | None = None

    @field_validator("cloud_init_user_data")
    @classmethod
    def _bounded(cls, text: str | None) -> str | None:
        if text is not None and len(user_data_bytes(text)) > USER_DATA_BYTES_MAX:
            raise ValueError("is larger than 64 KiB")
        return text

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(k.value.strip() for k in (self.ssh.authorized_keys or [])) if self.ssh else ()


class MachinePlacement(Wire):
    zone: str = fixed()
    placement_group_ref: Annotated[str, refers("PlacementGroup")] | None = stopped(None)


class VirtualMachineSpec(Spec):
    compute_profile_ref: Annotated[str, refers("ComputeProfile", holds=False)] = stopped()
    disks: list[DiskUse] = stopped(min_length=1, max_length=DISKS_PER_MACHINE_MAX)
    networking: MachineNetworking = MachineNetworking()
    load_balancer_memberships: LoadBalancerMemberships | None = None
    os_settings: OsSettings = OsSettings()
    placement: MachinePlacement
    running: bool = echoed(True)

    @field_validator("disks")
    @classmethod
    def _one_boots(cls, disks: list[DiskUse]) -> list[DiskUse]:
        if sum(bool(d.boot_from) for d in disks) != 1:
            raise ValueError("exactly one disk must have bootFrom: true")
        if len({d.disk_ref for d in disks}) != len(disks):
            raise ValueError("names a disk twice")
        return disks

    @property
    def boot_disk_ref(self) -> str:
        return next(d.disk_ref for d in self.disks if d.boot_from)


class AttachedDisk(Wire):
    disk_ref: str
    device: str


class HotswapDisk(Wire):
    """One disk that comes and goes, as the machine's engine last saw it."""

    hotswap_disk_attachment_ref: str
    attached: bool
    disk_ref: str
    device: str | None = None  # in the guest, while it is attached
    serial: str | None = None
    reason: Literal["HotswapDiskInvalid", "HotswapVMInvalid"] | None = None  # it cannot be attached
    message: str | None = None


class MachineAddresses(Wire):
    private_ipv4_address: str | None = Field(None, alias="privateIPv4Address")
    public_ipv4_address: str | None = Field(None, alias="publicIPv4Address")
    ipv6_address: str | None = Field(None, alias="ipv6Address")
    stack_type: str | None = None
    security_group_active_membership_refs: tuple[str, ...] | None = None
    security_group_pending_membership_refs: tuple[str, ...] | None = None
    security_group_failed_membership_refs: tuple[str, ...] | None = None


class MachineZone(Wire):
    zone: str
    placement_group_ref: str | None = None


class SshEndpoint(Wire):
    """Where this machine's port 22 is reachable from the host of the cloud."""

    host: str
    port: int


class Shape(Wire):
    """What a guest was started with."""

    profile: str
    vcpus: int
    memory_bytes: int
    gpus: int = 0


class VirtualMachineStatus(MeteredStatus):
    virtual_machine_status: str = "Creating"
    attached_disks: tuple[AttachedDisk, ...] = ()
    hotswap_disk_attachments: tuple[HotswapDisk, ...] = ()
    networking: MachineAddresses | None = None
    placement: MachineZone | None = None
    simulated: bool | None = None
    accelerator: str | None = None
    isolation: str | None = None
    ssh: SshEndpoint | None = None
    host: str | None = hidden()
    decision: str | None = None  # id of the placement decision
    started_for: int = hidden(0)  # generation for which the guest was last started
    failures: int = hidden(0)
    not_before: float | None = hidden()  # epoch seconds: no restart of a dead guest before
    mac: str | None = hidden()
    vpc: str | None = hidden()  # uid of the network that it is plugged into
    shape: Shape | None = hidden()
    on_since: float | None = hidden()  # epoch seconds since which the engine runs its guest, None: it does not
    off_at: float | None = hidden()  # epoch seconds at which the engine last saw a guest that went with its host
    released: tuple[str, ...] = hidden(())  # uids of attachments on their way out whose disks the engine let go


class VirtualMachine(
    Resource[VirtualMachineSpec, VirtualMachineStatus],
    service="compute", version="v1beta2", collection="virtualMachines", scope=REGIONAL, short=("vm", "vms"),
    columns=(("STATE", "status.virtualMachineStatus"), ("PROFILE", "spec.computeProfileRef"),
             ("ZONE", "spec.placement.zone"), ("ADDRESS", "status.networking.privateIPv4Address"),
             ("PUBLIC", "status.networking.publicIPv4Address")),
    actions=("start", "stop", "logs", "console", "ssh"), meters=(VCPU, MEMORY, GPU),
):  # fmt: skip
    """A virtual machine on one host."""

    @classmethod
    def measure(cls, status: VirtualMachineStatus) -> Measure:
        """What it was started with, while its guest runs in the engine's eyes."""
        shape = status.shape
        if status.on_since is None or shape is None:
            return Measure(until=status.off_at)
        levels = {VCPU: shape.vcpus, MEMORY: shape.memory_bytes, GPU: shape.gpus}
        zone = status.placement.zone if status.placement else ""
        return Measure(levels, zone, shape.profile, status.on_since or None, simulated=bool(status.simulated))

    @classmethod
    def stopped(cls, stored: Stored) -> bool:
        never_ran = not stored.status.get("host") and not stored.spec.get("running", True)
        return stored.status.get("virtualMachineStatus") == "Stopped" or never_ran

    @classmethod
    def say(cls, stored: Stored, status: Document) -> Document:
        """A machine that was told to run again is not `Stopped`, though nobody has looked yet."""
        if stored.deleted_at is not None:
            return {**status, "virtualMachineStatus": "Deleting"}
        if stored.observed == stored.generation:
            return status
        seen, wanted = status.get("virtualMachineStatus"), stored.spec.get("running", True)
        if wanted and seen == "Stopped":
            return {**status, "virtualMachineStatus": "Starting"}
        if not wanted and seen in ("Running", "Starting"):
            return {**status, "virtualMachineStatus": "Stopping"}
        return status


def user_data_bytes(text: str) -> bytes:
    """User data as the guest gets it: given as text, or as base64 of it."""
    try:
        raw = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return text.encode()
    return raw if raw and not text.startswith(("#", "Content-Type")) else text.encode()


# -- attachments --------------------------------------------------------------------------------


class HotswapDiskAttachmentSpec(Spec):
    virtual_machine_ref: Annotated[str, refers("VirtualMachine", holds=False)] = fixed()
    disk_ref: Annotated[str, refers("Disk")] = fixed()


class HotswapDiskAttachmentStatus(Status):
    serial: str = ""
    simulated: bool | None = None


class HotswapDiskAttachment(
    Resource[HotswapDiskAttachmentSpec, HotswapDiskAttachmentStatus],
    service="compute", version="v1beta2", collection="hotswapDiskAttachments", scope=REGIONAL,
    short=("hotswap", "attachment", "attachments"),
    columns=(("MACHINE", "spec.virtualMachineRef"), ("DISK", "spec.diskRef"), ("SERIAL", "status.serial")),
):  # fmt: skip
    """A disk that is plugged into a machine while it runs, and out again.

    The guest finds it as /dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_<serial>. Unmount it there before you
    delete this: Linux does not refuse to give up a mounted disk.
    """


DISK_LABEL = "compute.evroc.com/disk-attachment-disk"  # system label of every attachment: the disk's id


def device_of(serial: str) -> str:
    """Where a guest finds the hot disk of this serial."""
    return f"/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{serial}"


# -- placement groups ---------------------------------------------------------------------------


class Strategy(Wire):
    type: Literal["spread"]


class GroupPlacement(Wire):
    zone: str = Field(min_length=1)


class PlacementGroupSpec(Spec):
    strategy: Strategy = fixed()
    placement: GroupPlacement = fixed()


class PlacementGroupStatus(Status):
    placement: GroupPlacement | None = None
    virtual_machine_refs: tuple[str, ...] = ()


class PlacementGroup(
    Resource[PlacementGroupSpec, PlacementGroupStatus],
    service="compute", version="v1beta2", collection="placementGroups", scope=REGIONAL, short=("pg",),
    columns=(("STRATEGY", "spec.strategy.type"), ("ZONE", "spec.placement.zone"),
             ("MACHINES", "status.virtualMachineRefs")),
):  # fmt: skip
    """Machines that must stand on different hosts of one zone; at most five."""


GROUP_MEMBERS_MAX = 5
ATTACHMENTS_PER_MACHINE_MAX = 64
