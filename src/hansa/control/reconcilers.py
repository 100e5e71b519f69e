"""Which reconciler and which admission goes with which kind: two tables."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from hansa.control.accounts import Credentials, ServiceAccounts, credential_born, service_account_born
from hansa.control.attachments import Attachments, attachment_born
from hansa.control.bindings import PermissionSets, RoleBindings, binding_born, permission_set_born
from hansa.control.buckets import (
    Buckets,
    EncryptionKeys,
    bucket_amended,
    bucket_born,
    bucket_closed,
    bucket_guard,
    bucket_reopened,
    encryption_key_born,
    project_closed,
    project_guard,
    project_reopened,
)
from hansa.control.copies import disk_born, disk_guard, snapshot_born, snapshot_guard
from hansa.control.custom_images import CustomDiskImages
from hansa.control.disks import Disks, disk_amended
from hansa.control.groups import PlacementGroups, PublicIPs, SecurityGroups, group_born, security_group_born
from hansa.control.hosts import Hosts
from hansa.control.machine_admission import machine_amended, machine_born, machine_preview
from hansa.control.machines import Machines, Unseal
from hansa.control.networks import SubnetsOf, guard_default, subnet_born, vpc_born
from hansa.control.outcome import Outcome, born_ready, born_waiting, conditions
from hansa.control.private_clouds import VirtualPrivateClouds
from hansa.control.projects import Projects, project_born
from hansa.control.quotas import charged, limits_amended
from hansa.control.s3keys import (
    BucketServiceAccounts,
    BucketServiceAccountSecrets,
    S3Keys,
    bucket_account_born,
    s3_key_born,
)
from hansa.control.snapshots import Snapshots
from hansa.control.world import Reconciler, World
from hansa.kinds.iam import Organization
from hansa.kinds.resource import AnyResource, Status
from hansa.kinds.sovereignty import SovereigntyPolicy
from hansa.store.port import Admission, Birth


class Policies:
    """A policy holds from the moment it is stored: nothing is left to do."""

    kind = SovereigntyPolicy

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        if it.deleting:
            return Outcome(gone=True)
        return Outcome(Status(conditions=conditions(it, world.clock.now(), True, "Available")))


class Organizations:
    """A new name needs no work but to be seen."""

    kind = Organization

    async def reconcile(self, it: AnyResource, world: World) -> Outcome:
        return Outcome(it.status)


def reconcilers(unseal: Unseal) -> dict[str, Reconciler]:
    table: tuple[Any, ...] = (
        Disks(), Snapshots(), Machines(unseal), Attachments(), PlacementGroups(), VirtualPrivateClouds(), SubnetsOf(),
        SecurityGroups(), PublicIPs(), Projects(), ServiceAccounts(), Credentials(), Hosts(), Policies(), Organizations(),
        RoleBindings(), PermissionSets(), Buckets(), EncryptionKeys(), CustomDiskImages(), S3Keys(), BucketServiceAccounts(),
        BucketServiceAccountSecrets(),
    )  # fmt: skip
    return {r.kind.kind: r for r in table}


def admissions(world: World) -> dict[str, Admission]:
    def bound(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        return partial(_with_world, call, world)

    told = {
        "VirtualPrivateCloud": Admission(born=bound(vpc_born), guard=bound(guard_default)),
        "Subnet": Admission(born=bound(subnet_born), guard=bound(guard_default)),
        "SecurityGroup": Admission(born=bound(security_group_born)),
        "PlacementGroup": Admission(born=bound(group_born)),
        "ServiceAccount": Admission(born=bound(service_account_born)),
        "ServiceAccountCredential": Admission(born=bound(credential_born)),
        "Disk": Admission(born=bound(disk_born), amend=bound(disk_amended), guard=bound(disk_guard)),
        "Snapshot": Admission(born=bound(snapshot_born), guard=bound(snapshot_guard)),
        "HotswapDiskAttachment": Admission(born=bound(attachment_born)),
        "PublicIP": Admission(born=bound(_waiting)),
        "RoleBinding": Admission(born=bound(binding_born)),
        "PermissionSet": Admission(born=bound(permission_set_born)),
        "SovereigntyPolicy": Admission(born=bound(_at_once)),
        "VirtualMachine": Admission(
            born=bound(machine_born), amend=bound(machine_amended), preview=bound(machine_preview)
        ),
        "Bucket": Admission(
            born=bound(bucket_born), amend=bound(bucket_amended), guard=bound(bucket_guard), close=bound(bucket_closed),
            reopen=bound(bucket_reopened), still=True,
        ),
        "BucketServiceAccount": Admission(born=bound(bucket_account_born), still=True),
        "S3Key": Admission(born=bound(s3_key_born), still=True),
        "CustomDiskImage": Admission(born=bound(_waiting)),
        "EncryptionKey": Admission(born=bound(encryption_key_born), still=True),
    }  # fmt: skip
    limited = bound(limits_amended)
    return {
        **{kind: charged(admission, world) for kind, admission in told.items()},
        "Project": Admission(
            born=bound(project_born), amend=limited, guard=bound(project_guard), close=bound(project_closed),
            reopen=bound(project_reopened),
        ),
        "Organization": Admission(amend=limited),
    }  # fmt: skip


async def _with_world(call: Callable[..., Awaitable[Any]], world: World, *objects: AnyResource) -> Any:
    return await call(*objects, world)


async def _waiting(it: AnyResource, world: World) -> Birth:
    return Birth(born_waiting(world.clock.now()))


async def _at_once(it: AnyResource, world: World) -> Birth:
    return Birth(born_ready(world.clock.now()), observed=1, due=False)
