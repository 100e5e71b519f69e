"""`hansa s3 keys` against a served cloud."""

from __future__ import annotations

from pathlib import Path

import pytest

from hansa.clock import SystemClock
from hansa.kinds.resource import Key
from hansa.kinds.storage import S3Key, pair_fault

from . import test_console_clients
from .people import IAM
from .test_console_clients import Served

pytestmark = pytest.mark.anyio
served = test_console_clients.served

KEYS = "/storage/v1/projects/demo/s3Keys"


async def test_a_key_is_made_turned_and_ended(served: Served) -> None:
    code, out, errors = await served.run(
        "s3", "keys", "create", "backup", "--account", "robot", "--expires", "90d", "--description", "nightly"
    )
    assert code == 0, errors
    first = dict(line.removeprefix("export ").split("=", 1) for line in out.decode().splitlines())
    assert set(first) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} and b"not shown again" in errors
    bindings = (await served.talk.read(f"{IAM}/projects/demo/roleBindings"))["items"]
    assert [b["spec"]["roles"] for b in bindings if b["metadata"]["id"] == "sa-demo.robot"] == [
        [{"name": "/iam/roles/storageOperator"}]
    ]
    code, out, _ = await served.run("s3", "keys", "list")
    assert first["AWS_ACCESS_KEY_ID"].encode() in out and b"nightly" in out and b"until 20" in out
    assert first["AWS_SECRET_ACCESS_KEY"].encode() not in out
    code, out, errors = await served.run("s3", "keys", "rotate", "backup", "--grace", "30m")
    assert code == 0 and first["AWS_ACCESS_KEY_ID"].encode() not in out, errors
    stored = await served.cloud.store.get(Key("S3Key", "projects/demo", "backup"))
    now = SystemClock().now()
    assert pair_fault(S3Key(stored), first["AWS_ACCESS_KEY_ID"], now + 1700) == ""
    assert pair_fault(S3Key(stored), first["AWS_ACCESS_KEY_ID"], now + 1900) == "the key was replaced"
    code, out, errors = await served.run("s3", "keys", "revoke", "backup", "--reason", "lost")
    assert code == 0 and b"revoked at" in out, errors
    assert b"revoked 20" in (await served.run("s3", "keys", "list"))[1]
    assert (await served.run("s3", "keys", "rotate", "backup"))[0] == 5


async def test_an_encryption_key_is_rotated(served: Served) -> None:
    await served.talk.make("/storage/v1/projects/demo/encryptionKeys", "vault", {})
    code, out, errors = await served.run("s3", "rotate-encryption-key", "vault")
    assert code == 0 and out.startswith(b"vault has material of generation 2 since "), errors
    assert (await served.run("s3", "rotate-encryption-key", "nobody"))[0] != 0


async def test_a_key_is_narrowed(served: Served) -> None:
    only = "/storage/projects/demo/regions/*/buckets/logs"
    words = ("s3", "keys", "create", "logs", "--account", "robot", "--role", "storageObjectCreator", "--for", only)
    code, _, errors = await served.run(*words)
    assert code == 0, errors
    found = await served.talk.read(f"{KEYS}/logs")
    assert found["spec"]["roles"] == [{"name": "/iam/roles/storageObjectCreator", "resources": [only]}]
    code, _, errors = await served.run("s3", "keys", "create", "x", "--account", "robot", "--for", only)
    assert code == 2 and b"--role" in errors
    code, _, errors = await served.run("s3", "keys", "create", "x", "--account", "robot", "--expires", "soon")
    assert code == 1 and b"spec.expiresAt" in errors


async def test_a_pair_from_elsewhere_is_taken_over(served: Served, tmp_path: Path) -> None:
    file, secret = tmp_path / "secret", "h7GhxuBLTrlhVUyxSPUKUV8r/2EI4ngqJxD7iBdBYLhwluN30JaT3Q=="
    file.write_text(secret + "\n")
    words = (
        "s3",
        "keys",
        "import",
        "--access-key",
        "0555b35654ad1656d804",
        "--user-id",
        "testid",
        "--display-name",
        "M. Tester",
    )
    code, out, errors = await served.run(*words, "--secret-key-file", str(file))
    assert code == 0 and b"0555b35654ad1656d804 counts in project demo, as s3-testid" in out, errors
    assert secret.encode() not in out + errors
    it = S3Key(await served.cloud.store.get(Key("S3Key", "projects/demo", "s3-0555b35654ad1656d804")))
    assert (it.user_id, it.display_name, it.status.access_key) == ("testid", "M. Tester", "0555b35654ad1656d804")
    opened = await served.cloud.store.secret(it.uid, it.status.pairs[0].sealed)
    assert opened is not None
    sealer = served.cloud.api.resources.sealer
    assert sealer.open(opened, f"{it.uid}/{it.status.pairs[0].sealed}").decode() == secret
    assert (await served.run(*words, "--secret-key-file", str(file)))[0] == 5, "it is here already"
    words = tuple(w.replace("0555b35654ad1656d804", "OTHER") for w in words)
    code, _, errors = await served.run(*words, "--secret-key-file", "-", typed=secret.encode())
    assert code == 0, errors
    for content in ("", "two words", "x" * 5000):
        file.write_text(content)
        code, _, errors = await served.run(*words, "--secret-key-file", str(file))
        assert code == 1 and b"one secret key and nothing else" in errors
    assert (await served.run(*words, "--secret-key-file", str(tmp_path / "nowhere")))[0] == 1
