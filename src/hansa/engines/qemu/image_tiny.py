"""The tiny guest: Debian's cloud kernel, busybox and dropbear on a small ext4 disk, built without root.

The kernel is started directly, with an initramfs that carries its drivers; everything else lives on the disk,
so that a guest keeps its host key and its files. The guest's own scripts are in `guest/tiny/`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from hansa.engines.qemu.apt import Archive, Package
from hansa.engines.qemu.cpio import Archive as Cpio
from hansa.engines.qemu.deadline import Deadline
from hansa.engines.qemu.recipe import Recipe, Work
from hansa.units import MIB

# no_timer_check: a busy host is late with the timer that the kernel would test, and the kernel would give up.
APPEND = "console=ttyS0 quiet no_timer_check panic=-1 tiny.root=tinyroot"
DISK_BYTES = 64 * MIB
DEFAULT_BYTES = 10**9

# The static busybox: loading libc for every small command would add 2 s of boot under TCG.
_DEBS = (
    "busybox-static", "dropbear-bin", "e2fsprogs", "libc6", "libcom-err2", "libcrypt1", "libext2fs2",
    "libblkid1", "libgmp10", "libtomcrypt1", "libtommath1", "libuuid1", "zlib1g",
)  # fmt: skip
# Loaded at boot in this order; what they need is put in front.
_MODULES = (
    "vmgenid", "virtio_pci", "virtio_blk", "virtio_net", "virtio_scsi", "sd_mod", "virtio-rng", "vfat",
    "nls_ascii", "nls_cp437", "button", "evdev", "ext4",
)  # fmt: skip
_DYNAMIC = ("usr/sbin/dropbear", "usr/bin/dropbearkey", "sbin/resize2fs")
_LIBRARIES = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
_LOADER = "lib64/ld-linux-x86-64.so.2"

_TEXTS = {
    "etc/mdev.conf": "sd[a-z]+ 0:0 660 */etc/scsi-by-id\nnull|zero|full|random|urandom|tty|ptmx 0:0 666\n.* 0:0 660\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nevroc-user:x:1000:1000::/home/evroc-user:/bin/sh\n",
    # No password opens anything over SSH (dropbear -s -w); root's is empty so that `sudo` asks for none.
    "etc/shadow": "root::19000:0:99999:7:::\nevroc-user:*:19000:0:99999:7:::\n",
    "etc/group": "root:x:0:\nevroc-user:x:1000:\n",
    "etc/shells": "/bin/sh\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
    "etc/profile": "export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n",
    "etc/os-release": 'ID=tiny\nVERSION_ID="1"\nNAME="Tiny guest"\n'
    'PRETTY_NAME="Tiny guest 1 (busybox, dropbear, Debian kernel)"\n',
}
_SCRIPTS = {
    "sbin/init": "init",
    "sbin/poweroff-now": "poweroff-now",
    "usr/bin/sudo": "sudo",
    "etc/udhcpc.script": "udhcpc.script",
    "etc/scsi-by-id": "scsi-by-id",
}
_FOLDERS = (
    "proc", "sys", "dev", "run", "tmp", "mnt", "root", "home", "etc/dropbear", "etc/acpi/PWRF",
    "var/log", "var/lib/tiny",
)  # fmt: skip


def ours() -> list[bytes]:
    """This file and the guest's scripts."""
    return [Path(__file__).read_bytes(), *(file.read_bytes() for file in sorted(_guest().iterdir(), key=str))]


def packages(archive: Archive) -> list[Package]:
    """What the image would be made of now, the kernel among it."""
    kernel = archive.dependency("linux-image-cloud-amd64", r"linux-image-\d\S+")
    return archive.resolve([*_DEBS, kernel])


def build(work: Work) -> list[str]:
    """Write `vmlinuz`, `initrd` and `disk.qcow2`. What is installed is what was resolved, to the byte."""
    work.report(0.1, f"fetching {len(work.packages)} Debian packages")
    tree = work.archive.unpack(work.packages, work.aside)
    work.report(0.6, "putting the initramfs together")
    shutil.copyfile(next((tree / "boot").glob("vmlinuz-*")), work.folder / "vmlinuz")
    modules = next((tree / "lib/modules").iterdir())
    (work.folder / "initrd").write_bytes(_initramfs(tree, module_order(modules, _MODULES)))
    work.report(0.7, "filling the disk")
    root = work.aside / "root"
    _root_tree(tree, root, work.deadline)
    _disk(root, work)
    return [f"{package.name}={package.version}" for package in work.packages]


RECIPE = Recipe("tiny", "1", DEFAULT_BYTES, APPEND, ours, packages, build)


def module_order(modules: Path, names: Sequence[str]) -> list[Path]:
    """The files of kernel modules in the order of loading, each after what it names in its `depends=`."""
    index = {path.stem.replace("-", "_"): path for path in modules.rglob("*.ko")}
    order: list[Path] = []

    def add(name: str) -> None:
        path = index.get(name.replace("-", "_"))
        if path is None or path in order:
            return  # built into the kernel, or there already
        found = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for dependency in found[1].decode().split(",") if found else ():
            add(dependency)
        order.append(path)

    for name in names:
        add(name)
    return order


def _initramfs(tree: Path, modules: Sequence[Path]) -> bytes:
    """Not compressed: unpacking costs an emulated processor more than reading does."""
    archive = Cpio()
    for name in ("proc", "sys", "dev", "run", "newroot", "sbin"):
        archive.folder(name)
    archive.character_device("dev/console", 0o600, 5, 1)
    archive.file("bin/busybox", (tree / "bin/busybox").read_bytes(), 0o755)
    archive.link("bin/sh", "busybox")
    archive.file("init", (_guest() / "initramfs-init").read_bytes(), 0o755)
    for path in modules:
        archive.file(f"lib/tiny/{path.name}", path.read_bytes())
    archive.file("lib/tiny/boot-order", "".join(f"{path.name}\n" for path in modules).encode())
    return archive.done()


def _root_tree(tree: Path, root: Path, deadline: Deadline) -> None:
    for folder in _FOLDERS:
        (root / folder).mkdir(parents=True)
    for name, text in _TEXTS.items():
        _put(root / name, text.encode(), 0o600 if name == "etc/shadow" else 0o644)
    for name, script in _SCRIPTS.items():
        _put(root / name, (_guest() / script).read_bytes(), 0o755)
    (root / "etc/acpi/PWRF/00000080").symlink_to("/sbin/poweroff-now")
    _busybox(tree, root, deadline)
    _programs(tree, root, deadline)


def _busybox(tree: Path, root: Path, deadline: Deadline) -> None:
    """One program, a link for each of its names. Set-uid for `su`: it gives up root for its other names."""
    _put(root / "bin/busybox", (tree / "bin/busybox").read_bytes(), 0o4755)
    for name in deadline.run(root / "bin/busybox", "--list-full").split():
        link = root / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to("/bin/busybox")
    (root / "bin/sh").unlink(missing_ok=True)
    (root / "bin/sh").symlink_to("busybox")


def _programs(tree: Path, root: Path, deadline: Deadline) -> None:
    """The programs that are not busybox, with the libraries that the guest's own loader finds for them."""
    loader = tree / _LOADER
    real = tree / str(loader.readlink()).lstrip("/") if loader.is_symlink() else loader
    _put(root / _LOADER, real.read_bytes(), 0o755)
    search = ":".join(str(tree / folder) for folder in _LIBRARIES)
    for program in _DYNAMIC:
        _put(root / program, (tree / program).read_bytes(), 0o755)
        needed = deadline.run(real, "--library-path", search, "--list", tree / program)
        for path in map(Path, re.findall(r"=> (\S+)", needed)):
            if path.name != real.name:
                _put(root / _LIBRARIES[0] / path.name, path.read_bytes(), 0o644)


def _put(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        path.unlink()
    path.write_bytes(content)
    path.chmod(mode)


def _disk(root: Path, work: Work) -> None:
    """A file system that may grow to terabytes, as a qcow2 file; owned by root, whoever builds."""
    raw = work.aside / "disk.raw"
    work.deadline.run(
        "mke2fs", "-q", "-t", "ext4", "-L", "tinyroot", "-b", "4096", "-i", "16384", "-m", "0",
        "-E", "root_owner=0:0", "-d", root, raw, f"{DISK_BYTES // MIB}M",
    )  # fmt: skip
    if os.geteuid() != 0:
        _give_to_root(root, raw, work.deadline)
    work.deadline.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, work.folder / "disk.qcow2")


def _give_to_root(root: Path, raw: Path, deadline: Deadline) -> None:
    names = [f"/{path.relative_to(root)}" for path in sorted(root.rglob("*"))]
    wishes = "".join(f'sif "{name}" uid 0\nsif "{name}" gid 0\n' for name in names)
    deadline.run("debugfs", "-w", "-f", "-", raw, text=wishes)


def _guest() -> Path:
    return Path(str(files("hansa.engines.qemu"))) / "guest" / "tiny"
