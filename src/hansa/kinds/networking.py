"""Private networks, subnets, security groups and public addresses: the contract's section 3.3.

The rules of form stand here (a CIDR is canonical, a rule has a port only with TCP or UDP); what needs to
know other objects (overlap, free addresses) stands in `control`.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from hansa.kinds.compute import REGIONAL
from hansa.kinds.meters import NOTHING, PUBLIC_IP, Measure, MeteredStatus
from hansa.kinds.resource import Document, Resource, Spec, Status, Wire
from hansa.kinds.rules import fixed, hidden, refers
from hansa.units import RULES_PER_GROUP_MAX

DEFAULT_VPC_BLOCK = "10.0.0.0/16"
PRIVATE_V4 = tuple(ipaddress.IPv4Network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))


def private_block(text: str) -> ipaddress.IPv4Network:
    """A canonical RFC 1918 network. Raises ValueError."""
    network = ipaddress.IPv4Network(text)
    if not any(network.subnet_of(block) for block in PRIVATE_V4):
        raise ValueError(f"{text} is not inside 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16 (RFC 1918)")
    return network


# -- virtual private clouds ---------------------------------------------------------------------


class VirtualPrivateCloudSpec(Spec):
    stack_type: Literal["dual-stack", "ipv6-only"] = fixed("dual-stack")
    ipv4_cidr_blocks: list[str] | None = fixed(None, alias="ipv4CidrBlocks", max_length=8)

    @field_validator("ipv4_cidr_blocks")
    @classmethod
    def _private(cls, blocks: list[str] | None) -> list[str] | None:
        networks = [private_block(b) for b in blocks or []]
        for i, a in enumerate(networks):
            if any(a.overlaps(b) for b in networks[:i]):
                raise ValueError(f"{a} overlaps another block")
        return blocks

    @model_validator(mode="after")
    def _matching(self) -> VirtualPrivateCloudSpec:
        if self.stack_type == "ipv6-only" and self.ipv4_cidr_blocks:
            raise ValueError("ipv4CidrBlocks must be absent with stackType ipv6-only")
        return self


class AllocatedSubnet(Wire):
    subnet_ref: str
    ipv4_cidr_block: str | None = Field(None, alias="ipv4CidrBlock")
    ipv6_gua_block: str | None = Field(None, alias="ipv6GUABlock")
    placement: dict[str, str] | None = None


class Subnets(Wire):
    allocated_subnets: tuple[AllocatedSubnet, ...] = ()
    invalid_subnets: tuple[AllocatedSubnet, ...] = ()


class VirtualPrivateCloudStatus(Status):
    stack_type: str | None = None
    assigned_ipv4_cidr_blocks: tuple[str, ...] | None = Field(None, alias="assignedIPv4CidrBlocks")
    assigned_ipv6_gua_block: str | None = Field(None, alias="assignedIPv6GUABlock")
    available_ipv4_cidr_blocks: tuple[str, ...] | None = Field(None, alias="availableIPv4CidrBlocks")
    subnets: Subnets | None = None
    hosts: tuple[str, ...] = hidden(())  # where it was made, to be taken down there when its last machine goes


class VirtualPrivateCloud(
    Resource[VirtualPrivateCloudSpec, VirtualPrivateCloudStatus],
    service="networking", version="v1beta2", collection="virtualPrivateClouds", scope=REGIONAL,
    short=("vpc", "vpcs"),
    columns=(("STACK", "spec.stackType"), ("IPV4", "status.assignedIPv4CidrBlocks"),
             ("IPV6", "status.assignedIPv6GUABlock")),
):  # fmt: skip
    """A private network of one region. Blocks of different VPCs may overlap."""

    @classmethod
    def complete(cls, document: Document) -> Document:
        stack = document.get("stackType") or "dual-stack"
        done = {**document, "stackType": stack}
        if stack == "dual-stack" and not document.get("ipv4CidrBlocks"):
            done["ipv4CidrBlocks"] = [DEFAULT_VPC_BLOCK]
        return done


# -- subnets ------------------------------------------------------------------------------------


class SubnetPlacement(Wire):
    zone: str = Field(min_length=1)


class SubnetSpec(Spec):
    vpc_ref: Annotated[str, refers("VirtualPrivateCloud")] = fixed()
    stack_type: Literal["dual-stack", "ipv6-only"] = fixed()
    ipv4_cidr_block: str | None = fixed(None, alias="ipv4CidrBlock")
    placement: SubnetPlacement = fixed()

    @field_validator("ipv4_cidr_block")
    @classmethod
    def _sized(cls, text: str | None) -> str | None:
        if text is not None and not 16 <= ipaddress.IPv4Network(text).prefixlen <= 29:
            raise ValueError("the prefix must be from /16 to /29")
        return text

    @model_validator(mode="after")
    def _matching(self) -> SubnetSpec:
        if self.stack_type == "dual-stack" and self.ipv4_cidr_block is None:
            raise ValueError("ipv4CidrBlock is required with stackType dual-stack")
        if self.stack_type == "ipv6-only" and self.ipv4_cidr_block is not None:
            raise ValueError("ipv4CidrBlock must be absent with stackType ipv6-only")
        return self


class SubnetStatus(Status):
    assigned_ipv6_gua_block: str | None = Field(None, alias="assignedIPv6GUABlock")
    attachment_refs: tuple[str, ...] = ()
    available_ipv4_address_count: int | None = Field(None, alias="availableIPv4AddressCount")
    available_ipv4_ranges: tuple[str, ...] | None = Field(None, alias="availableIPv4Ranges")
    using_ipv4_address_count: int | None = Field(None, alias="usingIPv4AddressCount")
    using_ipv4_ranges: tuple[str, ...] | None = Field(None, alias="usingIPv4Ranges")
    using_ipv6_address_count: int | None = Field(None, alias="usingIPv6AddressCount")
    using_ipv6_ranges: tuple[str, ...] | None = Field(None, alias="usingIPv6Ranges")
    placement: SubnetPlacement | None = None


class Subnet(
    Resource[SubnetSpec, SubnetStatus],
    service="networking", version="v1beta2", collection="subnets", scope=REGIONAL,
    columns=(("ZONE", "spec.placement.zone"), ("IPV4", "spec.ipv4CidrBlock"),
             ("IPV6", "status.assignedIPv6GUABlock"), ("USED", "status.usingIPv4AddressCount"),
             ("FREE", "status.availableIPv4AddressCount")),
):  # fmt: skip
    """A range of a VPC in one zone; machines get their addresses from it."""


# -- security groups ----------------------------------------------------------------------------

PROTOCOLS = {"tcp": "TCP", "udp": "UDP", "icmp": "ICMP", "all": "All"}


class RemoteAddress(Wire):
    ip_address_or_cidr: str = Field(alias="ipAddressOrCIDR")

    @field_validator("ip_address_or_cidr")
    @classmethod
    def _network(cls, text: str) -> str:
        ipaddress.ip_network(text, strict=False)
        return text


class Remote(Wire):
    address: RemoteAddress | None = None
    security_group_ref: Annotated[str, refers("SecurityGroup", holds=False)] | None = None
    subnet_ref: Annotated[str, refers("Subnet", holds=False)] | None = None
    vpc_ref: Annotated[str, refers("VirtualPrivateCloud", holds=False)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Remote:
        given = [self.address, self.security_group_ref, self.subnet_ref, self.vpc_ref]
        if sum(v is not None for v in given) > 1:
            raise ValueError("names more than one kind of remote")
        return self

    @property
    def is_named(self) -> bool:
        """Does it name somebody? Empty, it is anyone."""
        return any((self.address, self.security_group_ref, self.subnet_ref, self.vpc_ref))


class SecurityRule(Wire):
    name: str | None = None
    direction: Literal["Ingress", "Egress"]
    protocol: str | None = None
    port: int | None = Field(None, ge=0, le=65535)
    end_port: int | None = Field(None, ge=0, le=65535)
    remote: Remote

    @field_validator("protocol")
    @classmethod
    def _known(cls, text: str | None) -> str | None:
        if text is not None and text.lower() not in PROTOCOLS:
            raise ValueError("must be TCP, UDP, ICMP or All")
        return text

    @model_validator(mode="after")
    def _ports(self) -> SecurityRule:
        if (self.port or self.end_port) and self.protocol_name not in ("TCP", "UDP"):
            raise ValueError("port and endPort go only with TCP or UDP")
        if self.end_port and self.end_port < (self.port or 0):
            raise ValueError("endPort is below port")
        return self

    @property
    def protocol_name(self) -> str:
        return PROTOCOLS[(self.protocol or "all").lower()]


class SecurityGroupSpec(Spec):
    vpc_ref: Annotated[str, refers("VirtualPrivateCloud")] = fixed()
    rules: list[SecurityRule] | None = Field(None, max_length=RULES_PER_GROUP_MAX)

    @model_validator(mode="after")
    def _consistent(self) -> SecurityGroupSpec:
        names = [r.name for r in self.rules or [] if r.name]
        if len(set(names)) != len(names):
            raise ValueError("rules: names must be unique in the group")
        for i, rule in enumerate(self.rules or []):
            other = rule.remote.vpc_ref
            if other is not None and other.rsplit("/", 1)[-1] != self.vpc_ref.rsplit("/", 1)[-1]:
                raise ValueError(f"rules[{i}].remote.vpcRef must be the group's own VPC")
        return self


class GroupMember(Wire):
    security_group_member_ref: str
    status: Literal["Active", "Pending"]


class SecurityGroupStatus(Status):
    members: tuple[GroupMember, ...] = ()


class SecurityGroup(
    Resource[SecurityGroupSpec, SecurityGroupStatus],
    service="networking", version="v1beta2", collection="securityGroups", scope=REGIONAL, short=("sg",),
    columns=(("VPC", "spec.vpcRef"), ("RULES", "spec.rules"), ("MEMBERS", "status.members")),
):  # fmt: skip
    """Which traffic its members may send and receive. Stateful, closed by default."""


# -- public addresses ---------------------------------------------------------------------------


class PublicIPSpec(Spec):
    pass


class PublicIPStatus(MeteredStatus):
    public_ipv4_address: str | None = Field(None, alias="publicIPv4Address")
    used_by_ref: str | None = None
    reachable: str | None = hidden()


class PublicIP(
    Resource[PublicIPSpec, PublicIPStatus],
    service="networking", version="v1beta2", collection="publicIPs", scope=REGIONAL, short=("ip", "ips"),
    columns=(("ADDRESS", "status.publicIPv4Address"), ("USED BY", "status.usedByRef")), meters=(PUBLIC_IP,),
):  # fmt: skip
    """A public IPv4 address, kept for the object's life."""

    @classmethod
    def measure(cls, status: PublicIPStatus) -> Measure:
        return Measure({PUBLIC_IP: 1}) if status.public_ipv4_address else NOTHING
