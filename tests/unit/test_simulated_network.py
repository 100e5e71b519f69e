"""The network twin: it keeps what was applied, and says that it is one."""

from __future__ import annotations

import pytest

from hansa.engines.ports import Direction, Group, HostNetwork, NetworkEngine, Port, Range, Rule
from hansa.engines.simulated import Faults, SimulatedNetwork
from hansa.errors import Refused, Retry

pytestmark = pytest.mark.anyio


def network(revision: int, *ports: Port) -> HostNetwork:
    group = Group("g", 3, (Rule(Direction.INGRESS, "tcp", (22, 22)),), tuple(p.ipv4 or "" for p in ports))
    ranges = (Range("10.0.0.0/24", "10.0.0.1", None, None),)
    return HostNetwork("n", revision, ("10.0.0.0/16",), ranges, ports, (group,))


PORT = Port("m", 2, "web", "02:00:00:00:00:01", "10.0.0.4", None, ("g",), "203.0.113.7")


@pytest.fixture
def engine() -> NetworkEngine:
    return SimulatedNetwork()


async def test_what_was_applied_is_reported_as_enforced(engine: NetworkEngine) -> None:
    assert await engine.observe("n") is None
    report = await engine.apply(network(5, PORT))
    assert report == await engine.observe("n")
    assert (report.revision, report.ports, report.groups) == (5, {"m": 2}, {"g": 3})
    assert report.publics == {"203.0.113.7": "m"} and report.forwards == {}
    assert [(h.uid, h.generation) for h in await engine.held()] == [("n", 5)]


async def test_an_older_revision_is_ignored(engine: NetworkEngine) -> None:
    await engine.apply(network(5, PORT))
    assert (await engine.apply(network(4))).ports == {"m": 2}
    assert (await engine.apply(network(6))).ports == {}


async def test_a_card_is_plugged_in_once_its_port_is_there(engine: NetworkEngine) -> None:
    with pytest.raises(Retry):
        await engine.plug("n", "m")
    await engine.apply(network(1, PORT))
    link = await engine.plug("n", "m")
    assert (link.tap, link.namespace) == (-1, -1)
    link.close()
    with pytest.raises(Retry):
        await engine.plug("n", "other")


async def test_nobody_answers_and_it_says_why(engine: NetworkEngine) -> None:
    with pytest.raises(Refused, match="simulated"):
        await engine.dial("n", "10.0.0.4", 22)
    host = await engine.host()
    assert (host.mode, host.healthy, host.uplink) == ("simulated", True, "none") and "simulated" in host.message


async def test_removing_leaves_nothing_and_may_be_repeated(engine: NetworkEngine) -> None:
    await engine.apply(network(1, PORT))
    for _ in range(2):
        assert await engine.remove("n")
    assert list(await engine.held()) == [] and await engine.observe("n") is None


async def test_its_faults_come_before_and_after_the_effect() -> None:
    before, after = SimulatedNetwork(Faults(1, before=1.0)), SimulatedNetwork(Faults(1, after=1.0))
    for engine, kept in ((before, 0), (after, 1)):
        with pytest.raises(Retry):
            await engine.apply(network(1, PORT))
        assert len(await engine.held()) == kept
