"""`hansa quota`, `hansa usage` and `hansa why decision/ID`: words in, lines out."""

from __future__ import annotations

from typing import Any

import pytest

from hansa.cli.quota import lines_of, patch_of, screen
from hansa.cli.usage import amount_text, interval_table, sum_table, sums
from hansa.cli.why import decision_screen
from hansa.errors import Invalid
from hansa.kinds.iam import ProjectSpec
from hansa.kinds.quotas import limits_document, usage_document


def test_words_become_a_patch_that_the_kind_takes() -> None:
    patch = patch_of(
        (
            "vcpus=4",
            "memory=64gb",
            "gpus.L40S=2",
            "publicIPs=default",
            "totalSize=unlimited",
            "disks=unlimited",
            "buckets=3",
            "objects=9",
            "requestspersecond=50",
        )
    )
    assert patch == {
        "compute": {"vCPUs": 4, "memory": "64 GB", "gpus": {"L40S": 2}, "disks": 2**31 - 1},
        "networking": {"publicIPs": None},
        "objectStorage": {"totalSize": "unlimited", "buckets": 3, "objects": 9, "requestsPerSecond": 50},
    }  # fmt: skip
    ProjectSpec.model_validate({"organization": "o", "quotas": patch})


@pytest.mark.parametrize("word", ["vCPUs", "vCPUs=-1", "vCPUs=many", "cores=4", "memory=64", "memory=GB", "gpus.=1", "disks=9999999999"])  # fmt: skip
def test_a_wrong_word_is_named(word: str) -> None:
    with pytest.raises(Invalid, match=word.split("=", maxsplit=1)[0]):
        patch_of((word,))


def test_a_bar_shows_the_share_and_never_hides_that_something_is_used() -> None:
    limits = limits_document({"compute.vCPUs": 8, "compute.memory": 16 * 10**9, "compute.disks": 0})
    used = usage_document({"compute.vCPUs": 8, "compute.memory": 128 * 10**6, "compute.disks": 1})
    shares = {name: (amount, limit, share) for name, amount, limit, share in lines_of(limits, used)}
    assert shares["vCPUs"] == ("8", "8", 1.0) and shares["disks"] == ("1", "0", 1.0)
    assert shares["memory"] == ("128 MB", "16 GB", 0.008) and shares["totalSize"] == ("0 GB", "-", None)
    lines = screen("project demo", limits, used)[1].splitlines()
    assert "█" * 20 + " 100%" in next(line for line in lines if line.startswith("vCPUs"))
    assert "█·" in next(line for line in lines if line.startswith("memory"))


def test_a_pace_has_a_limit_and_no_use() -> None:
    used = usage_document({})
    shown = {name: rest for name, *rest in lines_of(limits_document({"objectStorage.requestsPerSecond": 50}), used)}
    assert shown["requestsPerSecond"] == ["-", "50", None]
    assert "requestsPerSecond" not in {line[0] for line in lines_of(limits_document({}), used)}


def interval(**more: Any) -> dict[str, Any]:
    return {"meter": "vcpu_seconds", "unit": "vCPU", "quantity": 2, "sku": "c1a.s", "region": "se-sto", "zone": "a",
            "consumed": 7200, "seconds": 3600, "open": False, "ref": "/compute/projects/p/regions/se-sto/virtualMachines/m",
            "start": "2026-11-01T00:00:00.000Z", "end": "2026-11-01T01:00:00.000Z", **more}  # fmt: skip


def test_usage_is_added_up_by_meter_sku_and_zone() -> None:
    found = [interval(), interval(open=True), interval(zone="b"), interval(simulated=True)]
    lines = list(sums(found))
    assert [(s["zone"], s["simulated"], s["consumed"], s["open"]) for s in lines] == [
        ("se-sto-a", False, 14_400, 1), ("se-sto-a", True, 7200, 0), ("se-sto-b", False, 7200, 0)
    ]  # fmt: skip
    table = sum_table(lines)
    assert "4.00 vCPU-hours" in table and "vcpu_seconds (simulated)" in table
    assert "vm/m" in interval_table(found) and "2 vCPU" in interval_table(found)
    assert amount_text(3600 * 10**9, "byte", "disk_byte_seconds") == "1.00 GB-hours"
    assert amount_text(12_000, "request", "s3_read_requests") == "12,000 requests"
    assert amount_text(2 * 10**9, "byte", "s3_sent_bytes") == "2 GB"


def test_a_refused_decision_tells_what_is_short_and_what_would_help() -> None:
    quota = {"quota": "compute.memory", "of": "project p", "limit": 8 * 10**9, "used": 6 * 10**9, "asked": 4 * 10**9, "unit": "bytes"}  # fmt: skip
    found = {"id": "d", "at": "then", "type": "verdict", "verdict": "refused", "act": "create", "by": "/iam/users/u", "request": "r",
             "ref": "/compute/projects/p/regions/se-sto/virtualMachines/m", "rule": "QuotaExceeded", "reasons": ["spent"],
             "quota": quota, "help": "delete something"}  # fmt: skip
    lines = decision_screen(found)
    assert lines[0] == "create vm/m was refused, then" and "  because   spent" in lines
    assert "  short     compute.memory of project p: 2 GB more than the limit of 8 GB" in lines
    assert "  helps     delete something" in lines
    placed = {"id": "d", "at": "then", "type": "placement", "ref": found["ref"], "chosen": [{"host": "h"}], "ranked": [],
              "refused": [{"reason": "CpuShort", "hosts": 2, "message": "no"}]}  # fmt: skip
    assert decision_screen(placed) == [
        "placement of vm/m, then",
        "  chosen   h",
        "  refused    2 host(s)  CpuShort           no",
    ]
