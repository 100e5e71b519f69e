"""The TLS of the API: certificates of the operator's, or of the data folder's own authority; renewed while it serves.

A renewed certificate counts for the next handshake; no connection is cut for it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from hansa.clock import Clock
from hansa.edge import authority
from hansa.errors import Invalid, Retry

log = structlog.get_logger("hansa.edge")
LOOK_S = 60.0  # how often certificates and addresses are looked at


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    return context


@dataclass(slots=True)
class Certificates:
    """What is shown to clients. `look` gives (certificate chain, key); the key None: it is in the same file."""

    look: Callable[[], tuple[Path, Path | None]]
    context: ssl.SSLContext = field(default_factory=_context)
    _stamp: tuple[float, ...] = ()

    @classmethod
    def of_files(cls, certificate: Path, key: Path) -> Certificates:
        """The operator's own; read again when the files change. Raises Invalid for files that do not fit."""
        made = cls(lambda: (certificate, key))
        made.load()
        return made

    @classmethod
    def of_authority(
        cls, folder: Path, names: Callable[[], tuple[str, ...]], clock: Clock, leaf: str = authority.LEAF
    ) -> Certificates:
        """Of `DIR/ca.pem`, for the names that the place has at the time; `leaf`: the file in `DIR/keys`."""

        def look() -> tuple[Path, None]:
            wanted = names()
            file, new = authority.ensure(folder, wanted, clock.now(), leaf)
            if new:
                log.info("certificate", names=list(wanted), file=str(file))
            return file, None

        made = cls(look)
        made.load()
        return made

    def load(self) -> None:
        """Looks, and loads what is new. Raises Invalid, Retry."""
        self._use(*self.look())

    def _use(self, chain: Path, key: Path | None) -> None:
        try:
            stamp = tuple(f.stat().st_mtime for f in (chain, key) if f is not None)
            if stamp == self._stamp:
                return
            self.context.load_cert_chain(chain, key)
        except (OSError, ssl.SSLError) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise Invalid.field("tls_cert", f"{chain} and its key cannot be used: {said}") from error
        self._stamp = stamp

    async def keep(self) -> None:
        """For ever: looks every minute. What is wrong then is told, and what was loaded before stays."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                self._use(*await asyncio.to_thread(self.look))  # which may wait for another process
            except (Invalid, Retry, OSError) as error:
                log.error("certificate", message=str(error))
