"""The Debian guest: Debian 12 with cloud-init on a disk that starts by BIOS and by UEFI, without a file of ours beside.

mmdebstrap installs the packages, `mke2fs -d` fills the file system, mtools and syslinux the boot partition: nothing is
mounted, and root is not needed where user name spaces are allowed. What of the guest is ours is a tree of files,
`guest/debian/`.

The digest is over the packages that apt resolves beforehand. mmdebstrap then asks the archive anew, so after an
update in between it may install a later version: the image's own list says what was installed.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import tarfile
import uuid
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from shlex import quote

from hansa.engines.qemu.apt import Archive, Package, Release
from hansa.engines.qemu.recipe import Recipe, Work
from hansa.errors import Refused
from hansa.units import MIB

RELEASE = "bookworm"
DEFAULT_BYTES = 10 * 10**9

_PACKAGES = (
    # the system
    "apt", "systemd-sysv", "udev", "dbus", "kmod", "linux-image-cloud-amd64", "lz4", "e2fsprogs", "fdisk", "mount",
    "netbase", "tzdata", "ca-certificates", "systemd-resolved", "libnss-myhostname", "iproute2",
    # how one comes in, and what it was told
    "openssh-server", "sudo", "cloud-init", "cloud-guest-utils",
    # what one expects to find
    "procps", "less", "nano", "curl", "iputils-ping", "netcat-openbsd",
)  # fmt: skip
_LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")
_KEPT = ("/usr/share/doc/*/copyright",)

# The initramfs is made while the kernel is configured: its settings must be there before.
_EARLY = "etc/initramfs-tools/"
_PROGRAMS = "usr/local/sbin/"
_UNITS = "systemd-networkd systemd-resolved serial-getty@ttyS0 ssh-host-keys-on-console"
_MASKED = (
    "apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service dpkg-db-backup.timer "
    "systemd-networkd-wait-online.service cloud-init-hotplugd.socket getty@tty1.service"
)
_INSIDE = (
    f"systemctl -q enable {_UNITS}",
    f"systemctl -q mask {_MASKED}",
    "mkdir -p /boot/efi /etc/initramfs/post-update.d",
    "ln -s /usr/local/sbin/update-boot-partition /etc/initramfs/post-update.d/boot-partition",
    "ln -s /usr/local/sbin/update-boot-partition /etc/kernel/postrm.d/zz-boot-partition",
    "ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf",
    "rm -f /etc/ssh/ssh_host_* /var/lib/dbus/machine-id",  # each machine makes its own
)
# no_timer_check: a busy host is late with the timer that the kernel would test, and the kernel would give up.
_COMMAND_LINE = "root=LABEL=root ro console=tty0 console=ttyS0,115200n8 net.ifnames=0 no_timer_check quiet"

# Sizes and places on the disk. The file system grows at every start with the disk that holds it.
_BOOT_AT, _BOOT_BYTES = 1 * MIB, 128 * MIB
_ROOT_AT, _ROOT_BYTES = _BOOT_AT + _BOOT_BYTES, 1200 * MIB
_DISK_BYTES = _ROOT_AT + _ROOT_BYTES + 1 * MIB  # the table's copy is at the end
_SECTOR = 512
_BOOT_CODE_BYTES = 440
_BOOT_CODE = Path("/usr/lib/SYSLINUX/gptmbr.bin")
_LOADER = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")
_NEEDED = ("mmdebstrap", "mke2fs", "mformat", "mmd", "mcopy", "syslinux", "sfdisk", "qemu-img")
_NEEDED_BY_USERS = ("fakeroot", "newuidmap")  # root needs neither

_TEXTS = {
    "syslinux.cfg": f"DEFAULT linux\nPROMPT 0\nLABEL linux\n KERNEL /vmlinuz\n INITRD /initrd\n APPEND {_COMMAND_LINE}\n",
    "loader/loader.conf": "timeout 0\ndefault debian.conf\n",
    "loader/entries/debian.conf": f"title Debian\nlinux /vmlinuz\ninitrd /initrd\noptions {_COMMAND_LINE}\n",
}

_INSTALL_SHARE, _FILL_SHARE, _PACK_SHARE = 0.05, 0.75, 0.85  # of the whole, when each begins


def ours() -> list[bytes]:
    """This file and the guest's tree, names and contents."""
    tree = [part for name, file in _tree().items() for part in (name.encode(), file.read_bytes())]
    return [Path(__file__).read_bytes(), *tree]


def packages(archive: Archive) -> list[Package]:
    """What the image would be made of now, with all that these packages need."""
    return archive.system(archive.release(RELEASE), _PACKAGES)


def build(work: Work) -> list[str]:
    """Write `disk.qcow2`. Raises Refused for what is missing on this host before anything is fetched."""
    _check_host()
    release = work.archive.release(RELEASE)
    tar, tree = work.aside / "root.tar", work.aside / "tree"
    _install(work, release, tar)
    work.report(_FILL_SHARE, "filling the disk")
    raw = work.aside / "disk.raw"
    _partition(work, raw)
    _fill_root(work, release, tar, tree, raw)
    _fill_boot(work, tree, raw)
    work.report(_PACK_SHARE, "packing the disk")
    _pack(work, raw)
    return _installed(tar)


RECIPE = Recipe("debian", "12", DEFAULT_BYTES, "", ours, packages, build)


def _check_host() -> None:
    plain = os.geteuid() != 0
    wanted = (*_NEEDED, *(_NEEDED_BY_USERS if plain else ()))
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    missing = [name for name in wanted if shutil.which(name, path=path) is None]
    missing += [str(file) for file in (_BOOT_CODE, _LOADER) if not file.exists()]
    if missing:
        raise Refused("ImageUnavailable", f"for the Debian image {', '.join(missing)} is missing: run scripts/install")
    if plain and not all(_has_range(Path(file)) for file in ("/etc/subuid", "/etc/subgid")):
        raise Refused(
            "ImageUnavailable",
            f"{_user()} has no range of user ids to build the Debian image with: as root give it 65536 that nobody else has, "
            f"`usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST {_user()}`, or use the image that root built: "
            "HANSA_IMAGE_CACHE=/var/cache/hansa/images",
        )


def _has_range(file: Path) -> bool:
    lines = file.read_text().splitlines() if file.exists() else []
    return any(line.split(":")[0] in (_user(), str(os.geteuid())) for line in lines)


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _install(work: Work, release: Release, tar: Path) -> None:
    """All packages, configured, and our files, as a tar archive that keeps owners."""
    early, late = work.aside / "early.tar", work.aside / "late.tar"
    tree = _tree()
    _archive(early, {name: file for name, file in tree.items() if name.startswith(_EARLY)}, release.indexed_at)
    _archive(late, {name: file for name, file in tree.items() if not name.startswith(_EARLY)}, release.indexed_at)
    root = os.geteuid() == 0
    # It ends with us. As root it mounts /dev, /proc and /sys: in a name space of their own these end with it.
    command = ["setpriv", "--pdeathsig", "TERM", *(("unshare", "--mount") if root else ()), "mmdebstrap"]
    environment = {"SOURCE_DATE_EPOCH": str(release.indexed_at)}
    if root:
        environment["TMPDIR"] = str(work.aside)  # what a killed builder leaves is found by the next
    if proxy := work.archive.proxy():
        environment |= {"http_proxy": proxy, "https_proxy": proxy}
    work.deadline.follow(
        "mmdebstrap", *command, f"--mode={'root' if root else 'unshare'}", "--variant=apt", "--verbose",
        f"--include={','.join(_PACKAGES)}", *(f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT),
        *(f"--dpkgopt=path-include={path}" for path in _KEPT),
        f"--essential-hook=tar-in {quote(str(early))} /", f"--customize-hook=tar-in {quote(str(late))} /",
        *(f'--customize-hook=chroot "$1" sh -ec {quote(line)}' for line in _INSIDE),
        RELEASE, tar, *release.sources,
        on_line=_Progress(work), environment=environment,
    )  # fmt: skip


def _archive(path: Path, content: Mapping[str, Path], at: int) -> None:
    """Files that belong to root, whoever builds; what lies in a folder of programs may be run."""
    with tarfile.open(path, "w") as archive:
        for name, file in content.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size, member.mtime = file.stat().st_size, at
            member.mode = 0o755 if name.startswith(_PROGRAMS) else 0o644
            with file.open("rb") as opened:
                archive.addfile(member, opened)


class _Progress:
    """Tells from the words of apt and dpkg how far mmdebstrap is, in whole percents."""

    _STEPS = (
        (re.compile(r"^Get:\d+ .* \[\d.*\]$"), 0.2, "fetching"),
        (re.compile(r"^Unpacking \S+ \("), 0.3, "installing"),
        (re.compile(r"^Setting up \S+ \("), 0.5, "installing"),
    )

    def __init__(self, work: Work) -> None:
        self._work = work
        self._total = len(work.packages)
        self._done = [0] * len(self._STEPS)
        self._told = 0

    def __call__(self, line: str) -> None:
        for at, (pattern, _, word) in enumerate(self._STEPS):
            if pattern.match(line):
                self._done[at] += 1
                self._tell(word)

    def _tell(self, word: str) -> None:
        weights = (weight for _, weight, _ in self._STEPS)
        done = sum(weight * min(1.0, count / self._total) for weight, count in zip(weights, self._done, strict=True))
        share = _INSTALL_SHARE + (_FILL_SHARE - _INSTALL_SHARE) * done
        if int(share * 100) > self._told:
            self._told = int(share * 100)
            self._work.report(share, f"{word} {self._total} Debian packages")


def _partition(work: Work, raw: Path) -> None:
    """A GPT disk with the boot partition of both firmwares and the root partition, and the BIOS's first code."""
    with raw.open("wb") as file:
        file.truncate(_DISK_BYTES)
    table = (
        f"label: gpt\nlabel-id: {_uuid(work, 'disk')}\n"
        f"start={_BOOT_AT // _SECTOR}, size={_BOOT_BYTES // _SECTOR}, type=uefi, name=esp, "
        f"uuid={_uuid(work, 'esp')}, attrs=LegacyBIOSBootable\n"
        f"start={_ROOT_AT // _SECTOR}, size={_ROOT_BYTES // _SECTOR}, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, "
        f"name=root, uuid={_uuid(work, 'root')}\n"
    )
    work.deadline.run("sfdisk", "-q", raw, text=table)
    with raw.open("r+b") as file:
        file.write(_BOOT_CODE.read_bytes()[:_BOOT_CODE_BYTES])


def _fill_root(work: Work, release: Release, tar: Path, tree: Path, raw: Path) -> None:
    """The file system from the archive. fakeroot keeps the owners for a plain user; the kernel fills /dev."""
    script = 'mkdir "$2" && tar -xf "$1" -C "$2" --exclude="./dev/*" && shift 2 && exec mke2fs "$@"'
    identity = _uuid(work, "file system")
    options = f"offset={_ROOT_AT},hash_seed={identity},lazy_itable_init=0,lazy_journal_init=0"
    work.deadline.run(
        *(() if os.geteuid() == 0 else ("fakeroot",)), "sh", "-ec", script, "sh", tar, tree,
        *("-q", "-F", "-t", "ext4", "-L", "root", "-m", "1", "-U", identity, "-E", options, "-d", tree, raw),
        f"{_ROOT_BYTES // MIB}M", environment={"E2FSPROGS_FAKE_TIME": str(release.indexed_at)},
    )  # fmt: skip


def _fill_boot(work: Work, tree: Path, raw: Path) -> None:
    """Kernel and initramfs for both loaders: syslinux for BIOS, systemd-boot for UEFI."""
    volume = f"{raw}@@{_BOOT_AT}"
    content = {f"::/{name}": work.aside / Path(name).name for name in _TEXTS}
    for name, text in _TEXTS.items():
        (work.aside / Path(name).name).write_text(text)
    content |= {
        "::/vmlinuz": next((tree / "boot").glob("vmlinuz-*")),
        "::/initrd": next((tree / "boot").glob("initrd.img-*")),
        "::/EFI/BOOT/BOOTX64.EFI": _LOADER,
    }
    run, serial = work.deadline.run, work.digest[:8]
    run("mformat", "-i", volume, "-F", "-v", "ESP", "-N", serial, "-T", str(_BOOT_BYTES // _SECTOR), "::")
    run("mmd", "-i", volume, "::/EFI", "::/EFI/BOOT", "::/loader", "::/loader/entries")
    for place, file in content.items():
        run("mcopy", "-i", volume, file, place)
    run("syslinux", "--install", "--offset", str(_BOOT_AT), raw)


def _pack(work: Work, raw: Path) -> None:
    options = ("-O", "qcow2", "-c", "-o", "compression_type=zstd")
    work.deadline.run("qemu-img", "convert", "-f", "raw", *options, raw, work.folder / "disk.qcow2")


def _installed(tar: Path) -> list[str]:
    """`name=version` of every package, by the new system's own account."""
    with tarfile.open(tar) as archive:
        member = archive.extractfile("./var/lib/dpkg/status")
        status = member.read().decode() if member else ""
    return sorted(
        f"{name}={version}"
        for name, version in re.findall(r"^Package: (\S+)$(?:\n.+)*?\nVersion: (\S+)$", status, re.MULTILINE)
    )


def _uuid(work: Work, what: str) -> str:
    """The same for the same digest, so that two builds give the same disk."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"hansa {work.digest} {what}"))


def _tree() -> dict[str, Path]:
    """What of the guest is ours: files by their place in it."""
    top = Path(str(files("hansa.engines.qemu"))) / "guest" / "debian"
    return {str(file.relative_to(top)): file for file in sorted(top.rglob("*")) if file.is_file()}
