"""Patterns of policies: they mean what the plain reading says, and no pattern is slow."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.gateways.s3.rules.globs import Glob


def _naive(pattern: str, text: str) -> bool:
    wanted = "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.fullmatch(wanted, text, re.DOTALL) is not None


@given(st.text("ab*?/\n", max_size=8), st.text("ab/\n", max_size=8))
def test_a_pattern_matches_what_the_plain_expression_matches(pattern: str, text: str) -> None:
    assert Glob(pattern).matches(text) is _naive(pattern, text)


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=6), st.text("ab", max_size=4))
def test_a_pattern_reaches_whatever_begins_a_text_that_it_matches(pattern: str, start: str, rest: str) -> None:
    if Glob(pattern).matches(start + rest):
        assert Glob(pattern).reaches(start)


@pytest.mark.parametrize(
    ("pattern", "start", "reached"),
    [
        ("bucket/*", "bucket/", True),
        ("buck*", "bucket/", True),
        ("other/*", "bucket/", False),
        ("bucket", "bucket/", False),
    ],
)
def test_a_pattern_of_another_bucket_does_not_reach_this_one(pattern: str, start: str, reached: bool) -> None:
    assert Glob(pattern).reaches(start) is reached


def test_case_counts_unless_it_is_folded() -> None:
    assert not Glob("s3:Get*").matches("s3:getobject")
    assert Glob("s3:Get*", folded=True).matches("S3:GETOBJECT")
    assert Glob("s3:?et*", folded=True).matches("s3:GETobject")


def test_a_variable_stands_for_its_value_letter_for_letter() -> None:
    pattern = Glob("home/${aws:UserName}/*", variables=True)
    assert pattern.matches("home/ada/x", {"aws:username": "ada"})
    assert not pattern.matches("home/bob/x", {"aws:username": "ada"})
    assert not pattern.matches("home/bob/x", {"aws:username": "*"})
    assert pattern.matches("home/*/x", {"aws:username": "*"})


def test_an_empty_value_and_a_backslash_are_letters_too() -> None:
    pattern = Glob("a${v}?", variables=True)
    assert pattern.matches("ab", {"v": ""}) and not pattern.matches("a\\b", {"v": ""})
    assert pattern.matches("a\\*b", {"v": "\\*"}) and not pattern.matches("a\\xb", {"v": "\\*"})
    assert Glob("${v}", variables=True, folded=True).matches("STRASSE", {"v": "straße"})


def test_a_variable_without_a_value_matches_nothing() -> None:
    assert not Glob("${aws:userid}*", variables=True).matches("anything", {})
    assert not Glob("${aws:userid}*", variables=True).matches("${aws:userid}")


def test_escaped_stars_are_letters() -> None:
    assert Glob("a${*}b${?}${$}", variables=True).matches("a*b?$")
    assert not Glob("a${*}b${?}${$}", variables=True).matches("axbx$")


def test_variables_are_letters_where_they_are_not_known() -> None:
    assert Glob("${aws:userid}").matches("${aws:userid}")


def test_a_pattern_made_to_be_slow_is_not() -> None:
    begun = time.process_time()
    assert not Glob("*a" * 500 + "b").matches("a" * 1024)
    assert not Glob("*?a?" * 500 + "b").matches("a" * 1024)
    assert time.process_time() - begun < 1.0
