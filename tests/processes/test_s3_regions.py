"""Copies between two regions that both have stores, in a cloud as `hansa up` runs it, and what a policy does about them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hansa.errors import HansaError
from hansa.sdk.client import Client
from hansa.sdk.s3 import S3, Endpoint
from hansa.sdk.s3sign import Pair

from .test_supervisor import lives, until
from .test_up import Up, children

PATIENCE_S = 90  # a lease of a killed process lasts a minute
STATUS = "x-amz-replication-status"
TAGS = "<Tagging><TagSet><Tag><Key>kind</Key><Value>{}</Value></Tag></TagSet></Tagging>"


class Regions:
    """A bucket `kept` in Stockholm, and `copies` in Paris."""

    def __init__(self, up: Up) -> None:
        self.up, self.process = up, up.ready()
        self.client = Client.from_environment(up.data)
        endpoint = Endpoint.from_environment(up.data)
        pair = endpoint.pair
        self.home = S3(endpoint)
        self.away = S3(Endpoint(endpoint.url, Pair(pair.access_key, pair.secret_key, "fr-par")))
        self.client.at(region="fr-par").create("bucket", "copies", {"objectRetentionMode": "Locking"})
        rule = {"id": "all", "destination": {"bucket": "copies", "region": "fr-par"}, "deleteMarkers": True}
        self.client.create("bucket", "kept", {"objectRetentionMode": "Locking", "replication": {"rules": [rule]}})

    def close(self) -> None:
        self.client.close()
        self.home.close()
        self.away.close()

    def status(self, key: str) -> str:
        return self.home.head("kept", key)[STATUS]

    def tag(self, key: str, value: str) -> None:
        self.home.send("PUT", "kept", key, query=[("tagging", "")], body=TAGS.format(value).encode())

    def tags_of_copy(self, key: str) -> str:
        return self.away.send("GET", "copies", key, query=[("tagging", "")]).body.decode()

    def has_copy(self, key: str) -> bool:
        try:
            return self.away.head("copies", key)[STATUS] == "REPLICA"
        except HansaError as error:
            assert error.status == 404
            return False

    def log(self) -> str:
        return (self.up.said("out") + self.up.said("err")).decode()


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[Regions]:
    up = Up(tmp_path)
    up.settings = {"HANSA_S3_REGIONS": "se-sto,fr-par", "HANSA_S3_PROCESSES": "2"}
    made = Regions(up)
    yield made
    made.close()
    for process in up.processes:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def test_copies_and_their_changes_reach_the_other_region_whoever_dies(regions: Regions) -> None:
    body = os.urandom(3 << 20)
    regions.home.put("kept", "film", body)
    until(lambda: regions.status("film") == "COMPLETED", PATIENCE_S)
    assert regions.away.get("copies", "film") == body
    assert regions.client.at(region="fr-par").get("bucket", "copies")["metadata"]["region"] == "fr-par"
    for number, gateway in enumerate(children(regions.process.pid)[1:3]):
        regions.tag("film", f"tagged-{number}")
        os.kill(gateway, signal.SIGKILL)
        until(lambda gone=gateway: not lives(gone))
    regions.home.send(
        "PUT", "kept", "film", query=[("legal-hold", "")], body=b"<LegalHold><Status>ON</Status></LegalHold>"
    )
    until(lambda: regions.status("film") == "COMPLETED", PATIENCE_S)
    assert "tagged-1" in regions.tags_of_copy("film")
    assert regions.away.head("copies", "film")["x-amz-object-lock-legal-hold"] == "ON"
    regions.home.delete("kept", "film")
    until(lambda: not regions.has_copy("film"), PATIENCE_S)
    assert [seen.key for seen in regions.away.objects("copies")] == []


def test_a_policy_that_came_later_stops_copies_and_says_why(regions: Regions) -> None:
    regions.home.put("kept", "before", b"x")
    until(lambda: regions.status("before") == "COMPLETED", PATIENCE_S)
    regions.client.create("sovereigntyPolicy", "home-only", {"territories": ["SE"]})
    regions.home.put("kept", "after", b"x")
    regions.tag("before", "secret")
    for key in ("after", "before"):
        until(lambda key=key: regions.status(key) == "FAILED", PATIENCE_S)
    assert not regions.has_copy("after") and "secret" not in regions.tags_of_copy("before")
    assert "may not be copied to copies" in regions.log() and "allows only SE" in regions.log()
    change = {
        "spec": {"replication": {"rules": [{"id": "x", "destination": {"bucket": "copies", "region": "fr-par"}}]}}
    }
    with pytest.raises(HansaError, match="allows only SE"):
        regions.client.patch("bucket", "kept", change)
