"""Where the API listens, and how clients are told to reach it. An address, never a name: a name can move."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from hansa.errors import Invalid

LOOPBACK = "127.0.0.1"
BACKLOG = 1024
_PLAIN = "plain HTTP is spoken on loopback only: elsewhere it would carry tokens in the clear; leave http:// away"


@dataclass(frozen=True, slots=True)
class Place:
    """An address of this machine (`0.0.0.0` and `::`: all of them) and a port; 0 takes a free one."""

    host: str
    port: int
    secure: bool = False

    @property
    def loopback(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def everywhere(self) -> bool:
        return ipaddress.ip_address(self.host).is_unspecified

    @property
    def own(self) -> str:
        """The address under which this machine reaches it."""
        return ("::1" if ":" in self.host else LOOPBACK) if self.everywhere else self.host

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}"


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def place_of(listen: str, port: int) -> Place:
    """`ADDR`, `ADDR:PORT`, `[V6]`, `[V6]:PORT`; empty: loopback. TLS off loopback, and with `https://` before it.
    Raises Invalid naming `listen`."""
    scheme, separator, rest = listen.strip().rpartition("://")
    if separator and scheme not in ("http", "https"):
        raise Invalid.field("listen", f"{scheme}:// is not spoken here: ADDR[:PORT], or https://ADDR[:PORT]")
    host, given = _split(rest or LOOPBACK)
    host = LOOPBACK if host == "localhost" else host
    try:
        ipaddress.ip_address(host)
    except ValueError:
        text = f"{host!r} is no address: give one of this machine, 0.0.0.0 or ::"
        raise Invalid.field("listen", text) from None
    if given and not (given.isascii() and given.isdigit() and int(given) < 65536):
        raise Invalid.field("listen", f"{given!r} is no port")
    place = Place(host, int(given) if given else port)
    if scheme == "http" and not place.loopback:
        raise Invalid.field("listen", _PLAIN)
    return replace(place, secure=scheme == "https" or not place.loopback)


def _split(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    if text.count(":") > 1:  # a bare IPv6 address
        return text, ""
    host, _, port = text.partition(":")
    return host, port


def bind(place: Place, *, shared: bool = False, option: str = "--port") -> socket.socket:
    """A listening socket that does not block. `shared`: other processes of this user may listen there too, and the
    kernel gives each a part of what comes. Raises Invalid saying why the place cannot be used; `option` names another."""
    listener = socket.socket(socket.AF_INET6 if ":" in place.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if ":" in place.host:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not place.everywhere))
        listener.bind((place.host, place.port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        text = f"port {place.port} on {place.host} cannot be used: {error.strerror}; give another {option}"
        raise Invalid(text) from error
    return listener


def url_of(place: Place, *, public: str = "") -> str:
    """The URL that clients are given. `public` (a setting) goes first; all addresses: the one of the way out."""
    if public:
        return public.rstrip("/")
    host = way_out(six=":" in place.host) if place.everywhere else place.host
    return f"{'https' if place.secure else 'http'}://{bracketed(host)}:{place.port}"


def check_public(url: str, *, secure: bool) -> None:
    """Raises Invalid for a public URL that no client could use."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise Invalid.field("url", "is https://HOST[:PORT][/PATH]")
    if parts.scheme == "http" and secure:
        raise Invalid.field("url", "begins with https://, as this place speaks TLS")


def way_out(*, six: bool = False) -> str:
    """This machine's address towards the rest of the world, as its routes have it; loopback without a route.
    No packet is sent."""
    family, far = (socket.AF_INET6, "2001:db8::1") if six else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((far, 9))
        except OSError:
            return "::1" if six else LOOPBACK
        return str(probe.getsockname()[0])


def names_of(place: Place, url: str) -> tuple[str, ...]:
    """Every name and address under which clients may reach the place: what its certificate must say."""
    own = (*local_addresses(), "localhost") if place.everywhere else (place.host,)
    told = urlsplit(url).hostname
    names = {*own, socket.gethostname().lower(), *([told] if told else ())}
    return tuple(sorted(name for name in names if name))


def local_addresses() -> tuple[str, ...]:
    """Addresses of this machine's interfaces, without those that mean something on one link only."""
    found = {LOOPBACK, "::1", *_four(), *_six()}
    return tuple(sorted(a for a in found if not ipaddress.ip_address(a).is_link_local))


def _four() -> set[str]:
    """From the kernel's routes: what is marked as `host LOCAL` there."""
    found, last = set(), ""
    for line in _lines("/proc/net/fib_trie"):
        if line.startswith("|-- "):
            last = line[4:]
        elif line.startswith("/32 host LOCAL"):
            found.add(last)
    return found


def _six() -> set[str]:
    return {str(ipaddress.IPv6Address(bytes.fromhex(line[:32]))) for line in _lines("/proc/net/if_inet6")}


def _lines(path: str) -> list[str]:
    try:
        return [line.strip() for line in Path(path).read_text().splitlines()]
    except OSError:
        return []
