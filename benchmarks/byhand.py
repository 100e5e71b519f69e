"""QEMU as somebody starts it by hand: the machine of the cloud with the same disk, seed and image, opened by name."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hansa.engines.qemu.images import ImageStore

MARK = "-----END SSH HOST KEY KEYS-----"


class ByHand:
    """One QEMU with the tiny guest, QMP on a socket."""

    def __init__(self, folder: Path, disk: Path, seed: Path, *, memory_mib: int = 128, tb_size: int = 32) -> None:
        image = ImageStore().find("tiny")
        assert image is not None, "run scripts/install"
        self.log, self.qmp_path = folder / "console.log", folder / "qmp"
        below = {
            "driver": "qcow2",
            "read-only": True,
            "file": {"driver": "file", "filename": str(image.disk), "read-only": True},
        }
        block = {
            "driver": "qcow2", "node-name": "d0", "discard": "unmap", "detect-zeroes": "unmap",
            "file": {"driver": "file", "filename": str(disk)}, "backing": below,
        }  # fmt: skip
        words = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35",
            "-accel", f"tcg,thread=multi,tb-size={tb_size}", "-cpu", "max", "-m", str(memory_mib),
            "-chardev", f"socket,id=con,path={folder}/con,server=on,wait=off,logfile={self.log}", "-serial", "chardev:con",
            "-qmp", f"unix:{self.qmp_path},server=on,wait=off",
            "-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", image.append,
            "-device", "virtio-scsi-pci,id=scsi0",
            "-blockdev", json.dumps(block), "-device", "virtio-blk-pci,drive=d0,bootindex=1",
            "-drive", f"if=none,id=seed,format=raw,readonly=on,file={seed}", "-device", "virtio-blk-pci,drive=seed",
            "-netdev", "user,id=n0,restrict=on,net=10.0.0.0/20,dhcpstart=10.0.0.4",
            "-device", "virtio-net-pci,netdev=n0,romfile=",
            "-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        self._stream: socket.socket | None = None
        self._lines: Any = None

    def answers(self, seconds: float = 20.0) -> None:
        """Wait for QMP's greeting, and greet."""
        end = time.monotonic() + seconds
        while self._stream is None:
            made = socket.socket(socket.AF_UNIX)
            try:
                made.connect(str(self.qmp_path))
                self._stream = made
            except OSError:
                made.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.005)
        self._lines = self._stream.makefile("rb")
        self._lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **given: Any) -> Any:
        assert self._stream is not None
        self._stream.sendall(json.dumps({"execute": command, "arguments": given}).encode() + b"\n")
        while True:
            said = json.loads(self._lines.readline())
            if "return" in said or "error" in said:
                assert "return" in said, said
                return said["return"]

    def event(self, name: str) -> None:
        while json.loads(self._lines.readline()).get("event") != name:
            pass

    def end(self) -> None:
        if self._stream is not None:
            self._stream.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@contextlib.contextmanager
def by_hand(disk: Path, seed: Path) -> Iterator[ByHand]:
    with tempfile.TemporaryDirectory(prefix="hb-") as name:
        made = ByHand(Path(name), disk, seed)
        try:
            yield made
        finally:
            made.end()


def until_up(log: Path, seconds: float = 120.0) -> None:
    """Until the guest's SSH server has said its key."""
    end = time.monotonic() + seconds
    while not log.exists() or MARK not in log.read_text(errors="replace"):
        if time.monotonic() > end:
            raise TimeoutError(f"no SSH server: {log}")
        time.sleep(0.02)
