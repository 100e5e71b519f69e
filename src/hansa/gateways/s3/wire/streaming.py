"""Bodies in signed or unsigned chunks (`aws-chunked`), undone as they come. Pure: bytes in, pieces of the payload out.

Three forms: signed chunks, signed chunks with signed trailers, plain chunks with trailers. Pieces are views of what was fed,
never copies. In the signed forms a chunk's pieces come out before its signature can be checked, so **nothing may be
published before `finish` has returned**: a wrong chunk raises in `feed` as soon as its last byte is there, and what was
written so far has to be thrown away.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass

from hansa.gateways.s3.wire.canonical import EMPTY_SHA256, signature
from hansa.gateways.s3.wire.errors import S3Error
from hansa.gateways.s3.wire.sigv4 import STREAMING_SIGNED, STREAMING_UNSIGNED_TRAILER, Claim

LINE_BYTES_MAX = 4096
SMALL_CHUNK_BYTES = 8192
SMALL_CHUNKS_MAX = 1024  # of an unsigned body; signed ones may have one, the last
TRAILERS_MAX = 8
BLANK_LINES_MAX = 8  # after the last chunk: one is due, some clients send more
BODY_BYTES_MAX = 5 << 30
_TRAILER_SIGNATURE = "x-amz-trailer-signature"
_SIZE = re.compile(rb"([0-9a-fA-F]{1,16})(?:;[^\x00-\x1f]*)?")
_SIGNED_SIZE = re.compile(rb"([0-9a-fA-F]{1,16});chunk-signature=([0-9a-f]{64})")
_TRAILER = re.compile(r"([!#$%&'*+.^_`|~0-9a-z-]+)[ \t]*:(.*)", re.IGNORECASE)

# What the next byte outside of a chunk's payload belongs to.
_HEADING, _GAP, _TRAILERS, _END = range(4)


@dataclass(frozen=True, slots=True)
class Seed:
    """Where the chain of chunk signatures begins: the request's own signature and its key."""

    key: bytes
    timestamp: str
    scope: str
    signature: str

    @classmethod
    def of(cls, claim: Claim, key: bytes) -> Seed:
        """`key`: the one that `sigv4.verify` believed the claim with."""
        return cls(key, claim.timestamp, str(claim.scope), claim.signature)


def decoded_length(headers: Mapping[str, str]) -> int:
    """The payload's size from x-amz-decoded-content-length. Raises MissingContentLength, InvalidArgument, EntityTooLarge."""
    text = headers.get("x-amz-decoded-content-length")
    if text is None:
        raise S3Error.of("MissingContentLength", "The header x-amz-decoded-content-length is due for a body in chunks.")
    if not re.fullmatch(r"[0-9]{1,18}", text.strip()):
        raise S3Error.argument("x-amz-decoded-content-length", text, "must be a whole number")
    length = int(text)
    if length > BODY_BYTES_MAX:
        raise S3Error.of("EntityTooLarge", ProposedSize=length, MaxSizeAllowed=BODY_BYTES_MAX)
    return length


def stored_encoding(content_encoding: str) -> str:
    """A Content-Encoding without `aws-chunked`, which is of the way and not of the object. May be empty."""
    words = content_encoding.split(",")
    kept = [word for word in words if word.strip().lower() != "aws-chunked"]
    return content_encoding if len(kept) == len(words) else ",".join(kept).strip()


class ChunkedBody:
    """One body. `form` is the word in x-amz-content-sha256, `length` the payload's size, `trailer` what was announced.

    Raises in `feed` and `finish`: IncompleteBody, InvalidRequest, InvalidChunkSizeError, MalformedTrailerError,
    SignatureDoesNotMatch. After an error the body is over.
    """

    def __init__(self, form: str, length: int, *, seed: Seed | None = None, trailer: str = "") -> None:
        """`seed` is due for the signed forms. `trailer`: the value of x-amz-trailer."""
        if (form != STREAMING_UNSIGNED_TRAILER) != (seed is not None):
            raise ValueError("a seed belongs to the signed forms, and to them alone")
        self._seed = seed
        self._has_trailers = form != STREAMING_SIGNED
        self._announced = frozenset(name for name in (word.strip().lower() for word in trailer.split(",")) if name)
        self._missing = length
        self._left = 0  # bytes of the payload still to come in this chunk
        self._state = _HEADING
        self._part = b""  # a line that has not ended yet
        self._previous = seed.signature if seed else ""
        self._claimed = ""  # the signature of the chunk that is being read
        self._sum = hashlib.sha256()
        self._small = 0
        self._blanks = 0
        self._lines: list[tuple[str, str]] = []

    def feed(self, data: bytes) -> list[memoryview]:
        """The pieces of the payload in `data`, in order."""
        pieces: list[memoryview] = []
        view, at, end = memoryview(data), 0, len(data)
        while at < end:
            if not self._left:
                at = self._line(data, at)
                continue
            piece = view[at : at + self._left]
            pieces.append(piece)
            at += len(piece)
            self._left -= len(piece)
            if self._seed is not None:
                self._sum.update(piece)
            if not self._left:
                self._state = _GAP
        return pieces

    def finish(self) -> dict[str, str]:
        """The trailers, lower-case names. Raises IncompleteBody for a body that has not come to its end."""
        if self._state != _END or self._part:
            raise S3Error.of("IncompleteBody", "The body ends before its last chunk.")
        return {name: value for name, value in self._lines if name != _TRAILER_SIGNATURE}

    # -- lines --------------------------------------------------------------------------------

    def _line(self, data: bytes, at: int) -> int:
        """Reads on to the end of a line; where the next byte is."""
        stop = data.find(b"\n", at, at + LINE_BYTES_MAX)
        if stop < 0:
            self._part += data[at:]
            if len(self._part) > LINE_BYTES_MAX:
                raise S3Error.of("InvalidRequest", f"A line between the chunks has more than {LINE_BYTES_MAX} bytes.")
            return len(data)
        line, self._part = self._part + data[at:stop], b""
        if line.endswith(b"\r"):
            line = line[:-1]
        elif self._state != _TRAILERS:  # some clients end a trailer with a bare line feed
            raise S3Error.of("InvalidRequest", "A line between the chunks does not end with CR LF.")
        self._read(line)
        return stop + 1

    def _read(self, line: bytes) -> None:
        if self._state in (_TRAILERS, _END) and not line.strip():
            self._count_blank()
        if self._state == _HEADING:
            self._heading(line)
        elif self._state == _TRAILERS:
            self._trailer(line)
        elif line:
            what = (
                "A chunk is longer than its heading says"
                if self._state == _GAP
                else "There is more after the last chunk"
            )
            raise S3Error.of("InvalidRequest", f"{what}.")
        elif self._state == _GAP:
            self._verify_chunk()
            self._state = _HEADING

    def _count_blank(self) -> None:
        """A body without a length could go on with them for ever."""
        self._blanks += 1
        if self._blanks > BLANK_LINES_MAX:
            raise S3Error.of(
                "InvalidRequest", f"There are more than {BLANK_LINES_MAX} empty lines after the last chunk."
            )

    def _heading(self, line: bytes) -> None:
        found = (_SIZE if self._seed is None else _SIGNED_SIZE).fullmatch(line.rstrip(b" \t"))
        if found is None:
            raise S3Error.of("InvalidRequest", "The heading of a chunk cannot be read.")
        size = int(found[1], 16)
        if self._seed is not None:
            self._claimed = found[2].decode()
        if size > self._missing or (size == 0 and self._missing):
            raise S3Error.of("IncompleteBody", "The body has not the length of x-amz-decoded-content-length.")
        self._left = size
        self._missing -= size
        if size == 0:
            self._verify_chunk()
            self._state = _TRAILERS
        elif size < SMALL_CHUNK_BYTES:
            self._count_small()

    def _count_small(self) -> None:
        """Tiny chunks cost us more than whoever sends them."""
        self._small += 1
        if self._small > SMALL_CHUNKS_MAX or (self._seed is not None and self._missing):
            raise S3Error.of("InvalidChunkSizeError")

    # -- signatures ---------------------------------------------------------------------------

    def _verify_chunk(self) -> None:
        if self._seed is None:
            return
        self._verify("PAYLOAD", (EMPTY_SHA256, self._sum.hexdigest()), self._claimed)
        self._sum = hashlib.sha256()

    def _verify(self, what: str, sums: tuple[str, ...], claimed: str) -> None:
        seed = self._seed
        if seed is None:
            return
        lines = (f"AWS4-HMAC-SHA256-{what}", seed.timestamp, seed.scope, self._previous, *sums)
        computed = signature(seed.key, "\n".join(lines).encode())
        if not hmac.compare_digest(computed.encode(), claimed.encode()):
            raise S3Error.of("SignatureDoesNotMatch", "The signature of a chunk is not the one we compute.")
        self._previous = computed

    # -- trailers -----------------------------------------------------------------------------

    def _trailer(self, line: bytes) -> None:
        if not line.strip():
            if self._trailers_complete():
                self._state = _END
            return
        if not self._has_trailers:
            raise S3Error.of("InvalidRequest", "There is more after the last chunk.")
        found = _TRAILER.fullmatch(line.decode("latin-1"))
        if found is None or len(self._lines) >= TRAILERS_MAX:
            raise S3Error.of("MalformedTrailerError")
        name, value = found[1].lower(), found[2].strip()
        expected = name in self._announced or (name == _TRAILER_SIGNATURE and self._seed is not None)
        if not expected or name in dict(self._lines):
            raise S3Error.of("MalformedTrailerError", f"The trailer {name[:64]} was not announced in x-amz-trailer.")
        if name == _TRAILER_SIGNATURE:
            text = "".join(f"{known}:{said}\n" for known, said in self._lines)
            self._verify("TRAILER", (hashlib.sha256(text.encode("latin-1")).hexdigest(),), value)
        self._lines.append((name, value))

    def _trailers_complete(self) -> bool:
        """At an empty line: whether it is the last. Raises MalformedTrailerError for an announced one that is missing."""
        if not self._has_trailers:
            return True
        seen = {name for name, _ in self._lines}
        if self._seed is not None and _TRAILER_SIGNATURE not in seen:
            if self._lines and self._announced <= seen:
                return False  # `value LF CR LF` before the signature
            raise S3Error.of("MalformedTrailerError", f"The trailer {_TRAILER_SIGNATURE} is missing.")
        if not self._announced <= seen:
            raise S3Error.of("MalformedTrailerError", "A trailer that x-amz-trailer announces is missing.")
        return True
