"""Whatever is sent, the answer is a clean refusal: never a 500, and what is wrong is named."""

from __future__ import annotations

from typing import Any

import pytest

from hansa.api.query import as_whole, query_of, whole_or
from hansa.errors import Invalid
from hansa.sdk.transport import Answer, _retry_after_s

from .conftest import Talk

pytestmark = pytest.mark.anyio
DISK = {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "b"}}
LONG = "7" * 5000
NO_NUMBERS = ("²", "٣", "１２", "-1", "1.5", "1e3", "0x10", "+1", " 1", "1_0", "", "x", LONG, "9" * 19, "\x00")
OUT_OF_RANGE = ("0", "9" * 18)


def deep(levels: int, *, lists: bool = False) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value] if lists else {"a": value}
    return value


@pytest.fixture
async def machine(talk: Talk) -> str:
    await talk.make(talk.at("disks"), "d", DISK)
    spec = {"computeProfileRef": "c1a.s", "disks": [{"diskRef": "d", "bootFrom": True}], "placement": {"zone": "b"}}
    await talk.make(talk.at("virtualMachines"), "vm", spec)
    await talk.until(talk.at("virtualMachines/vm"))
    return talk.at("virtualMachines/vm")


NUMBERS = [("{disks}", "limit"), ("{disks}", "continue"), ("{disks}?watch=true", "after"), ("{machine}/logs", "bytes"),
           ("{machine}/events", "limit"), ("/events/v1/projects/demo", "limit"), ("/events/v1/projects/demo", "after")]  # fmt: skip


@pytest.mark.parametrize(("path", "name"), NUMBERS)
async def test_a_number_in_a_query_is_a_number(talk: Talk, machine: str, path: str, name: str) -> None:
    at = path.format(disks=talk.at("disks"), machine=machine)
    bad = [value for value in NO_NUMBERS if value or name != "continue"]  # an empty `continue` is the first page
    for value in bad + ([*OUT_OF_RANGE] if name in ("limit", "bytes") else []):
        answer = await talk.call(
            "GET", at.partition("?")[0], params={**query_of(at.partition("?")[2].encode()), name: value}
        )
        assert answer.status_code == 400, f"{name}={value[:30]!r}: {answer.status_code} {answer.text[:200]}"
        assert answer.json()["fields"][0]["path"] == name and len(answer.text) < 1000


@pytest.mark.parametrize(
    ("path", "query"),
    [("{disks}", "watch=²"), ("{disks}", "labelSelector=a%00b"), ("{disks}", "labelSelector=" + "a" * 5000), ("{disks}", "labelSelector=a in (b"),
     ("{disks}", "labelSelector=²in²"), ("{disks}", "dryRun=perhaps"), ("{disks}", "strict=1"), ("{disks}", "%FF=%FF&limit=%FF"),
     ("{disks}", "&".join(f"a{i}=1" for i in range(40))), ("{machine}/logs", "bytes=%F0%9F%98%80"), ("/events/v1/projects/demo", "after=" + LONG)],
)  # fmt: skip
async def test_a_query_that_makes_no_sense_is_refused(talk: Talk, machine: str, path: str, query: str) -> None:
    answer = await talk.call("GET", path.format(disks=talk.at("disks"), machine=machine) + "?" + query)
    assert answer.status_code == 400 and answer.json()["reason"] == "FieldValueInvalid", answer.text[:300]


BODIES: list[tuple[dict[str, Any], str]] = [
    *(({"metadata": {"resourceVersion": v}}, "metadata.resourceVersion") for v in (*NO_NUMBERS, 5, True, ["1"], {"a": "1"}) if v != ""),
    *(({"metadata": {"userLabels": {"k": v}}}, "metadata.userLabels.k") for v in (["a"], {"a": "b"}, 1, True, 1.5)),
    *(({"metadata": {"userLabels": v}}, "metadata.userLabels") for v in ("k=v", ["a"], 1, True)),
    ({"metadata": {"userLabels": {f"k{i}": "v" for i in range(65)}}}, "metadata.userLabels"),
    ({"metadata": {"userLabels": {"k": "v" * 64}}}, "metadata.userLabels.k"),
    *(({"metadata": {"id": v}}, "metadata.id") for v in (["d"], {"a": 1}, 1, "other")),
    *(({"metadata": v}, "metadata") for v in ("x", ["x"], 1, True)),
    *(({"spec": v}, "spec") for v in ("x", ["x"], 1, True)),
    *(({"spec": {"diskSize": v}}, "spec.diskSize") for v in ("x", ["x"], 1, True)),
    *(({"spec": {"diskSize": {"amount": v, "unit": "GB"}}}, "spec.diskSize.amount") for v in ("²", [1], -1, 1.5, 10**30, LONG)),
    ({"spec": {"placement": {"zone": ["b"]}}}, "spec.placement.zone"),
    *(({"apiVersion": v}, "apiVersion") for v in (["compute/v1beta2"], 1)),
    *(({"kind": v}, "kind") for v in (["Disk"], {"Disk": 1})),
]  # fmt: skip


@pytest.mark.parametrize(("body", "path"), BODIES, ids=lambda value: str(value)[:40])
async def test_a_patch_with_a_wrong_value_is_refused_by_its_path(talk: Talk, body: dict[str, Any], path: str) -> None:
    await talk.make(talk.at("disks"), "d", DISK)
    before = (await talk.until(talk.at("disks/d")))["metadata"]["resourceVersion"]
    answer = await talk.call("PATCH", talk.at("disks/d"), body)
    assert answer.status_code == 400, answer.text[:300]
    assert path in [field["path"] for field in answer.json()["fields"]], answer.text[:300]
    assert (await talk.read(talk.at("disks/d")))["metadata"]["resourceVersion"] == before


@pytest.mark.parametrize("levels", [40, 200, 240])  # `orjson` itself writes 254 at most
@pytest.mark.parametrize("lists", [False, True])
async def test_a_body_that_is_nested_without_end_is_refused(talk: Talk, levels: int, lists: bool) -> None:
    await talk.make(talk.at("disks"), "d", DISK)
    nested = deep(levels, lists=lists)
    for method, path in (("POST", talk.at("disks")), ("PATCH", talk.at("disks/d"))):
        for body in ({"spec": nested}, {"metadata": {"id": "d", "userLabels": nested}}, {"status": nested}):
            for headers in ({}, {"Idempotency-Key": "one"}):
                answer = await talk.call(method, path, body, headers=headers)
                assert answer.status_code == 400 and "nested" in answer.json()["debug"], answer.text[:300]


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 100_000,
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b"\xff",
        b'{"metadata": {"id": "\\ud800"}}',
        b"1" * 5000,
        b"nul",
    ],
)
async def test_a_body_that_is_no_document_is_refused(talk: Talk, raw: bytes) -> None:
    headers = {"Authorization": f"Bearer {talk.token}"}
    for method, path in (("POST", talk.at("disks")), ("PATCH", talk.at("disks/d")), ("POST", "/iam/v1beta1/projects")):
        answer = await talk.http.request(method, path, content=raw, headers=headers)
        assert answer.status_code == 400, answer.text[:300]


@pytest.mark.parametrize("length", ["²", LONG, "-1", "1e9"])
async def test_a_length_that_is_no_number_is_not_believed(talk: Talk, length: str) -> None:
    headers = {"Authorization": f"Bearer {talk.token}", "Content-Length": length.encode("latin-1")}
    answer = await talk.http.request("POST", talk.at("disks"), content=b"{}", headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 400 and answer.json()["fields"][0]["path"] == "metadata.id"


@pytest.mark.parametrize(
    "segment", ["%00", "²", "%F0%9F%98%80", "a" * 5000, "%FF", "..", "%2e%2e", "a%2Fb", "'", '"', "{project}"]
)
async def test_a_strange_name_in_a_path_is_not_there(talk: Talk, segment: str) -> None:
    for path in (
        talk.at(f"disks/{segment}"),
        talk.at(segment),
        f"/events/v1/projects/{segment}",
        talk.at(f"virtualMachines/{segment}/logs"),
    ):
        answer = await talk.call("GET", path)
        assert 400 <= answer.status_code < 500, f"{path}: {answer.status_code}"


def test_numbers_are_read_as_they_are_written() -> None:
    assert as_whole("0" * 17 + "7", "n") == 7 and whole_or({}, "n", 5) == 5 and whole_or({"n": "0"}, "n", 5) == 0
    with pytest.raises(Invalid, match=r"n: must be a whole number"):
        as_whole("²", "n")


@pytest.mark.parametrize("text", ["²", "٣", "soon", "-1", ""])
def test_a_client_believes_no_strange_number_of_a_server(text: str) -> None:
    assert _retry_after_s(Answer(503, {"retry-after": text}, b"")) is None
    assert _retry_after_s(Answer(503, {"retry-after": "7"}, b"")) == 7.0
