"""Where S3 listens: without TLS on loopback, with TLS at the API's address. Free ports are chosen once for a data folder.

Ports that are not given stand in `DIR/s3/ports` from the first start on, so that what clients were told stays true. They
lie below those that the kernel lends to outgoing connections: nobody gets one of them by chance. Light: the supervisor
imports this.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING

from hansa.edge.place import LOOPBACK, Place, bind, names_of, url_of
from hansa.errors import Invalid

if TYPE_CHECKING:
    from hansa.config import Settings

FILE = "ports"
BUNDLE = "ca-bundle.pem"  # as `authority` writes it
FIRST, LAST = 20_000, 32_000
ATTEMPTS = 50
PLAIN, SECURE = "--s3-port", "--s3-tls-port"


@dataclass(frozen=True, slots=True)
class S3Places:
    """`plain` on loopback, `secure` with TLS where the API is."""

    plain: Place
    secure: Place

    def named(self, api: Place) -> Place:
        """Which of them clients are told: the plain one where the API is plain too."""
        return self.secure if api.secure else self.plain

    def url(self, api: Place, public: str = "") -> str:
        """`public` (a setting) goes first."""
        return url_of(self.named(api), public=public)


def places_at(api: Place, plain: int, secure: int) -> S3Places:
    """`plain` and `secure`: ports."""
    host = api.host if api.loopback else LOOPBACK
    return S3Places(Place(host, plain), Place(api.host, secure, secure=True))


def names_for(place: Place, url: str, domains: str) -> tuple[str, ...]:
    """What the certificate of the secure place says: every name and address, and each domain with what is below it."""
    hosts = [word for domain in split(domains) for word in (domain, f"*.{domain}")]
    return tuple(sorted({*names_of(place, url), "localhost", LOOPBACK, *hosts}))


def split(domains: str) -> tuple[str, ...]:
    """`HANSA_S3_DOMAINS`, the longest first: what two of them end is the longer one's."""
    found = {word.strip().lower().strip(".") for word in domains.split(",")} - {""}
    return tuple(sorted(found, key=lambda domain: (-len(domain), domain)))


def variables(settings: Settings, api: Place) -> dict[str, str]:
    """What clients of S3 read in `hansa.env`, their key apart. Nothing where nobody has said yet where S3 is."""
    kept = kept_ports(settings.data)
    plain, secure = settings.s3_port or kept.get("plain"), settings.s3_tls_port or kept.get("secure")
    if plain and secure:
        places = places_at(api, plain, secure)
        url, tls_url = places.url(api, settings.s3_url), url_of(places.secure)
    elif settings.s3_url:
        url = tls_url = settings.s3_url
    else:
        return {}
    found = {"AWS_ENDPOINT_URL_S3": url, "AWS_DEFAULT_REGION": settings.region}
    ours = settings.tls_cert is None or settings.tls_ca is not None
    if url.startswith("https:") and ours:
        found["AWS_CA_BUNDLE"] = str((settings.data / BUNDLE).absolute())
    return found | {"HANSA_S3_TLS_URL": tls_url}


def listeners(
    data: Path, api: Place, plain: int | None, secure: int | None, *, shared: bool = False
) -> tuple[socket.socket, socket.socket]:
    """The two listening sockets. A port of None is the folder's own; one that is taken meanwhile is replaced for good.

    `shared`: other processes of this user may listen there too. Raises Invalid for a given port that cannot be used.
    """
    places = places_at(api, plain or 0, secure or 0)
    kept = kept_ports(data)
    found: list[socket.socket] = []
    for name, given, place, option in (
        ("plain", plain, places.plain, PLAIN), ("secure", secure, places.secure, SECURE),
    ):  # fmt: skip
        try:
            if given is not None:
                found.append(bind(place, shared=shared and given != 0, option=option))
            else:
                found.append(_free(place, kept.get(name, 0), option, shared=shared))
                kept[name] = found[-1].getsockname()[1]
        except Invalid:
            for listener in found:
                listener.close()
            raise
    _keep(data, kept)
    return found[0], found[1]


def kept_ports(data: Path) -> dict[str, int]:
    """`plain` and `secure` of an earlier start; nothing where there was none, or the file says nothing of use."""
    try:
        said = json.loads((data / "s3" / FILE).read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(said, dict):
        return {}
    return {n: p for n in ("plain", "secure") if isinstance(p := said.get(n), int) and 0 < p < 65536}


def _free(place: Place, before: int, option: str, *, shared: bool) -> socket.socket:
    chance = SystemRandom()
    for port in (*([before] if before else []), *(chance.randint(FIRST, LAST) for _ in range(ATTEMPTS))):
        try:
            return bind(replace(place, port=port), shared=shared, option=option)
        except Invalid:
            continue
    raise Invalid(f"no port between {FIRST} and {LAST} is free on {place.host}: give one with {option}")


def _keep(data: Path, ports: dict[str, int]) -> None:
    folder = data / "s3"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if kept_ports(data) != ports:
        spare = folder / f".{FILE}.{os.getpid()}"
        spare.write_text(json.dumps(ports) + "\n")
        spare.replace(folder / FILE)
