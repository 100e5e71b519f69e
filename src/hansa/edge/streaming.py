"""The protocol of a connection whose bodies are streams: of any size, for as long as they move.

What differs from the API's: a body has no limit of its own (whoever serves the request knows one) and no time in all,
but must move while it is waited for; and refusals speak S3's XML.
"""

from __future__ import annotations

import math

from hansa.edge.guest import HEAD_BYTES_MAX, HEADERS_MAX, PIPELINE_MAX
from hansa.edge.http import GuardedHttp

MOVE_S = (
    40.0  # in which a body that is waited for must move by MOVE_BYTES; who reads it gives up after 30 s without any
)
MOVE_BYTES = 4 << 10
_SAID = {
    400: (400, "BadRequest", "This is no HTTP/1.1 request."),
    408: (400, "RequestTimeout", "The request did not arrive in time."),
    413: (400, "EntityTooLarge", "The request is larger than anything that is taken."),
    429: (503, "SlowDown", f"More than {PIPELINE_MAX} requests were sent before their answers were read."),
    431: (
        400, "RequestHeaderSectionTooLarge", f"The head has more than {HEAD_BYTES_MAX} bytes or {HEADERS_MAX} fields.",
    ),
}  # fmt: skip


class StreamingHttp(GuardedHttp):
    """One connection. `_moved`: bytes of the body since its deadline was last put off."""

    message_bytes_max = math.inf
    _moved = 0

    def on_body(self, body: bytes) -> None:
        self._moved += len(body)
        super().on_body(body)
        if self._moved >= MOVE_BYTES and not self._whole:
            self._put_off()

    def _judge(self) -> None:
        super()._judge()
        if not self._whole and not self._in_head and not self.transport.is_closing():
            self._put_off()

    def _put_off(self) -> None:
        self._moved = 0
        self._guest.deadline = self.loop.time() + MOVE_S
        self._guest.waits_since = self.loop.time()  # whoever moved least lately is shown out first to make room

    def _late(self) -> None:
        """While we ourselves do not read, it is not the client who is late."""
        in_body = not self._whole and not self._in_head and not self.transport.is_closing()
        if in_body and self.flow.read_paused:
            self._put_off()
        else:
            super()._late()

    def _words(self, status: int) -> tuple[int, bytes, bytes]:
        code, name, said = _SAID[status]
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{name}</Code><Message>{said}</Message></Error>'
        return code, b"application/xml", body.encode()
