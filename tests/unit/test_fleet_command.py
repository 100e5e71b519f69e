"""`hansa fleet`: what it says of good and of wrong files, and the status it ends with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hansa.cli.main import hansa
from hansa.marked import InvalidFile

from .test_fleet_file import GOOD

ROOT = Path(__file__).parents[2]


def call(*arguments: str) -> Result:
    return CliRunner().invoke(hansa, ["fleet", *arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(GOOD)
    return path


def test_a_good_file_is_summed_up(file: Path) -> None:
    told = call("check", str(file))
    assert told.exit_code == 0
    head, sto, whole, empty, last = told.output.splitlines()
    assert head.split() == ["REGION", "ZONES", "HALLS", "RACKS", "HOSTS", "MADE", "GPUS", "MW", "PUE"]
    assert sto.split() == ["se-sto", "2", "1", "11", "47", "5", "352", "0.7", "1.25"]
    assert whole.split()[0] == "total" and empty == ""
    assert "figures" in last and "8 with a source" in last and "5 hosts are made of it" in last


def test_a_good_file_as_json(file: Path) -> None:
    told = json.loads(call("check", str(file), "--output", "json").output)
    assert told["ok"] is True and told["total"]["gpus"] == {"B200": 352}
    assert told["figures"] - told["assumed"] == 8
    assert told["regions"][0]["powerKW"] == 700


def test_a_wrong_file_ends_with_status_1_and_tells_line_and_field(file: Path) -> None:
    file.write_text(GOOD.replace("letter: b", "letter: a").replace("pue: paper", "pue: rumour"))
    ended = subprocess.run(
        [sys.executable, "-m", "hansa", "fleet", "check", str(file)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1 and ended.stdout == ""
    assert f"{file}:17:9: regions[0].zones[1].letter: there is a zone of se-sto a already" in ended.stderr
    assert f"{file}:25:19: regions[0].zones[1].sources.pue: there is no source rumour" in ended.stderr
    assert len(ended.stderr.splitlines()) < 10


def test_a_wrong_file_as_json(file: Path) -> None:
    file.write_text(GOOD.replace("letter: b", "letter: a"))
    told = call("check", str(file), "--output", "json")
    assert told.exit_code == 1
    found: dict[str, Any] = json.loads(told.output)
    assert found["ok"] is False and found["mistakes"][0] == {
        "line": 17, "column": 9, "field": "regions[0].zones[1].letter", "message": "there is a zone of se-sto a already",
    }  # fmt: skip


def test_without_json_the_mistakes_are_raised_for_the_one_place_that_shows_errors(file: Path) -> None:
    file.write_text("regions: []\n")
    assert isinstance(call("check", str(file)).exception, InvalidFile)


def test_a_tree_of_the_shipped_fleet_and_of_a_file(file: Path) -> None:
    shipped = call("show").output
    assert "no-nvk-a  Narvik, Kvandal · operator Nscale" in shipped and "se-sto-a-1, this machine" in shipped
    assert "EcoDataCenter (SE, of Areim (SE))" in shipped
    mine = call("show", str(file)).output
    assert (
        "10 racks r2 of 60 kW: 4 x gpu (b-more, 0 made)" in mine
        and "2 prices in EUR from 2026-01-01, everywhere" in mine
    )


def test_the_schema_names_every_field() -> None:
    schema = json.loads(call("schema").output)
    assert schema["properties"].keys() == {"sources", "parties", "gpuModels", "shapes", "regions", "prices"}
    assert schema["$defs"]["FleetZone"]["properties"]["powerKW"]["description"]
    assert schema["$defs"]["FleetZone"]["additionalProperties"] is False
    assert schema["$defs"]["FleetZone"]["properties"]["pue"]["anyOf"][0] == {
        "type": "number",
        "minimum": 1,
        "maximum": 3,
    }


def test_the_example_of_the_documentation_is_good(tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to/describe-your-fleet.md").read_text()
    (example,) = [block.split("```", 1)[0] for block in page.split("```yaml\n")[1:]]
    path = tmp_path / "fleet.yaml"
    path.write_text(example)
    told = call("check", str(path))
    assert told.exit_code == 0, told.exception
    shown = page.split("```text\n", 1)[1].split("```", 1)[0]
    assert told.output.replace(str(path), "fleet.yaml").strip() == shown.strip()
