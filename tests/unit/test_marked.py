"""YAML with places: the core schema of YAML 1.2, lines and columns, and what is refused before it can grow."""

from __future__ import annotations

from decimal import Decimal

import pytest

from hansa.marked import BYTES_MAX, DEPTH_MAX, VALUES_MAX, InvalidFile, Place, dotted, read_marked


def read(text: str) -> object:
    return read_marked(text.encode(), "f.yaml").value


def refused(raw: str | bytes) -> InvalidFile:
    with pytest.raises(InvalidFile) as caught:
        read_marked(raw.encode() if isinstance(raw, str) else raw, "f.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("NO", "NO"), ("no", "no"), ("on", "on"), ("true", True), ("False", False), ("~", None), ("", None),
        ("010", 10), ("0x10", "0x10"), ("1_000", "1_000"), ("1:30", "1:30"), ("-7", -7), ("1.15", Decimal("1.15")),
        ("1e3", Decimal("1e3")), (".5", Decimal(".5")), ("2026-01-01", "2026-01-01"), ("'12'", "12"), ('"true"', "true"),
        (".inf", ".inf"), ("<<", "<<"),
    ],
)  # fmt: skip
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = read(f"a: {text}\n")
    assert found == {"a": value} and type(found["a"]) is type(value)  # type: ignore[index]


def test_places_are_those_of_names_and_of_list_entries() -> None:
    marked = read_marked(b"a:\n  - b: 1\n    c:\n      - x\n      - y\n", "f")
    assert marked.place(("a",)) == Place(1, 1)
    assert marked.place(("a", 0)) == Place(2, 5)
    assert marked.place(("a", 0, "c")) == Place(3, 5)
    assert marked.place(("a", 0, "c", 1)) == Place(5, 9)
    assert marked.place(("a", 0, "missing", "deeper")) == Place(2, 5)


def test_a_name_that_stands_twice_is_refused_with_both_lines() -> None:
    error = refused("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\na: 4\n")
    assert [(m.path, m.place) for m in error.mistakes] == [("b.c", Place(5, 3)), ("a", Place(6, 1))]
    assert "first on line 3" in error.mistakes[0].message
    assert "f.yaml:5:3: b.c: stands twice" in error.message


@pytest.mark.parametrize(
    ("text", "line", "column", "said"),
    [
        ("a: &x 1\nb: *x\n", 1, 4, "anchors"),
        ("a: 1\nb: *x\n", 2, 4, "anchors"),
        ("a: !!python/object:os.system 1\n", 1, 4, "tags"),
        ("a: !!int '1'\n", 1, 4, "tags"),
        ("a: 1\n---\nb: 2\n", 2, 1, "second document"),
        ("a: [1, 2\nb: 3\n", 2, 2, "is no YAML"),
        ("a:\n\t- 1\n", 2, 1, "is no YAML"),
        ("? [a, b]\n: 1\n", 1, 3, "plain text"),
        ("a: 1\n&x b: 1\n", 2, 1, "plain text"),
        ("!!str a: 1\n", 1, 1, "plain text"),
        ("a: " + "9" * 31 + "\n", 1, 4, "digits"),
        ("", 1, 1, "empty"),
        ("# only a comment\n", 1, 1, "empty"),
        ("a: b\x07c\n", 1, 5, "is no YAML"),
    ],
)
def test_refused_with_its_place(text: str, line: int, column: int, said: str) -> None:
    (mistake,) = refused(text).mistakes
    assert said in mistake.message and mistake.place.line == line
    if said != "is no YAML":  # where a parser gives up is its own business; the line is ours
        assert mistake.place.column == column


def test_a_text_that_is_no_utf_8_says_where() -> None:
    (mistake,) = refused(b"a: 1\nb: \xff\n").mistakes
    assert (mistake.message, mistake.place) == ("is no UTF-8 text", Place(2, 4))


def test_depth_size_and_number_of_values_are_bounded() -> None:
    assert "nested deeper" in refused("a: " + "[" * (DEPTH_MAX + 5) + "]" * (DEPTH_MAX + 5)).message
    assert "nested deeper" in refused("[" * 100_000).message  # long before a stack could end
    assert "at most" in refused(b"a" * (BYTES_MAX + 1)).message
    assert f"more than {VALUES_MAX}" in refused("[" + "1," * (VALUES_MAX + 1) + "]").message


def test_many_mistakes_are_counted_and_not_all_shown() -> None:
    error = refused("".join(f"k{i}: 1\n" for i in range(500)) * 2)
    assert (error.count, len(error.mistakes), len(error.fields)) == (500, 100, 20)
    assert "and 480 more" in error.message and error.message.count("\n") == 21


def test_paths_are_written_as_people_do() -> None:
    assert dotted(("regions", 0, "zones", 1, "letter")) == "regions[0].zones[1].letter"
    assert dotted(("shapes", "a b.c", "vcpus")) == 'shapes["a b.c"].vcpus'
    assert dotted(()) == "file"
