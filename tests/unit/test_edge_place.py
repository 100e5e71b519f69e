"""Where the API may listen, and what a data folder's own authority vouches for."""

from __future__ import annotations

import ipaddress
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from hansa.edge import authority
from hansa.edge.door import address_of
from hansa.edge.place import Place, check_public, local_addresses, names_of, place_of, url_of
from hansa.edge.tls import Certificates
from hansa.errors import Invalid

NOW = datetime(2026, 11, 26, tzinfo=UTC).timestamp()
DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("listen", "place"),
    [
        ("", Place("127.0.0.1", 8080)),
        ("localhost:1", Place("127.0.0.1", 1)),
        ("http://127.0.0.2", Place("127.0.0.2", 8080)),
        ("https://127.0.0.1:8443", Place("127.0.0.1", 8443, secure=True)),
        ("0.0.0.0", Place("0.0.0.0", 8080, secure=True)),
        ("10.1.2.3:443", Place("10.1.2.3", 443, secure=True)),
        ("::", Place("::", 8080, secure=True)),
        ("[2001:db8::1]:443", Place("2001:db8::1", 443, secure=True)),
        ("[::1]", Place("::1", 8080)),
    ],
)
def test_a_place_is_an_address_with_a_port(listen: str, place: Place) -> None:
    assert place_of(listen, 8080) == place


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        ("http://0.0.0.0", "plain HTTP is spoken on loopback only"),
        ("http://10.0.0.1:80", "plain HTTP is spoken on loopback only"),
        ("ftp://10.0.0.1", "ftp:// is not spoken here"),
        ("example.test", "is no address"),
        ("127.0.0.1:http", "is no port"),
        ("127.0.0.1:65536", "is no port"),
    ],
)
def test_another_place_is_refused_with_the_rule(listen: str, said: str) -> None:
    with pytest.raises(Invalid, match=said) as error:
        place_of(listen, 8080)
    assert error.value.fields[0].path == "listen"


def test_clients_are_given_an_address_that_they_can_reach() -> None:
    assert url_of(Place("10.1.2.3", 443, secure=True)) == "https://10.1.2.3:443"
    assert url_of(Place("2001:db8::1", 8443, secure=True)) == "https://[2001:db8::1]:8443"
    assert url_of(Place("0.0.0.0", 1, secure=True), public="https://cloud.test/") == "https://cloud.test"
    told = url_of(Place("0.0.0.0", 8443, secure=True)).removeprefix("https://").removesuffix(":8443")
    assert told in local_addresses()
    for wrong in ("cloud.test", "https://", "https://a/?b", "http://cloud.test"):
        with pytest.raises(Invalid):
            check_public(wrong, secure=True)


def test_a_certificate_for_everywhere_names_every_address() -> None:
    names = names_of(Place("0.0.0.0", 1, secure=True), "https://cloud.test:1")
    assert {"127.0.0.1", "::1", "localhost", "cloud.test"} <= set(names)
    assert not any(n.startswith("fe80") for n in names)


def test_addresses_count_as_they_are_given_out() -> None:
    assert address_of("192.0.2.7") == address_of("::ffff:192.0.2.7") == "192.0.2.7"
    assert address_of("2001:db8:0:1::1") == address_of("2001:db8:0:1:ffff::2") != address_of("2001:db8:0:2::1")
    assert address_of("fe80::1%eth0") == "fe80::/64"


def leaf_of(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def test_a_leaf_is_kept_while_it_serves(tmp_path: Path) -> None:
    file, new = authority.ensure(tmp_path, ["10.0.0.1", "cloud.test"], NOW)
    assert new and authority.names_in(leaf_of(file)) == {"10.0.0.1", "cloud.test"}
    serial = leaf_of(file).serial_number
    assert authority.ensure(tmp_path, ["10.0.0.1"], NOW + 59 * DAY_S) == (file, False)
    assert leaf_of(file).serial_number == serial


@pytest.mark.parametrize(
    ("names", "later_days"),
    [(["10.0.0.1"], 61), (["10.0.0.1"], 5000), (["10.0.0.1"], -2), (["10.0.0.2"], 0), (["::1", "10.0.0.1"], 1)],
)
def test_a_leaf_is_renewed_before_it_ends_and_when_a_name_is_missing(
    tmp_path: Path, names: list[str], later_days: int
) -> None:
    file, _ = authority.ensure(tmp_path, ["10.0.0.1"], NOW)
    later = NOW + later_days * DAY_S
    assert authority.ensure(tmp_path, names, later) == (file, True)
    fresh = leaf_of(file)
    assert set(names) == authority.names_in(fresh)
    assert fresh.not_valid_after_utc - datetime.fromtimestamp(later, UTC) >= timedelta(days=30)
    fresh.verify_directly_issued_by(x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes()))


def test_what_is_broken_is_made_anew(tmp_path: Path) -> None:
    file, _ = authority.ensure(tmp_path, ["10.0.0.1"], NOW)
    file.write_text(file.read_text()[:300])
    assert authority.ensure(tmp_path, ["10.0.0.1"], NOW) == (file, True)
    (tmp_path / "keys" / "ca.pem").write_text("no key")
    assert authority.ensure(tmp_path, ["10.0.0.1"], NOW) == (file, True)
    leaf_of(file).verify_directly_issued_by(x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes()))


def test_keys_are_their_owners_alone(tmp_path: Path) -> None:
    authority.ensure(tmp_path, ["10.0.0.1"], NOW)
    for name in ("ca.pem", "tls.pem"):
        assert stat.S_IMODE((tmp_path / "keys" / name).stat().st_mode) == 0o600
    assert b"PRIVATE" not in (tmp_path / "ca.pem").read_bytes() + (tmp_path / "ca-bundle.pem").read_bytes()


def test_the_authority_signs_nothing_but_leaves(tmp_path: Path) -> None:
    file, _ = authority.ensure(tmp_path, ["10.0.0.1", str(ipaddress.ip_address("::1"))], NOW)
    root = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    basic = root.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert basic.ca and basic.path_length == 0
    assert not leaf_of(file).extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_an_operators_certificate_must_fit_its_key(tmp_path: Path) -> None:
    one, _ = authority.ensure(tmp_path / "a", ["10.0.0.1"], NOW)
    other, _ = authority.ensure(tmp_path / "b", ["10.0.0.1"], NOW)
    assert isinstance(Certificates.of_files(one, one).context, ssl.SSLContext)
    for certificate, key in ((one, other), (tmp_path / "none.pem", one), (tmp_path / "a" / "ca.pem", one)):
        with pytest.raises(Invalid, match="cannot be used") as error:
            Certificates.of_files(certificate, key)
        assert error.value.fields[0].path == "tls_cert"
