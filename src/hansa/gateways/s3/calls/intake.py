"""Bodies on their way in: unframed, counted, hashed, sealed and stored, and held to everything that the client said of them.

Nothing is published here. What comes back is a piece whose bytes are there and are the ones that were meant; until the
index knows it, it is nobody's, and `settled` sees to it that it goes if it never becomes anybody's.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from hansa.errors import HansaError, Retry
from hansa.gateways.s3.gateway import Call
from hansa.gateways.s3.sealing.content import ContentWriter
from hansa.gateways.s3.wire.canonical import UNSIGNED
from hansa.gateways.s3.wire.checksums import Claimed, Digests, read_claimed
from hansa.gateways.s3.wire.errors import S3Error
from hansa.gateways.s3.wire.sigv4 import STREAMING_UNSIGNED_TRAILER
from hansa.gateways.s3.wire.streaming import ChunkedBody, Seed, decoded_length
from hansa.objectindex.records import Checksum, Encryption, Piece

OBJECT_BYTES_MAX = 5 << 30  # of one PUT
DOCUMENT_BYTES_MAX = 1 << 20  # of a configuration in a body
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sealing:
    """How a new piece is sealed: what the object's facts will say, and the customer's key if there is one."""

    encryption: Encryption | None = None
    customer_key: bytes | None = None

    @property
    def opaque(self) -> bool:
        """Whether the ETag may not be the MD5 of the plain bytes."""
        return self.encryption is not None and self.encryption.mode != "AES256"


@dataclass(frozen=True, slots=True)
class Taken:
    """A stored piece, its ETag and the checksum to keep."""

    piece: Piece
    etag: str
    checksum: Checksum

    @property
    def part(self) -> Piece:
        """The piece as one of several, which says for itself what an object of one piece says of the whole."""
        return replace(self.piece, etag=self.etag, checksum=self.checksum.value)


class Incoming:
    """The payload of a request. Iterated once; `trailers` are there afterwards."""

    def __init__(self, call: Call) -> None:
        self._body = call.request.body
        self.trailers: Mapping[str, str] = {}
        headers = call.request.headers
        word = _word(call)
        self._framed: ChunkedBody | None = None
        if word.startswith("STREAMING-"):
            self.length: int | None = decoded_length(headers)
            seed = None
            if word != STREAMING_UNSIGNED_TRAILER:
                signed = call.signed
                if signed is None:
                    raise S3Error.of("AccessDenied", "Signed chunks take a signed request.")
                seed = Seed.of(signed.claim, signed.signing_key)
            self._framed = ChunkedBody(word, self.length, seed=seed, trailer=headers.get("x-amz-trailer", ""))
        else:
            self.length = self._body.length
            if self.length is None and self._body.ended:
                self.length = 0 if headers.get("content-length") is not None else None

    async def pieces(self) -> AsyncIterator[bytes | memoryview]:
        """Raises IncompleteBody, RequestTimeout, and what the framing raises."""
        if self._framed is None:
            while data := await self._body.next():
                yield data
            if self.length is not None and self._body.received != self.length:
                raise S3Error.of("IncompleteBody")
            return
        while data := await self._body.next():
            for piece in self._framed.feed(data):
                yield piece
        self.trailers = self._framed.finish()


def _word(call: Call) -> str:
    """What x-amz-content-sha256 says; without a signature only the form that needs none counts."""
    if call.signed is not None:
        return call.signed.claim.payload
    word = call.request.headers.get("x-amz-content-sha256", UNSIGNED)
    return word if word == STREAMING_UNSIGNED_TRAILER else UNSIGNED


def _claimed(call: Call, *, of_object: bool = False) -> Claimed:
    """`of_object`: the checksum in the headers is that of an object (it may end in the number of its parts)."""
    sha256 = call.signed.claim.body_sha256 if call.signed is not None else None
    headers = call.request.headers
    if of_object:
        headers = {name: value for name, value in headers.items() if not name.startswith("x-amz-checksum-")}
    return read_claimed(headers, body_sha256=sha256)


# -- objects and parts --------------------------------------------------------------------------


async def take(call: Call, sealing: Sealing, *, algorithm: str = "", strict: bool = False, number: int = 1) -> Taken:
    """The body, stored. `algorithm`: the checksum to keep where it is not for the client to choose; `strict`: the client
    may then send no other one.

    Raises MissingContentLength, EntityTooLarge, BadDigest and its like, Retry, Exhausted.
    """
    incoming, claimed = Incoming(call), _claimed(call)
    _check_length(call, incoming.length)
    said = bool(claimed.value or claimed.trailer)
    if strict and said and claimed.algorithm != algorithm:
        raise S3Error.of("InvalidRequest", f"The upload's checksums are {algorithm}, not {claimed.algorithm}.")
    kept = algorithm or claimed.algorithm
    if not said:
        claimed = replace(claimed, algorithm=kept)
    digests = Digests((*claimed.wanted, kept, *(() if sealing.opaque else ("MD5",))))
    piece = await stored(incoming.pieces(), new_writer(call, sealing, incoming.length, digests, number))
    try:
        claimed.check(digests, incoming.trailers)
    except S3Error:
        await call.gateway.content.drop([piece])
        raise
    return taken(call, sealing, piece, digests, kept)


def new_writer(call: Call, sealing: Sealing, size: int | None, digests: Digests, number: int) -> ContentWriter:
    """Into the bucket of the call."""
    return call.gateway.content.writer(
        call.known.place, encryption=sealing.encryption, customer_key=sealing.customer_key, size=size,
        digests=(digests,), number=number,
    )  # fmt: skip


def taken(call: Call, sealing: Sealing, piece: Piece, digests: Digests, algorithm: str) -> Taken:
    """A stored piece with its ETag: the MD5, or what follows from its checksum where it may not be that."""
    value = digests.base64(algorithm)
    etag = _opaque(sealing, value, piece.size) if sealing.opaque else digests.hex("MD5")
    return Taken(piece, etag, Checksum(algorithm, value))


def _opaque(sealing: Sealing, checksum: str, size: int) -> str:
    """128 bits that are the same for the same bytes under the same sealing, so that a part may be sent again. A customer's
    key has a mark with a salt, so that nobody else can tell what bytes it was."""
    encryption = sealing.encryption
    secret = f"{encryption.mark or encryption.key}\0{encryption.context}" if encryption is not None else ""
    return hmac.digest(secret.encode(), f"{size} {checksum}".encode(), "sha256")[:16].hex()


async def stored(
    pieces: AsyncIterator[bytes | memoryview], writer: ContentWriter, most: int = OBJECT_BYTES_MAX
) -> Piece:
    """All of them, at most so many bytes. Raises EntityTooLarge, and what the pieces raise; nothing is left then."""
    try:
        async for data in pieces:
            await writer.feed(data)
            if writer.size > most:
                raise S3Error.of("EntityTooLarge", ProposedSize=writer.size, MaxSizeAllowed=most)
        return await writer.finish()
    except BaseException:
        await writer.discard()
        raise


def _check_length(call: Call, length: int | None) -> None:
    if length is None:
        if "transfer-encoding" not in call.request.headers:
            raise S3Error.of("MissingContentLength")
    elif length > OBJECT_BYTES_MAX:
        raise S3Error.of("EntityTooLarge", ProposedSize=length, MaxSizeAllowed=OBJECT_BYTES_MAX)


async def settled(call: Call, piece: Piece, publishing: Awaitable[T]) -> T:
    """Waits for the index to take the piece in, and drops it when the index says no.

    Where nobody knows what became of it (the database did not answer, we were told to stop) it stays where it is: it may
    be somebody's. If it is not, the scrub finds it.
    """
    try:
        return await publishing
    except HansaError as error:
        if not isinstance(error, Retry):
            await call.gateway.content.drop([piece])
        raise


# -- documents ----------------------------------------------------------------------------------


async def read_document(
    call: Call, *, proven: bool = False, most: int = DOCUMENT_BYTES_MAX, of_object: bool = False
) -> bytes:
    """A small body, whole and checked. `proven`: a digest must vouch for it (of the signature, or one that was sent).
    `of_object`: the x-amz-checksum- header speaks of an object, not of this body.

    Raises MaxMessageLengthExceeded, InvalidRequest, BadDigest and its like.
    """
    incoming, claimed = Incoming(call), _claimed(call, of_object=of_object)
    if proven and not claimed.said and claimed.sha256 is None:
        raise S3Error.of("InvalidRequest", "Content-MD5 or an x-amz-checksum- header is needed for this request.")
    found, size = [], 0
    async for piece in incoming.pieces():
        size += len(piece)
        if size > most:
            raise S3Error.of("MaxMessageLengthExceeded", MaxMessageLengthBytes=most)
        found.append(bytes(piece))
    body = b"".join(found)
    if claimed.said or claimed.sha256 is not None:
        digests = Digests(claimed.wanted)
        digests.update(body)
        claimed.check(digests, incoming.trailers)
    return body
