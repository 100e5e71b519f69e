"""A tiny guest is started again and again, and each time its owner logs in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .cloud import RealCloud, disk, machine
from .guest import make_key

BOOTS = 20 if os.environ.get("HANSA_LONG") else 2


def test_every_boot_in_a_row_reaches_a_login(cloud: RealCloud, tmp_path: Path) -> None:
    client, key = cloud.start(), make_key(tmp_path / "key")
    client.create("disk", "boot", disk("boot"))
    client.create("vm", "web", machine("boot", key.with_suffix(".pub").read_text()))
    login = [sys.executable, "-m", "hansa", "ssh", "web", "--data", str(cloud.data), "-i", str(key), "--"]
    times: list[int] = []  # when the kernel of each boot started, by its guest's clock
    for turn in range(BOOTS):
        client.wait("vm", "web")
        done = subprocess.run(
            [*login, "id -un; date +%s; cut -d . -f 1 /proc/uptime"], capture_output=True, text=True, timeout=200,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"boot {turn + 1} of {BOOTS}: {done.stderr} {client.logs('web')[-2000:]}"
        user, now, up = done.stdout.split()
        assert user == "evroc-user"
        times.append(int(now) - int(up))
        client.stop("web")
        client.wait("vm", "web", until="stopped", timeout_s=60)
        client.start("web")
    assert all(later > earlier for earlier, later in zip(times, times[1:], strict=False)), "each was a boot of its own"
