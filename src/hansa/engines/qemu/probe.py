"""Which accelerator really works: KVM only when a 64-bit kernel has booted under it, TCG otherwise.

Opening /dev/kvm, making a virtual machine, even running real-mode code succeed on hosts where no kernel boots, so the
last step boots the tiny guest. It runs in a process of its own, because an ioctl that never returns cannot be
interrupted, and the answer is kept for this kernel and this QEMU:

    python -m hansa.engines.qemu.probe
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hansa.engines.qemu import confinement
from hansa.engines.qemu.arguments import SANDBOX
from hansa.engines.qemu.confinement import Confinement
from hansa.engines.qemu.files import read_json, write_json
from hansa.engines.qemu.handles import Handles
from hansa.engines.qemu.images import Image, ImageStore
from hansa.engines.qemu.program import SYSTEM

KVM, TCG = "kvm", "tcg"
DEVICE = Path("/dev/kvm")

BOOT_LIMIT_S = 5.0
PROBE_LIMIT_S = 10.0
_IOCTL_LIMIT_S = 2.0
_LOST_LIMIT_S = 1.0  # for a child that is stuck in the kernel
_FIRST_WORD = b"tiny-guest: "

_GET_API_VERSION, _CREATE_VM, _CREATE_VCPU = 0xAE00, 0xAE01, 0xAE41


@dataclass(frozen=True, slots=True)
class Accelerator:
    """The answer. `final` False: it was not probed to the end and is asked again."""

    name: str
    reason: str
    final: bool = True


def chosen(images: ImageStore, qemu_version: str) -> Accelerator | None:
    """The answer where no probe is needed: by HANSA_ACCELERATOR, by an earlier probe, or because none can be made."""
    forced = os.environ.get("HANSA_ACCELERATOR", "")
    if forced in (KVM, TCG):
        return Accelerator(forced, "set by HANSA_ACCELERATOR")
    if not DEVICE.exists():
        return Accelerator(TCG, "no /dev/kvm on this host")
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return Accelerator(TCG, "/dev/kvm is not open to this user: add it to the group kvm")
    kept = read_json(_answer(images)) or {}
    if kept.get("key") == _key(qemu_version):
        return Accelerator(kept["name"], kept["reason"])
    if images.find("tiny") is None:
        return Accelerator(TCG, "not probed yet: the tiny image is missing", final=False)
    return None


def probe(images: ImageStore, qemu_version: str) -> Accelerator:
    """Try KVM and keep the answer. Blocks, at most PROBE_LIMIT_S; for a process of its own."""
    image = images.find("tiny")
    if image is None:
        return Accelerator(TCG, "not probed yet: the tiny image is missing", final=False)
    why = in_child(_ioctls, _IOCTL_LIMIT_S) or _boot(image)
    works = Accelerator(KVM, "a kernel booted under KVM")
    answer = Accelerator(TCG, f"KVM does not work here: {why}") if why else works
    kept = {"key": _key(qemu_version), "name": answer.name, "reason": answer.reason, "at": time.time()}
    with contextlib.suppress(PermissionError):  # a cache that somebody else keeps: found out anew next time
        write_json(_answer(images), kept, mode=0o644)
    return answer


def forget(images: ImageStore) -> None:
    """The next question probes again."""
    with contextlib.suppress(PermissionError):
        _answer(images).unlink(missing_ok=True)


def in_child(work: Callable[[], None], limit_s: float) -> str:
    """Run `work` in a forked child; empty when it went well, else why not. A stuck child is left behind."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            work()
            code = 0
        except OSError as error:
            code = min(error.errno or 1, 254)
        finally:
            os._exit(code)
    handle = os.pidfd_open(pid)
    try:
        if not select.select([handle], [], [], limit_s)[0]:
            os.kill(pid, signal.SIGKILL)
            if select.select([handle], [], [], _LOST_LIMIT_S)[0]:
                os.waitpid(pid, 0)
            return f"the kernel module did not answer within {limit_s:.0f} s"
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(handle)
    if code == 0:
        return ""
    return f"the kernel module refused: {os.strerror(code)}" if 0 < code < 255 else f"the probe ended with {code}"


def _ioctls() -> None:
    device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    if fcntl.ioctl(device, _GET_API_VERSION, 0) != 12:
        raise OSError(95, "another version of the interface")
    fcntl.ioctl(fcntl.ioctl(device, _CREATE_VM, 0), _CREATE_VCPU, 0)


def _boot(image: Image) -> str:
    """Boot the kernel of `image` under KVM until its first word; empty when it comes, else why it did not.

    Confined like every guest: where a guest may not open the device, the answer is that KVM does not work.
    """
    with tempfile.TemporaryDirectory(prefix="hansa-probe-") as name, Handles() as opened:
        log, errors = Path(name) / "console", Path(name) / "errors"
        kernel, initrd = opened.read(image.kernel), opened.read(image.initrd)
        command = [
            *confinement.words(_confined()), shutil.which(SYSTEM) or SYSTEM, "-nodefaults", "-no-user-config",
            "-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "128", "-display", "none", "-no-reboot",
            "-sandbox", SANDBOX, "-serial", "stdio", "-kernel", f"/proc/self/fd/{kernel}",
            "-initrd", f"/proc/self/fd/{initrd}", "-append", image.append,
        ]  # fmt: skip
        with log.open("wb") as stdout, errors.open("wb") as stderr:
            guest = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, pass_fds=opened.numbers
            )
        try:
            return _first_word(guest, log, errors)
        finally:
            guest.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                guest.wait(_LOST_LIMIT_S)


def _confined() -> Confinement:
    rights = confinement.own_rights()
    user = confinement.choose_user("probe", confinement.living_users()) if rights.users else 0
    return Confinement(rights, user, confinement.device_group(KVM))


def _first_word(guest: subprocess.Popen[bytes], log: Path, errors: Path) -> str:
    end = time.monotonic() + BOOT_LIMIT_S
    while time.monotonic() < end:
        if _FIRST_WORD in log.read_bytes():
            return ""
        if guest.poll() is not None:
            said = errors.read_text(errors="replace").strip().splitlines()
            return f"QEMU ended: {said[-1][:160] if said else 'without a word'}"
        time.sleep(0.02)
    return f"the guest's kernel did not start within {BOOT_LIMIT_S:.0f} s"


def _answer(images: ImageStore) -> Path:
    return images.cache / "accelerator.json"


def _key(qemu_version: str) -> str:
    return f"{os.uname().release} qemu {qemu_version}"


def main(arguments: list[str]) -> int:
    """`[--cache DIR] QEMU_VERSION`: probe now, print the answer as JSON."""
    images = ImageStore(Path(arguments[1]) if arguments[:1] == ["--cache"] else None)
    answer = probe(images, arguments[-1] if arguments else "")
    print(json.dumps({"accelerator": answer.name, "reason": answer.reason, "final": answer.final}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
