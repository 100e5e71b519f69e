"""The places of S3: ports that stay, what clients are told, names in the certificate."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from hansa.config import Settings
from hansa.edge.place import place_of
from hansa.edge.s3 import FIRST, LAST, kept_ports, listeners, names_for, places_at, split, variables
from hansa.errors import Invalid

LOOPBACK = place_of("", 8080)


def ports(pair: tuple[socket.socket, socket.socket]) -> tuple[int, int]:
    found = pair[0].getsockname()[1], pair[1].getsockname()[1]
    for each in pair:
        each.close()
    return found


def test_ports_that_nobody_names_are_chosen_once(tmp_path: Path) -> None:
    first = ports(listeners(tmp_path, LOOPBACK, None, None))
    assert all(FIRST <= port <= LAST for port in first) and len(set(first)) == 2
    assert ports(listeners(tmp_path, LOOPBACK, None, None)) == first
    assert kept_ports(tmp_path) == dict(zip(("plain", "secure"), first, strict=True))


def test_one_that_is_taken_meanwhile_is_replaced_for_good(tmp_path: Path) -> None:
    plain, secure = ports(listeners(tmp_path, LOOPBACK, None, None))
    with socket.create_server(("127.0.0.1", plain)):
        moved = ports(listeners(tmp_path, LOOPBACK, None, None))
    assert moved[0] != plain and moved[1] == secure
    assert ports(listeners(tmp_path, LOOPBACK, None, None)) == moved


def test_a_given_port_is_that_one_or_none(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Invalid, match="give another --s3-tls-port"):
            listeners(tmp_path, LOOPBACK, None, port)
    assert ports(listeners(tmp_path, LOOPBACK, None, port))[1] == port
    assert "secure" not in kept_ports(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"plain": 0}', '{"plain": "x", "secure": 70000}'])
def test_a_file_of_no_use_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "s3").mkdir()
    (tmp_path / "s3/ports").write_text(text)
    assert kept_ports(tmp_path) == {}
    assert all(ports(listeners(tmp_path, LOOPBACK, None, None)))


def test_without_tls_it_is_on_loopback_wherever_the_api_is() -> None:
    places = places_at(place_of("0.0.0.0", 8443), 1, 2)
    assert (places.plain.host, places.plain.secure) == ("127.0.0.1", False)
    assert (places.secure.host, places.secure.secure) == ("0.0.0.0", True)


def test_clients_are_told_the_place_that_is_like_the_apis(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, s3_port=8333, s3_tls_port=8334)
    assert variables(settings, LOOPBACK) == {
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:8333", "AWS_DEFAULT_REGION": "se-sto",
        "HANSA_S3_TLS_URL": "https://127.0.0.1:8334",
    }  # fmt: skip
    far = variables(settings, place_of("https://127.0.0.1", 8080))
    assert far["AWS_ENDPOINT_URL_S3"] == "https://127.0.0.1:8334" and far["AWS_CA_BUNDLE"].endswith("ca-bundle.pem")
    public = settings.model_copy(update={"s3_url": "https://s3.example.org"})
    assert variables(public, LOOPBACK)["AWS_ENDPOINT_URL_S3"] == "https://s3.example.org"
    assert variables(Settings(data=tmp_path), LOOPBACK) == {}
    (tmp_path / "s3").mkdir()
    (tmp_path / "s3/ports").write_text(json.dumps({"plain": 1, "secure": 2}))
    assert variables(Settings(data=tmp_path), LOOPBACK)["AWS_ENDPOINT_URL_S3"] == "http://127.0.0.1:1"


def test_the_certificate_names_what_buckets_may_be_called_by() -> None:
    names = names_for(places_at(LOOPBACK, 1, 2).secure, "https://127.0.0.1:2", "s3.localhost, S3.Example.org.")
    assert {"localhost", "127.0.0.1", "s3.localhost", "*.s3.localhost", "*.s3.example.org"} <= set(names)
    assert split("localhost,s3.localhost") == ("s3.localhost", "localhost")
