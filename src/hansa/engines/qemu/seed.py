"""What a guest is told at its first boot: a NoCloud volume, 1 MiB of FAT with the label `cidata`.

Pure: the same words give the same bytes. The volume is written here, without another program, in the
simplest form that every kernel reads: FAT12 of 512-byte clusters with long file names.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Mapping

from hansa.engines.ports import GUEST_MTU, GUEST_ROUTER, Machine, Nic
from hansa.errors import Refused
from hansa.units import MIB

LABEL = "cidata"

_SECTOR = 512
_SECTORS = MIB // _SECTOR
_FAT_SECTORS = 6
_ROOT_ENTRIES = 64
_DATA_START = 1 + 2 * _FAT_SECTORS + _ROOT_ENTRIES * 32 // _SECTOR
_CLUSTERS = _SECTORS - _DATA_START
_LAST = 0xFFF  # end of a chain of clusters
_DATE = 0x0021  # 1 January 1980, the first that FAT knows

_DEFAULT_USER = (
    re.compile(rb"^users:[ \t]*\n(?:[ \t#-].*\n|\n)*?[ \t]*-[ \t]+default[ \t]*$", re.M),
    re.compile(rb"^users:[ \t]*\[(?:[^\]\n]*,)?[ \t]*default[ \t]*[,\]]", re.M),
)


def volume(machine: Machine) -> bytes:
    """The seed of `machine`. Raises Refused when its user data do not fit."""
    return fat(files(machine))


def files(machine: Machine) -> dict[str, bytes]:
    """The three files of NoCloud. `instance-id` is the machine's uid: a restart is no first boot, a clone is."""
    seed = machine.seed
    lines = [f"instance-id: {machine.uid}", f"local-hostname: {json.dumps(seed.hostname)}"]
    if seed.authorized_keys and keys_apply(seed.user_data):
        lines += ["public-keys:", *(f"  - {json.dumps(key)}" for key in seed.authorized_keys)]
    return {
        "meta-data": _text(lines),
        "user-data": seed.user_data,
        "network-config": _text(_network_lines(machine.nic)),
    }


def keys_apply(user_data: bytes) -> bool:
    """Whether the keys of the spec reach the guest: always without user data, else only if these ask for them.

    They ask by naming the default user: an entry `default` in the list `users` of a cloud-config.
    """
    return not user_data or any(form.search(user_data) for form in _DEFAULT_USER)


def fat(content: Mapping[str, bytes]) -> bytes:
    """A FAT12 volume with `content` in its root folder. Raises Refused when it does not fit."""
    chain: dict[int, int] = {}
    root = [_entry(LABEL.ljust(11).encode(), 0x08, 0, 0)]
    body = bytearray()
    for number, (name, data) in enumerate(sorted(content.items())):
        first = 2 + len(body) // _SECTOR
        clusters = -(-len(data) // _SECTOR)
        chain |= {at: at + 1 for at in range(first, first + clusters)}
        if clusters:
            chain[first + clusters - 1] = _LAST
        root += _named(name, number, first if clusters else 0, len(data))
        body += data.ljust(clusters * _SECTOR, b"\0")
    if len(body) > _CLUSTERS * _SECTOR or len(root) > _ROOT_ENTRIES:
        raise Refused("ProvisioningFailed", "user data and keys do not fit on the seed volume of 1 MiB")
    table = _table(chain)
    folder = b"".join(root).ljust(_ROOT_ENTRIES * 32, b"\0")
    return (_boot_sector(zlib.crc32(bytes(body))) + table + table + folder + body).ljust(MIB, b"\0")


def _network_lines(nic: Nic) -> list[str]:
    """The card's addresses in the form of netplan, version 2, as both guests read it.

    Every card is the end of a routed link with the host as its only neighbour: an IPv6 address stands alone, and the
    way to all others, of the same subnet too, is the host. `gateway6` and not `routes`: cloud-init 22.4 makes ::/64 of
    a route to ::/0. The tiny guest reads line by line: each list key stands once.
    """
    lines = [
        "version: 2",
        "ethernets:",
        "  first:",
        "    match:",
        f"      macaddress: {json.dumps(nic.mac)}",
        f"    mtu: {GUEST_MTU}",
        f"    dhcp4: {json.dumps(nic.ipv4 is not None)}",
        "    dhcp6: false",
        "    accept-ra: false",
    ]
    if nic.ipv6:
        lines += [
            "    addresses:",
            f'      - "{nic.ipv6}/128"',
            f'    gateway6: "{GUEST_ROUTER}"',
        ]
    if nic.ipv4 is None and nic.ipv6_gateway:
        lines.append(f'    nameservers: {{addresses: ["{nic.ipv6_gateway}"]}}')
    return lines


def _text(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def _boot_sector(serial: int) -> bytes:
    parameters = struct.pack(
        "<3s8sHBHBHHBHHHII", b"\xeb\x3c\x90", b"hansa   ", _SECTOR, 1, 1, 2, _ROOT_ENTRIES, _SECTORS, 0xF8,
        _FAT_SECTORS, 32, 2, 0, 0,
    )  # fmt: skip
    extension = struct.pack("<BBBI11s8s", 0x80, 0, 0x29, serial, LABEL.ljust(11).encode(), b"FAT12   ")
    return (parameters + extension).ljust(_SECTOR - 2, b"\0") + b"\x55\xaa"


def _table(chain: Mapping[int, int]) -> bytes:
    """The allocation table: two entries of twelve bits in three bytes."""
    entries = [0xFF8, _LAST, *(chain.get(cluster, 0) for cluster in range(2, _CLUSTERS + 3))]
    pairs = zip(entries[::2], entries[1::2], strict=False)
    packed = b"".join((low | high << 12).to_bytes(3, "little") for low, high in pairs)
    return packed.ljust(_FAT_SECTORS * _SECTOR, b"\0")


def _named(name: str, number: int, first: int, size: int) -> list[bytes]:
    """The entries of one file: its long name in pieces of thirteen letters, last piece first, then the short one."""
    short = f"FILE{number:04d}".ljust(11).encode()
    checksum = 0
    for letter in short:
        checksum = ((checksum >> 1 | (checksum & 1) << 7) + letter) & 0xFF
    pieces = [name[at : at + 13] for at in range(0, len(name), 13)]
    long = [_long(piece, index + 1, checksum, last=index == len(pieces) - 1) for index, piece in enumerate(pieces)]
    return [*reversed(long), _entry(short, 0x20, first, size)]


def _long(piece: str, order: int, checksum: int, *, last: bool) -> bytes:
    letters = piece.encode("utf-16-le")
    if len(letters) < 26:
        letters = (letters + b"\0\0").ljust(26, b"\xff")
    head = struct.pack("<B10sBBB", order | (0x40 if last else 0), letters[:10], 0x0F, 0, checksum)
    return head + letters[10:22] + b"\0\0" + letters[22:]


def _entry(name: bytes, attributes: int, first: int, size: int) -> bytes:
    return struct.pack("<11sB8xHHHHI", name, attributes, 0, 0, _DATE, first, size)
