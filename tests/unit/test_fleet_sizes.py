"""Fleets of real size are a few lines and a few hosts; fleets that are wrong in any way are Invalid with a path."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hansa.errors import Invalid
from hansa.fleetfile import parse_fleet
from hansa.fleetobjects import objects_of
from hansa.fleetsums import made_hosts, of_region, total
from hansa.marked import InvalidFile, read_marked

from .test_fleet_file import GOOD

SITES = 10
SITE = """\
  - id: r-{n}
    name: Region {n}
    country: SE
    zones:
      - letter: a
        site: Site {n}
        gridZone: SE1
        pue: 1.1
        powerKW: 90000
        halls:
          - {{id: h1, racks: [{{id: g, count: 243, powerKW: 142, hosts: [{{id: r-{n}-g, shape: tray, count: 18}}]}}]}}
          - {{id: h2, racks: [{{id: g, count: 244, powerKW: 142, hosts: [{{id: r-{n}-h, shape: tray, count: 18}}]}}]}}
"""
HEAD = "shapes:\n  tray: {vcpus: 144, memoryGB: 960, gpuModel: GB300, gpus: 4, powerW: 7800}\nregions:\n"


def large() -> bytes:
    return (HEAD + "".join(SITE.format(n=n) for n in range(SITES))).encode()


def test_350_000_gpus_are_a_few_lines_and_a_few_hosts() -> None:
    fleet = parse_fleet(large(), "large.yaml")
    held = total(of_region(region, fleet.shapes) for region in fleet.regions)
    assert held.gpus_total == SITES * 487 * 72 == 350_640
    assert held.hosts == SITES * 487 * 18
    assert held.made == len(list(made_hosts(fleet.regions, fleet.shapes))) == 2 * SITES
    assert len(large().splitlines()) < 130
    assert len(objects_of(fleet)) == SITES * (1 + 1 + 2 + 2 + 2)  # region, zone, halls, racks, hosts


def test_the_work_on_a_file_does_not_grow_with_its_counts() -> None:
    """What is read and built is as many values and objects at 1,000,000 as at 1, and no more memory."""
    peaks, places = [], []
    for count in ("1", "1000000"):
        raw = (HEAD + SITE.format(n=0)).replace("        powerKW: 90000\n", "").replace(", powerKW: 142", "")
        raw = raw.replace("count: 243", f"count: {count}").replace("count: 18", f"count: {count}")
        tracemalloc.start()
        fleet = parse_fleet(raw.encode(), "f.yaml")
        found = objects_of(fleet)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        places.append((len(found), len(read_marked(raw.encode(), "f").places)))
    assert places[0] == places[1]
    assert peaks[1] < 2 * peaks[0] + 1_000_000


def test_a_file_as_large_as_is_read_at_all_is_answered() -> None:
    hosts = "".join(f"      - {{id: h{i}, zone: a, shape: tray, count: 1000000, made: 0}}\n" for i in range(5_000))
    text = HEAD + "  - id: r\n    name: R\n    country: SE\n    zones: [{letter: a, site: A}]\n    hosts:\n" + hosts
    fleet = parse_fleet(text.encode(), "f.yaml")
    held = of_region(fleet.regions[0], fleet.shapes)
    assert (held.hosts, held.made) == (5_000_000_000, 0)
    with pytest.raises(InvalidFile) as caught:  # every host wrong: counted, and not all told
        parse_fleet(text.replace("shape: tray", "shape: tory").encode(), "f.yaml")
    assert (caught.value.count, len(caught.value.mistakes)) == (5_000, 100)


# -- mutations ----------------------------------------------------------------------------------

LINES = GOOD.splitlines()
SCRAPS = ["", "{", "}", "[", "]", ":", "- ", "#", "&a ", "*a", "!!x ", "'", '"', "\t", "\x00", "~", "null", "true", "-1",
          "1.5", "9" * 40, "é", "|", ">", "<<: *x", "{a: {a: {a: 1}}}", "count: 0", "id: x", "?", "%", "@", "---", "..."]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> str:
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        act = draw(st.sampled_from(["drop", "twice", "swap", "insert", "cut", "indent", "value"]))
        if act == "drop" and len(lines) > 1:
            del lines[at]
        elif act == "twice":
            lines.insert(at, lines[at])
        elif act == "swap":
            other = draw(st.integers(0, len(lines) - 1))
            lines[at], lines[other] = lines[other], lines[at]
        elif act == "insert":
            column = draw(st.integers(0, len(lines[at])))
            lines[at] = lines[at][:column] + draw(st.sampled_from(SCRAPS)) + lines[at][column:]
        elif act == "cut":
            lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
        elif act == "indent":
            lines[at] = " " * draw(st.integers(0, 8)) + lines[at].lstrip()
        else:
            name, colon, _ = lines[at].partition(": ")
            lines[at] = name + colon + draw(st.sampled_from(SCRAPS))
    return "\n".join(lines)


def invalid_or_good(raw: bytes) -> InvalidFile | None:
    """The mistakes of a file, None when it is good. Anything else that is raised fails the test."""
    try:
        objects_of(parse_fleet(raw, "f.yaml"))
    except InvalidFile as error:
        assert error.count >= 1 and error.mistakes and error.fields
        last = raw.count(b"\n") + 2
        for mistake in error.mistakes:
            assert mistake.path and mistake.message
            assert 1 <= mistake.place.line <= last and mistake.place.column >= 1
            assert f"f.yaml:{mistake.place.line}:" in error.message or error.count > 20
        return error
    return None


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_any_mutation_is_good_or_invalid_with_a_path(text: str) -> None:
    invalid_or_good(text.encode("utf-8", "surrogatepass"))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_invalid(raw: bytes) -> None:
    assert invalid_or_good(raw) is not None


WORDS = st.sampled_from(["regions", "zones", "id", "letter", "source", "sources", "hosts", "halls", "racks", "count", "pue",
                         "shapes", "a", "se-sto", "assumed"])  # fmt: skip
TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-10, 10**7), st.sampled_from(["1.5", "2026-01-01"]), WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=4)),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(TREES)
def test_any_document_is_invalid(tree: object) -> None:
    import yaml

    text = yaml.safe_dump(
        {"regions": [tree], "shapes": {"a": tree}}, default_flow_style=random.Random(str(tree)).random() < 0.5
    )
    assert invalid_or_good(text.encode()) is not None


def test_the_mutations_reach_both_ends() -> None:
    """Some mutations leave a good file and some do not: neither test above is empty."""
    outcomes = {invalid_or_good(GOOD.replace(a, b).encode()) is None for a, b in (("Two", "Three"), ("Two", "[]"))}
    assert outcomes == {True, False}


def test_an_invalid_file_is_invalid_to_everybody() -> None:
    assert issubclass(InvalidFile, Invalid) and InvalidFile.status == 400
