"""Values planted wherever a secret may enter, then looked for wherever one must not be: `hansa up` as it is run.

The whole cloud is a process of its own (its hosts are simulated), spoken to by the command line and by HTTP, so that
what it logs, what it keeps and what other programs of the machine can see are those of a real one.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from hansa.sealing import read_keys, write_keys

from ..programs import no_cloud
from .conftest import FLEET

IAM = "/iam/v1beta1"
TOKEN = "/realms/evroc-customer/protocol/openid-connect/token"
USER_DATA = "#cloud-config\n# planted-user-data-7391"
IMPORTED = "planted+imported/secret+key=="
PASSWORD, SECOND, GUESS = "planted first password", "planted second password", "planted wrong guess"
MACHINE = {"computeProfileRef": "c1a.s", "disks": [{"diskRef": "boot", "bootFrom": True}], "placement": {"zone": "a"},
           "running": False, "osSettings": {"cloudInitUserData": USER_DATA}}  # fmt: skip


@dataclass
class Town:
    folder: Path
    url: str = ""
    process: subprocess.Popen[bytes] | None = None
    planted: dict[str, str] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)  # command lines of the machine

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def environment(self, **more: str) -> dict[str, str]:
        home = {"XDG_CONFIG_HOME": str(self.folder / "config"), "XDG_CACHE_HOME": str(self.folder / "cache")}
        return no_cloud(**home, **more)

    def start(self) -> None:
        out = self.folder / "out"
        with out.open("wb") as file, (self.folder / "log").open("ab") as log:
            words = [sys.executable, "-m", "hansa", "up", "--data", str(self.data), "--port", "0"]
            environment = self.environment(
                HANSA_SEAL_KEY_FILE=str(self.folder / "seal"), HANSA_FLEET=str(self.folder / "fleet.yaml")
            )
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=log, env=environment)
        end = time.monotonic() + 60
        while b"ready" not in out.read_bytes():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end, "not ready in time"
            time.sleep(0.05)
        self.url = out.read_text().split()[1]

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0

    def run(self, *words: str, stdin: str = "", code: int = 0, operator: bool = True) -> str:
        """The command line, as the operator or as whoever logged in; it runs where no cloud's folder is."""
        place = ["--data", str(self.data)] if operator else []
        environment = self.environment(HANSA_SEAL_KEY_FILE=str(self.folder / "seal"))
        done = subprocess.run(
            [sys.executable, "-m", "hansa", *words, *place], input=stdin, capture_output=True, text=True, timeout=60,
            env=environment, cwd=self.folder,
        )  # fmt: skip
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        self.answers += [done.stdout, done.stderr]
        return done.stdout

    def call(self, token: str, method: str, path: str, body: Any = None, *, secret: bool = False) -> httpx2.Response:
        """`secret`: this answer is the one place where a secret belongs."""
        with httpx2.Client(base_url=self.url) as http:
            answer = http.request(method, path, json=body, headers={"Authorization": f"Bearer {token}"})
        if not secret:
            self.answers.append(answer.text)
        return answer

    def trade(self, **form: str) -> dict[str, Any]:
        with httpx2.Client(base_url=self.url) as http:
            answer = http.post(TOKEN, data={"client_id": "evroc-cli", **form})
        found: dict[str, Any] = answer.json()
        return found

    def watch(self, stop: threading.Event) -> None:
        while not stop.wait(0.01):
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    with contextlib.suppress(OSError):
                        self.seen.add((entry / "cmdline").read_bytes().decode(errors="replace"))


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    it = Town(tmp_path)
    write_keys(tmp_path / "seal", [os.urandom(32)])
    (tmp_path / "fleet.yaml").write_text(yaml.safe_dump(FLEET.model_dump(mode="json", by_alias=True)))
    it.start()
    stop = threading.Event()
    watching = threading.Thread(target=it.watch, args=(stop,))
    watching.start()
    yield it
    stop.set()
    watching.join()
    if it.process is not None and it.process.poll() is None:
        it.process.kill()
        it.process.wait()


def plant(town: Town) -> None:
    """A secret of every sort comes in, and things go wrong with some of them."""
    environment = dict(
        line.removeprefix("export ").split("=", 1)
        for line in (town.data / "hansa.env").read_text().splitlines()
        if "=" in line
    )
    refresh = environment["HANSA_REFRESH_TOKEN"].strip("'")
    operator = town.trade(grant_type="refresh_token", refresh_token=refresh)["access_token"]
    at = "/compute/v1beta2/projects/demo/regions/se-sto"
    disk = {"metadata": {"id": "boot"}, "spec": {"diskSize": {"amount": 1, "unit": "GB"}, "placement": {"zone": "a"}}}
    assert town.call(operator, "POST", f"{at}/disks", disk).status_code == 201
    machine = {"metadata": {"id": "vm"}, "spec": MACHINE}
    assert town.call(operator, "POST", f"{at}/virtualMachines", machine, secret=True).status_code == 201
    assert town.call(operator, "POST", f"{at}/virtualMachines", machine).status_code == 409

    town.run("iam", "user", "add", "ada@example.com", "--password-stdin", stdin=f"{PASSWORD}\n")
    town.run("iam", "grant", "ada@example.com", "computeViewer")
    town.run("login", town.url, "--user", "ada@example.com", "--password-stdin", stdin=f"{PASSWORD}\n", operator=False)
    town.run(
        "login", town.url, "--user", "ada@example.com", "--password-stdin", stdin=f"{GUESS}\n", operator=False, code=6
    )
    town.trade(grant_type="password", username=GUESS, password=GUESS)  # typed into the wrong field
    ada = town.trade(grant_type="password", username="ada@example.com", password=PASSWORD)
    again = town.trade(grant_type="refresh_token", refresh_token=ada["refresh_token"])
    for path in (f"{at}/virtualMachines", f"{at}/virtualMachines/vm", f"{at}/virtualMachines/vm/why", f"{at}/virtualMachines/vm/events",
                 "/events/v1/projects/demo", f"{IAM}/me", f"{at}/virtualMachines/vm?x={GUESS}"):  # fmt: skip
        assert town.call(ada["access_token"], "GET", path).status_code == 200, path
    assert (
        town.call(
            ada["access_token"], "POST", f"{at}/virtualMachines", {**machine, "metadata": {"id": "w"}}
        ).status_code
        == 403
    )
    own = {"current": PASSWORD, "password": SECOND}
    assert town.call(ada["access_token"], "POST", f"{IAM}/me/password", own).status_code == 200

    accounts = f"{IAM}/projects/demo/serviceAccounts"
    assert town.call(operator, "POST", accounts, {"metadata": {"id": "ci"}, "spec": {}}).status_code == 201
    key = {
        "accountRef": {"fqid": "/iam/projects/demo/serviceAccounts/ci"},
        "type": "rs256-jwt",
        "expiresAt": "2030-01-01T00:00:00Z",
    }
    made = town.call(
        operator,
        "POST",
        f"{accounts}/ci/serviceAccountCredentials",
        {"metadata": {"id": "k"}, "spec": key},
        secret=True,
    )
    private = made.json()["status"]["privateKeyJwk"]
    for path in (accounts, f"{accounts}/ci/serviceAccountCredentials", f"{accounts}/ci/serviceAccountCredentials/k",
                 f"{IAM}/organizations/{environment['HANSA_ORGANIZATION'].strip(chr(39))}/users", f"{at}/virtualMachines/vm/why",
                 "/audit/v1/projects/demo/records?limit=1000", "/openapi.json"):  # fmt: skip
        shown = town.call(operator, "GET", path, secret=path.endswith("/why"))
        assert shown.status_code == 200, path
    town.run("audit", "--whole", "-o", "json")
    pairs = plant_pairs(town, operator)

    town.planted = {
        "user data": "planted-user-data-7391",
        "user data, encoded": base64.b64encode(USER_DATA.encode()).decode()[:40],
        "password": PASSWORD,
        "new password": SECOND,
        "wrong guess": GUESS,
        "a hash of a password": "$argon2id$",
        "refresh token": refresh.split(".")[-1],
        "login": ada["refresh_token"].split(".")[-1],
        "rotated login": again["refresh_token"].split(".")[-1],
        "access token": ada["access_token"].split(".")[-1],
        "operator's access token": operator.split(".")[-1],
        "the operator's key": environment["EVROC_SERVICE_ACCOUNT_SECRET"].strip("'"),
        "key of a service account": json.loads(base64.b64decode(private))["d"],
        "key of a service account, encoded": private[:60],
        "the operator's key of S3": environment["AWS_SECRET_ACCESS_KEY"].strip("'"),
        **pairs,
        **{f"sealing key {n}": base64.b64encode(k).decode() for n, k in enumerate(read_keys(town.folder / "seal"))},
    }


def plant_pairs(town: Town, operator: str) -> dict[str, str]:
    """Keys of S3: of a project, turned once; brought from elsewhere; of an account for one bucket."""
    storage, region = "/storage/v1/projects/demo", "/storage/v1/projects/demo/regions/se-sto"
    spec: dict[str, Any] = {"serviceAccountRef": "/iam/projects/demo/serviceAccounts/ci"}
    key = {"metadata": {"id": "k"}, "spec": spec}
    made = town.call(operator, "POST", f"{storage}/s3Keys", key, secret=True).json()["status"]
    turned = town.call(operator, "POST", f"{storage}/s3Keys/k/rotate", {}, secret=True).json()["status"]
    pair = {"accessKeyID": "planted", "secretAccessKey": IMPORTED, "userId": "elsewhere"}
    brought = {"metadata": {"id": "b"}, "spec": {**spec, "imported": pair}}
    assert town.call(operator, "POST", f"{storage}/s3Keys", brought).status_code == 201
    assert town.call(operator, "POST", f"{storage}/s3Keys", brought).status_code == 409
    assert (
        town.call(operator, "POST", f"{region}/buckets", {"metadata": {"id": "planted"}, "spec": {}}).status_code == 201
    )
    account = {"metadata": {"id": "app"}, "spec": {"buckets": ["planted"]}}
    name = town.call(operator, "POST", f"{region}/bucketServiceAccounts", account).json()["status"][
        "s3CredentialsSecretName"
    ]
    read = town.call(operator, "GET", f"{region}/bucketServiceAccountSecrets/{name}", secret=True).json()["data"]
    assert town.call(operator, "POST", f"{region}/bucketServiceAccounts/app/rotate", {}).status_code == 200
    key_of_bytes = {"metadata": {"id": "own"}, "spec": {}}
    assert town.call(operator, "POST", f"{storage}/encryptionKeys", key_of_bytes).status_code == 201
    for path in ("s3Keys", "s3Keys/k", "s3Keys/k/why", "s3Keys/k/events", "encryptionKeys/own"):
        assert town.call(operator, "GET", f"{storage}/{path}").status_code == 200, path
    for path in ("bucketServiceAccounts/app", f"bucketServiceAccountSecrets/{name}/why", "buckets/planted"):
        assert town.call(operator, "GET", f"{region}/{path}").status_code == 200, path
    return {
        "key of S3": made["secretAccessKey"], "turned key of S3": turned["secretAccessKey"],
        "imported key of S3": IMPORTED, "key of a bucket account": read["secretAccessKey"],
    }  # fmt: skip


def where_planted(town: Town, *, allowed: tuple[str, ...]) -> list[str]:
    """Every file of the cloud, and everything that it said, in which a planted value stands."""
    places: dict[str, bytes] = {"answers": "\n".join(town.answers).encode(), "command lines": "\n".join(town.seen).encode(),
                                "log": (town.folder / "log").read_bytes(), "output": (town.folder / "out").read_bytes()}  # fmt: skip
    for file in town.data.rglob("*"):
        if file.is_file() and file.name not in allowed:
            places[str(file.relative_to(town.folder))] = file.read_bytes()
    return [
        f"{what} in {place}"
        for place, content in places.items()
        for what, value in town.planted.items()
        if value.encode() in content
    ]


def test_no_planted_secret_is_found_where_it_must_not_be(town: Town) -> None:
    plant(town)
    # these two files are the operator's way in, readable by them alone
    own = ("hansa.env", "evroc.yaml")
    assert where_planted(town, allowed=own) == []
    assert "planted-user-data" not in "\n".join(town.seen)
    assert any("hansa" in words and "login" in words for words in town.seen), "the search of command lines sees ours"
    found = where_planted(town, allowed=())
    assert {w.rpartition("/")[2] for w in found} == set(own), "the search finds what is there"
    for name in (*own, "hansa.db"):
        assert (town.data / name).stat().st_mode & 0o077 == 0, name
    sealing = town.planted["sealing key 0"]
    signing = (town.data / "keys" / "signing-1.jwk").read_text()
    assert '"d"' not in signing and sealing not in signing

    before = read_keys(town.folder / "seal")
    assert "sealed anew" in town.run("seal", "rotate")
    after = read_keys(town.folder / "seal")
    assert after[0] == before[0] and len(after) == 2
    assert "0 of them under an older key" in town.run("seal", "status")
    form = {"grant_type": "password", "username": "ada@example.com", "password": SECOND}
    assert "access_token" in town.trade(**form), "the running cloud goes on with the new key"
    town.stop()
    write_keys(town.folder / "seal", after[-1:])  # the old key is really not needed any more
    town.start()
    assert "access_token" in town.trade(**form)
    operator = town.run("get", "vm", "vm", "-o", "yaml")
    assert "planted-user-data-7391" in operator, "who may update a machine reads its user data"
    assert where_planted(town, allowed=own) == ["user data in answers"]
    assert (town.data / "hansa.db").stat().st_size > 0
    town.stop()


def test_the_command_line_of_a_person(town: Town) -> None:
    town.run("iam", "user", "add", "ada@example.com", "--name", "Ada", "--password-stdin", stdin=f"{PASSWORD}\n")
    assert "ada@example.com  Ada" in town.run("iam", "user", "list")
    who = ("login", town.url, "--user", "ada@example.com", "--password-stdin")
    assert "logged in" in town.run(*who, stdin=f"{PASSWORD}\n", operator=False)
    kept = town.folder / "config" / "hansa" / "login.json"
    assert kept.stat().st_mode & 0o777 == 0o600 and PASSWORD not in kept.read_text()
    assert "no role anywhere" in town.run("iam", "whoami", operator=False)
    assert "is computeOperator" in town.run("iam", "grant", "ada@example.com", "computeOperator")
    assert "project demo" in town.run(*who, stdin=f"{PASSWORD}\n", operator=False)
    assert "computeOperator  /iam/projects/demo" in town.run("iam", "whoami", operator=False)
    assert town.run("iam", "can", "delete", "vm/web-1", operator=False).startswith("yes")
    assert town.run("iam", "can", "console", "vm/web-1", operator=False, code=6).startswith("no")
    assert town.run("iam", "can", "create", "subnet", "--as", "ada@example.com", code=6).startswith("no")
    assert "ada@example.com  computeOperator" in town.run("iam", "bindings")
    assert "compute.disks.create" in town.run("iam", "roles", "computeOperator")
    assert "kubernetesCSIAgent" in town.run("iam", "roles")
    ref = town.run("iam", "whoami", operator=False).splitlines()[0]
    town.run("iam", "grant", ref, "projectOwner", operator=False, code=6)
    refused = town.run("audit", "--outcome", "refused", "--since", "1h")
    assert "refused (Forbidden)" in refused and ref in refused
    assert "no role on projects/demo any more" in town.run("iam", "revoke", "ada@example.com", "computeOperator")
    town.run("iam", "user", "add", "bob@example.com", "--password-stdin", stdin=f"{PASSWORD}\n")
    bob = ("login", town.url, "--user", "bob@example.com", "--password-stdin")
    town.run(*bob, stdin=f"{PASSWORD}\n", operator=False)
    assert ref not in town.run("iam", "whoami", operator=False), "no token of an earlier login is used"
    town.run(*who, stdin=f"{PASSWORD}\n", operator=False)
    assert ref in town.run("iam", "whoami", operator=False)
    tokens = set()
    for _ in range(3):  # each use replaces the token that is kept, and the file stays whole and private
        shutil.rmtree(town.folder / "cache")
        assert ref in town.run("iam", "whoami", operator=False)
        tokens.add(json.loads(kept.read_text())["HANSA_REFRESH_TOKEN"])
        assert kept.stat().st_mode & 0o777 == 0o600 and len(list(kept.parent.iterdir())) == 1
    assert len(tokens) == 3
    passwords = f"{PASSWORD}\n{SECOND}\n"
    assert "changed" in town.run("iam", "user", "passwd", "--password-stdin", stdin=passwords, operator=False)
    assert "disabled" in town.run("iam", "user", "disable", "ada@example.com")
    town.run(*who, stdin=f"{SECOND}\n", operator=False, code=6)
    town.run("iam", "user", "enable", "ada@example.com")
    town.run(*who, stdin=f"{SECOND}\n", operator=False)
    town.run("login", "--out", operator=False)
    assert not kept.exists()
    town.run("iam", "whoami", operator=False, code=2)
    town.stop()
