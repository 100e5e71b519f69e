"""Names of links: short enough for the kernel (15 letters), from uids alone, and the same in every pass.

A port's link begins with `t`, a network's link into the uplink with `v`: rules may speak of `t*` and `v*`.
"""

from __future__ import annotations

EXTERNAL, TUNNEL = "ext0", "vx0"  # in a network's namespace: to the uplink, to other hosts
OUTSIDE = "eth0"  # in the uplink's namespace: the way out
ROUTER_MAC = "02:00:00:00:00:01"  # of every link that a guest speaks to: it finds its gateway on any host


def port_link(machine_uid: str) -> str:
    return "t" + machine_uid.replace("-", "")[:12]


def network_link(network_uid: str) -> str:
    return "v" + network_uid.replace("-", "")[:12]
