"""The files of disks: what a killed process leaves half-written goes at the next start, and nothing else."""

from __future__ import annotations

from pathlib import Path

from hansa.engines.qemu.diskfolder import DiskFolder

UID = "11111111-0000-4000-8000-000000000001"


def test_halves_of_notes_go_and_disks_stay(tmp_path: Path) -> None:
    disks = DiskFolder(tmp_path)
    disks.tidy()  # there is no folder yet
    disks.path.mkdir()
    kept = [f"{UID}.qcow2", f"{UID}.qcow2.part", f"{UID}.json", f"{UID}.work.json"]
    for name in (*kept, f".{UID}.json.77-78.part", f".{UID}.work.json.77-79.part"):
        (disks.path / name).touch()
    disks.tidy()
    assert sorted(f.name for f in disks.path.iterdir()) == sorted(kept)
