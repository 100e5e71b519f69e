"""A host that does not filter is found out before it takes a machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hansa.engines.network import driver
from hansa.engines.network.driver import NAMESPACES, LocalNetworks

from .wires import MODE

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
IN_NAMESPACE = ["unshare", "--net"] if MODE == NAMESPACES else ["unshare", "--user", "--map-root-user", "--net"]
BROKEN = {
    "it lets everything pass": ("a closed port was reached over IPv4", """
        text = text.replace("jump receiver", "accept").replace("jump sender", "accept")"""),
    "it lets nothing pass": ("an open port was not reached over IPv4", """
        text = text.replace(" dport 7000 accept", " dport 7009 accept")"""),
    "it looks at no sender": ("a false sender was let through over IPv4", """
        text = text.replace("type filter hook prerouting priority raw; policy accept;",
                            "type filter hook prerouting priority raw; policy accept; accept")"""),
}  # fmt: skip


@pytest.mark.skipif(MODE == driver.USERSPACE, reason="the switch has no rules of the kernel to break")
@pytest.mark.parametrize("how", BROKEN)
def test_a_kernel_that_does_not_filter_is_found_out(how: str) -> None:
    said, change = BROKEN[how]
    program = f"""
import sys
from hansa.engines.network import kernel, probe, ruleset
rules = ruleset.network_rules
def broken(wanted):
    text = rules(wanted)
    {change.strip()}
    return text
kernel.ruleset.network_rules = broken
sys.exit(probe.main(["kernel"]))
"""
    done = subprocess.run([*IN_NAMESPACE, sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert '"healthy": false' in done.stdout and said in done.stdout, done


async def test_a_host_whose_probe_fails_says_so_and_why(tmp_path: Path, monkeypatch: Any) -> None:
    """Neither mode of the kernel is proved, so the switch is left; and when that fails too, the host is not healthy."""
    asked = []

    async def failing(self: LocalNetworks, mode: str) -> str:
        asked.append(mode)
        return "a closed port was reached"

    monkeypatch.setattr(LocalNetworks, "_proved", failing)
    found = await LocalNetworks(tmp_path, cloud_id="none").host()
    assert not found.healthy and "a closed port was reached" in found.message and asked


REFUSED = """
import asyncio, ctypes, json, os, sys
from pathlib import Path
user = os.getuid()
assert ctypes.CDLL(None).unshare(0x10000000) == 0
Path("/proc/self/setgroups").write_text("deny")
Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
Path("/proc/sys/user/max_user_namespaces").write_text("0")
code = '''
import asyncio
from pathlib import Path
from hansa.engines.network.driver import LocalNetworks
found = asyncio.run(LocalNetworks(Path("/nowhere"), cloud_id="none", uplink="none").host())
print(found.mode, found.healthy, found.message)
'''
os.execv(sys.executable, [sys.executable, "-c", code])
"""


def test_where_user_namespaces_are_refused_the_switch_is_left() -> None:
    """A plain user on a host that allows none: proved in user space, and it says what would be better and why not."""
    words = [str(ROOT / "scripts/as-plain-user"), sys.executable, "-c", REFUSED]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("userspace True user-namespaces: "), (done.stdout, done.stderr)
