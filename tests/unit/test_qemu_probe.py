"""KVM is for who has proved it: a kernel that booted under it, on this kernel and this QEMU."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hansa.engines.qemu import probe
from hansa.engines.qemu.images import Image, ImageStore
from hansa.engines.qemu.probe import KVM, TCG

VERSION = "7.2.0"


class Cache(ImageStore):
    """A cache with the tiny image in it, of files without content."""

    def find(self, family: str) -> Image | None:
        for name in ("vmlinuz", "initrd"):
            (self.cache / name).touch()
        made = Image("tiny", "0", self.cache, "tiny", "1", 1, 1, "", 0.0, ())
        return made if family == "tiny" else None


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.delenv("HANSA_ACCELERATOR", raising=False)
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(probe, "DEVICE", device)
    monkeypatch.setattr(probe, "_ioctls", lambda: None)  # as on hosts whose module answers and whose guests hang
    monkeypatch.setattr(probe.confinement, "words", lambda _: [])
    return Cache(tmp_path)


def qemu(folder: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    program = folder / "qemu-system-x86_64"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_guest_that_hangs_means_tcg_and_why(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "BOOT_LIMIT_S", 0.2)
    qemu(tmp_path, monkeypatch, "exec sleep 60")
    found = probe.probe(cache, VERSION)
    assert found.name == TCG and "KVM does not work here: the guest's kernel did not start" in found.reason
    assert probe.chosen(cache, VERSION) == found, "and it is remembered"


def test_a_qemu_that_ends_says_its_last_word(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qemu(tmp_path, monkeypatch, "echo 'error: failed to set MSR 0x10a' >&2; exit 1")
    found = probe.probe(cache, VERSION)
    assert found.name == TCG and found.reason.endswith("QEMU ended: error: failed to set MSR 0x10a")


def test_only_a_kernel_that_spoke_means_kvm_and_only_here(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu(tmp_path, monkeypatch, "echo 'tiny-guest: [0.7] start'; exec sleep 60")
    assert probe.chosen(cache, VERSION) is None, "nothing is known before"
    assert probe.probe(cache, VERSION).name == KVM
    assert (probe.chosen(cache, VERSION) or pytest.fail("forgotten")).name == KVM
    assert probe.chosen(cache, "7.2.1") is None, "another QEMU is asked anew"
    release = os.uname().release
    monkeypatch.setattr(probe.os, "uname", lambda: type("U", (), {"release": f"{release}-next"}))
    assert probe.chosen(cache, VERSION) is None, "another kernel too"
    monkeypatch.undo()


def test_a_module_that_refuses_or_never_answers_means_tcg(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses() -> None:
        raise OSError(1, "no")

    monkeypatch.setattr(probe, "_ioctls", refuses)
    found = probe.probe(cache, VERSION)
    assert found.name == TCG and "refused: Operation not permitted" in found.reason
    monkeypatch.setattr(probe, "_IOCTL_LIMIT_S", 0.1)
    monkeypatch.setattr(probe, "_ioctls", lambda: time.sleep(60))
    assert "did not answer within" in probe.probe(cache, VERSION).reason


def test_without_a_device_without_rights_and_without_an_image_it_is_tcg(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe.os, "access", lambda *_: False)
    assert "add it to the group kvm" in (probe.chosen(cache, VERSION) or pytest.fail("unknown")).reason
    monkeypatch.setattr(probe.os, "access", lambda *_: True)
    monkeypatch.setattr(Cache, "find", lambda *_: None)
    for answer in (probe.chosen(cache, VERSION), probe.probe(cache, VERSION)):
        assert answer is not None and answer.name == TCG and not answer.final
    probe.DEVICE.unlink()
    answer = probe.chosen(cache, VERSION)
    assert answer is not None and (answer.name, answer.reason) == (TCG, "no /dev/kvm on this host")


def test_all_its_waits_together_are_within_its_limit() -> None:
    waits = probe._IOCTL_LIMIT_S + probe._LOST_LIMIT_S + probe.BOOT_LIMIT_S + probe._LOST_LIMIT_S
    assert waits < probe.PROBE_LIMIT_S == 10
