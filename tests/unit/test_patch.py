"""Merge patch follows RFC 7396; rules on fields hold."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.api.patch import check_labels, merge, prune, read_spec, unknown_fields, without_nulls
from hansa.api.selector import parse
from hansa.errors import Invalid
from hansa.kinds.compute import Disk, DiskSpec, VirtualMachineSpec

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=12,
)

# The examples of RFC 7396, appendix A.
EXAMPLES: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("old", "patch", "wanted"), EXAMPLES)
def test_the_examples_of_the_rfc(old: Any, patch: Any, wanted: Any) -> None:
    assert merge(old, patch) == wanted


@given(JSON, JSON)
def test_a_patch_applied_twice_changes_nothing_more(old: Any, patch: Any) -> None:
    once = merge(old, patch)
    assert merge(once, patch) == once


@given(st.dictionaries(st.text(max_size=2), JSON, max_size=4))
def test_a_new_document_is_a_patch_of_nothing(document: dict[str, Any]) -> None:
    def lists_left(value: Any) -> Any:
        return value

    assert merge({}, document).keys() == without_nulls(document).keys() == lists_left(merge({}, document)).keys()


def test_unknown_fields_are_pruned_and_named() -> None:
    document = {"diskSize": {"amount": 1, "unit": "GB", "colour": "red"}, "speed": 9}
    assert prune(DiskSpec, document) == {"diskSize": {"amount": 1, "unit": "GB"}}
    assert list(unknown_fields(DiskSpec, document)) == ["spec.diskSize.colour", "spec.speed"]


def test_every_wrong_field_is_named_with_its_path_and_value() -> None:
    with pytest.raises(Invalid) as raised:
        read_spec(Disk, {"diskSize": {"amount": "many", "unit": "EB"}})
    assert {f.path for f in raised.value.fields} == {"spec.diskSize.amount", "spec.diskSize.unit"}
    assert "'EB'" in raised.value.message


@pytest.mark.parametrize(
    "disks", [[], [{"diskRef": "a"}], [{"diskRef": "a", "bootFrom": True}, {"diskRef": "b", "bootFrom": True}]]
)
def test_exactly_one_disk_boots(disks: list[Any]) -> None:
    with pytest.raises(ValueError, match="disks"):
        VirtualMachineSpec.model_validate({"computeProfileRef": "x", "disks": disks, "placement": {"zone": "a"}})


def test_labels_are_a_map_from_text_to_text() -> None:
    assert check_labels({"a": "1", "b": None}) == {"a": "1"} and check_labels(None) == {}
    with pytest.raises(Invalid):
        check_labels({"a": 1})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("a=1", True), ("a==1", True), ("a!=1", False), ("b!=1", True), ("a in (1,2)", True), ("a notin (1)", False), ("a", True),
     ("!a", False), ("!b", True), ("a=1,x.example.com/y=2", True), ("a=1,b=2", False)],
)  # fmt: skip
def test_selectors(text: str, wanted: bool) -> None:
    assert parse(text)({"a": "1", "x.example.com/y": "2"}) is wanted


def test_a_selector_that_is_none_is_refused() -> None:
    with pytest.raises(Invalid, match="labelSelector"):
        parse("a=(b")
