"""Verbs that read settings themselves say which of them is wrong, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from hansa.cli.main import hansa


@pytest.mark.parametrize("verb", ["migrate --dry-run", "backup file", "restore file", "seal status", "serve"])
def test_a_setting_that_is_none_is_named(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HANSA_CONNECTIONS", "many")
    done = CliRunner().invoke(hansa, verb.split())
    assert done.exit_code == 1 and done.output.startswith("Error: HANSA_CONNECTIONS: "), done.output
    assert not (tmp_path / "hansa-data").exists()
