"""Promises of the repository about itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from hansa.api.documents import openapi_document
from hansa.kinds import catalogue
from hansa.kinds.reasons import HELPS, REASONS, is_terminal, what_helps
from hansa.kinds.registry import all_kinds, all_unbuilt
from hansa.sdk import generate

ROOT = Path(__file__).parents[2]
assert catalogue.MODULES


def test_words_that_clients_read_as_the_end_stand_only_in_terminal_reasons() -> None:
    for reason in REASONS.values():
        assert is_terminal(reason.name) == (reason.phase == "terminal"), reason.name


def test_every_reason_for_not_being_ready_says_what_helps() -> None:
    for reason in REASONS.values():
        assert bool(what_helps(reason.name)) == (reason.phase != "ready"), reason.name
    assert set(HELPS) <= set(REASONS)


def test_the_table_of_the_command_line_is_fresh() -> None:
    assert (ROOT / "src/hansa/sdk/table.py").read_text() == generate.text()


def test_every_public_kind_is_in_the_openapi_document() -> None:
    document = openapi_document()
    assert document["openapi"] == "3.1.0"
    for kind in all_kinds():
        assert (kind.kind in document["components"]["schemas"]) == kind.public
    operations = [o for path in document["paths"].values() for o in path.values() if isinstance(o, dict)]
    ids = [o["operationId"] for o in operations if "operationId" in o]
    assert len(ids) == len(set(ids))
    for missing in all_unbuilt():
        assert any(path.endswith(f"/{missing.collection}") for path in document["paths"])


def test_the_command_line_starts_without_heavy_imports() -> None:
    code = "import sys, hansa.cli.main; bad = {'pydantic', 'httpx2', 'rich', 'starlette', 'numpy'} & set(sys.modules); sys.exit(repr(bad) if bad else 0)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_verb_has_help() -> None:
    from click.testing import CliRunner

    from hansa.cli.main import VERBS, hansa

    for verb in VERBS:
        told = CliRunner().invoke(hansa, [verb, "--help"])
        assert told.exit_code == 0 and len(told.output) > 80, verb


def test_no_path_of_a_machine_and_no_registry_is_named() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    forbidden = re.compile(
        "|".join(["pypi" + r"\.org", "files\\.python" + "hosted", "registry\\.npm" + "js", "/work" + "/main"])
    )
    for name in files:
        path = ROOT / name
        if path.is_file() and path.suffix in (".py", ".md", ".toml", ".txt", ".yaml", ""):
            assert not forbidden.search(path.read_text(errors="replace")), name


def test_the_reference_is_fresh() -> None:
    from hansa import reference

    for name, text in reference.pages().items():
        assert (ROOT / "docs/reference" / name).read_text() == text, f"{name}: run `python -m hansa.reference`"
