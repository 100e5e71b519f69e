"""What a process that serves the API stands on: its place, its certificates, its URL."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from hansa.api.caller import issuer_of
from hansa.clock import Clock
from hansa.config import Settings
from hansa.edge import authority
from hansa.edge.place import Place, bracketed, check_public, names_of, place_of, url_of
from hansa.edge.tls import Certificates
from hansa.errors import Invalid

Trust = dict[str, str]  # variables for clients


@dataclass(frozen=True, slots=True)
class Front:
    """`trust`: variables that let clients know the certificate; `audiences`: other URLs of the same place."""

    place: Place
    url: str
    certificates: Certificates | None
    trust: Trust
    names: Callable[[], tuple[str, ...]]

    def known_to(self, settings: Settings) -> Settings:
        """The settings, with every name of this place among the audiences that a service account may mean."""
        scheme = "https" if self.place.secure else "http"
        urls = [f"{scheme}://{bracketed(name)}:{self.place.port}" for name in self.names()]
        more = [f"{issuer_of(url)}/protocol/openid-connect/token" for url in urls]
        return settings.model_copy(update={"audiences": ",".join(filter(None, (settings.audiences, *more)))})


def front_of(settings: Settings, listener: socket.socket, clock: Clock) -> Front:
    """Certificates are there when it returns. Raises Invalid naming the setting that is wrong."""
    place = replace(place_of(settings.listen, settings.port), port=listener.getsockname()[1])
    given = settings.tls_cert is not None or settings.tls_key is not None
    place = replace(place, secure=place.secure or given)
    if settings.url:
        check_public(settings.url, secure=place.secure)
    url = url_of(place, public=settings.url)
    names = partial(names_of, place, url)
    if not place.secure:
        return Front(place, url, None, {}, names)
    if not given:
        certificates = Certificates.of_authority(settings.data, names, clock)
        return Front(place, url, certificates, _trust(settings.data / authority.PUBLIC, settings.data), names)
    if settings.tls_cert is None or settings.tls_key is None:
        raise Invalid.field(
            "tls_cert" if settings.tls_cert is None else "tls_key", "goes with the other one: give both"
        )
    certificates = Certificates.of_files(settings.tls_cert, settings.tls_key)
    trust: Trust = {}
    if settings.tls_ca is not None:
        try:
            authority.publish(settings.data, settings.tls_ca.read_bytes())
        except (OSError, ValueError) as error:
            raise Invalid.field("tls_ca", f"{settings.tls_ca} cannot be read: {error}") from error
        trust = _trust(settings.data / authority.PUBLIC, settings.data)
    return Front(place, url, certificates, trust, names)


def _trust(ca: Path, folder: Path) -> Trust:
    """For our own clients, and for those that add to what they know, the authority alone; for those that know one file for
    all servers, the system's too."""
    alone, bundle = str(ca.absolute()), str((folder / authority.BUNDLE).absolute())
    whole = dict.fromkeys(("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"), bundle)
    return {"HANSA_CA_FILE": alone, "NODE_EXTRA_CA_CERTS": alone, **whole}
