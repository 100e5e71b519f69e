"""Objects of a cloud, by S3: the requests that `hansa bucket` makes, over connections that threads may share.

Another client is as good (`hansa.env` names the endpoint to all of them); this one needs nothing installed. What may be
repeated is repeated, with the pauses of the other client.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from urllib.parse import unquote_plus, urlsplit
from xml.etree import ElementTree  # what it reads comes from the endpoint that the user named
from xml.sax.saxutils import escape

from hansa import errors
from hansa.errors import HansaError
from hansa.sdk.credentials import DEFAULT_FOLDER, read_env_file
from hansa.sdk.errors import Unclear, Unreachable
from hansa.sdk.s3sign import EMPTY, EXPIRES_S_MAX, Pair, path_of, presigned, query_of, signed
from hansa.sdk.transport import FIRST_PAUSE_S, PAUSE_S_MAX, TRIES_MORE, Answer, jittered, said_by, trusting

TIMEOUT_S = 60.0
ANSWER_BYTES_MAX = 64 << 20  # of what is read whole
DELETED_AT_ONCE = 1000
_AGAIN = frozenset({500, 502, 503, 504})
_KINDS: dict[int, type[HansaError]] = {
    400: errors.Invalid, 403: errors.Forbidden, 404: errors.NotFound, 409: errors.Conflict, 412: errors.Conflict,
    416: errors.Invalid, 501: errors.Unbuilt, 503: errors.Retry,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where S3 is, and with which key. `ca_file`: the authority to trust for https; empty: the system's."""

    url: str
    pair: Pair
    ca_file: str = ""

    @classmethod
    def from_environment(cls, data: Path | None = None, environ: Mapping[str, str] | None = None) -> Endpoint:
        """From `data`/hansa.env if given, else from the AWS_… variables, else from the folder `hansa-data` here.

        Raises Unclear saying what is missing.
        """
        given = os.environ if environ is None else environ
        folder = data or Path(given.get("HANSA_DATA") or DEFAULT_FOLDER)
        if data is not None or ("AWS_ENDPOINT_URL_S3" not in given and (folder / "hansa.env").is_file()):
            given = read_env_file(folder / "hansa.env")
        url = given.get("AWS_ENDPOINT_URL_S3") or given.get("AWS_ENDPOINT_URL", "")
        missing = [n for n in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not given.get(n)]
        missing += [] if url else ["AWS_ENDPOINT_URL_S3"]
        if missing:
            text = "`source DIR/hansa.env`, or give --data DIR; a key of one's own is made with `hansa s3 keys create`"
            raise Unclear(f"{', '.join(missing)} is not set: {text}")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Unclear(f"AWS_ENDPOINT_URL_S3: {url!r} is no URL; it begins with http:// or https://")
        region = given.get("AWS_REGION") or given.get("AWS_DEFAULT_REGION") or "us-east-1"
        pair = Pair(given["AWS_ACCESS_KEY_ID"], given["AWS_SECRET_ACCESS_KEY"], region)
        return cls(url.rstrip("/"), pair, given.get("HANSA_CA_FILE", "") or given.get("AWS_CA_BUNDLE", ""))


@dataclass(frozen=True, slots=True)
class Seen:
    """One line of a listing. `modified` as S3 writes it, `2026-11-26T12:00:00.000Z`."""

    key: str
    size: int
    modified: str
    etag: str


@dataclass(frozen=True, slots=True)
class Page:
    objects: list[Seen]
    prefixes: list[str]
    next: str = ""


class S3:
    """For any number of threads: each has a connection of its own."""

    def __init__(self, endpoint: Endpoint) -> None:
        parts = urlsplit(endpoint.url)
        self.endpoint = endpoint
        self._host, self._port, self._base = parts.hostname or "", parts.port, parts.path
        self._netloc, self._secure = parts.netloc, parts.scheme == "https"
        self._trust: ssl.SSLContext | None = trusting(endpoint.ca_file) if self._secure else None
        self._mine = threading.local()
        self._open: set[HTTPConnection] = set()

    def close(self) -> None:
        """All connections, once no thread asks any more."""
        for each in self._open:
            each.close()
        self._open.clear()

    # -- buckets ----------------------------------------------------------------------------

    def buckets(self) -> list[tuple[str, str]]:
        """(name, when it was made), by name."""
        root = self._read("GET", "", "")
        return [(_text(each, "Name"), _text(each, "CreationDate")) for each in root.iter(_tag(root, "Bucket"))]

    def make_bucket(self, bucket: str, region: str = "") -> None:
        body = b""
        if region:
            place = f"<LocationConstraint>{escape(region)}</LocationConstraint>"
            body = f"<CreateBucketConfiguration>{place}</CreateBucketConfiguration>".encode()
        self.send("PUT", bucket, "", body=body)

    def remove_bucket(self, bucket: str) -> None:
        self.send("DELETE", bucket, "")

    # -- objects ----------------------------------------------------------------------------

    def page(self, bucket: str, prefix: str = "", delimiter: str = "", after: str = "") -> Page:
        """Up to a thousand keys. `after`: a `Page.next`."""
        query = [("list-type", "2"), ("prefix", prefix), ("encoding-type", "url")]
        query += [("delimiter", delimiter)] if delimiter else []
        query += [("continuation-token", after)] if after else []
        root = self._read("GET", bucket, "", query)
        return Page(
            [_seen(each) for each in root.iter(_tag(root, "Contents"))],
            [unquote_plus(_text(each, "Prefix")) for each in root.iter(_tag(root, "CommonPrefixes"))],
            _text(root, "NextContinuationToken"),
        )

    def objects(self, bucket: str, prefix: str = "") -> Iterator[Seen]:
        """All keys below a prefix, in order."""
        after = ""
        while True:
            page = self.page(bucket, prefix, after=after)
            yield from page.objects
            if not (after := page.next):
                return

    def head(self, bucket: str, key: str) -> Mapping[str, str]:
        """The headers of an object. Raises NotFound."""
        return self.send("HEAD", bucket, key, headers={"x-amz-checksum-mode": "ENABLED"}).headers

    def get(self, bucket: str, key: str, *, start: int = 0, size: int | None = None, etag: str = "") -> bytes:
        """Some bytes of an object. `etag`: of this very version, else Conflict."""
        headers = {"range": f"bytes={start}-{'' if size is None else start + size - 1}"} if start or size else {}
        headers |= {"if-match": etag} if etag else {}
        return self.send("GET", bucket, key, headers=headers).body

    def put(self, bucket: str, key: str, body: bytes, headers: Mapping[str, str] | None = None) -> str:
        """The ETag."""
        return self.send("PUT", bucket, key, body=body, headers=headers).headers.get("etag", "")

    def copy(self, source: tuple[str, str], bucket: str, key: str) -> None:
        """Inside the cloud: no byte comes here. Raises HansaError when it fails half-way, which S3 says in a 200."""
        answer = self.send("PUT", bucket, key, headers={"x-amz-copy-source": path_of(*source)})
        _check(answer, f"copy to {bucket}/{key}")

    def delete(self, bucket: str, key: str) -> None:
        self.send("DELETE", bucket, key)

    def delete_many(self, bucket: str, keys: Sequence[str]) -> list[tuple[str, str]]:
        """(key, why) of those that stay. Raises Invalid for more than a thousand."""
        if len(keys) > DELETED_AT_ONCE:
            raise errors.Invalid.field("keys", f"must be {DELETED_AT_ONCE} at most (given: {len(keys)})")
        parts = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in keys)
        body = f"<Delete><Quiet>true</Quiet>{parts}</Delete>".encode()
        digest = {"x-amz-checksum-sha256": b64encode(hashlib.sha256(body).digest()).decode()}
        root = self._read("POST", bucket, "", [("delete", "")], body, digest)
        return [(_text(each, "Key"), _text(each, "Message")) for each in root.iter(_tag(root, "Error"))]

    # -- uploads in parts -------------------------------------------------------------------

    def begin(self, bucket: str, key: str, headers: Mapping[str, str]) -> str:
        """The id of a new upload."""
        return _text(self._read("POST", bucket, key, [("uploads", "")], b"", headers), "UploadId")

    def put_part(self, bucket: str, key: str, upload: str, number: int, body: bytes, headers: Mapping[str, str]) -> str:
        query = [("uploadId", upload), ("partNumber", str(number))]
        return self.send("PUT", bucket, key, query, body, headers).headers.get("etag", "")

    def parts(self, bucket: str, key: str, upload: str) -> dict[int, tuple[int, str, str]]:
        """(size, ETag, CRC32 in base64) by number. Raises NotFound for an upload that is over."""
        found: dict[int, tuple[int, str, str]] = {}
        after = 0
        while True:
            root = self._read("GET", bucket, key, [("uploadId", upload), ("part-number-marker", str(after))])
            for each in root.iter(_tag(root, "Part")):
                after = int(_text(each, "PartNumber"))
                found[after] = (int(_text(each, "Size")), _text(each, "ETag"), _text(each, "ChecksumCRC32"))
            if _text(root, "IsTruncated") != "true":
                return found

    def complete(
        self, bucket: str, key: str, upload: str, parts: Iterable[tuple[int, str, str]], headers: Mapping[str, str]
    ) -> None:
        """`parts`: (number, ETag, CRC32 in base64)."""
        lines = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag>"
            f"<ChecksumCRC32>{crc}</ChecksumCRC32></Part>"
            for number, etag, crc in parts
        )
        body = f"<CompleteMultipartUpload>{lines}</CompleteMultipartUpload>".encode()
        _check(self.send("POST", bucket, key, [("uploadId", upload)], body, headers), f"upload of {bucket}/{key}")

    def abort(self, bucket: str, key: str, upload: str) -> None:
        self.send("DELETE", bucket, key, [("uploadId", upload)])

    # -- addresses for others ---------------------------------------------------------------

    def presign(self, method: str, bucket: str, key: str, expires_s: int) -> str:
        """An address that lets anybody do this until it expires. Raises Invalid for a time that S3 refuses."""
        if not 1 <= expires_s <= EXPIRES_S_MAX:
            raise errors.Invalid.field("expires", f"must be 1 to {EXPIRES_S_MAX} seconds (given: {expires_s})")
        path = self._base + path_of(bucket, key)
        query = presigned(self.endpoint.pair, method, path, self._netloc, expires_s, time.time())
        return f"{'https' if self._secure else 'http'}://{self._netloc}{path}?{query}"

    # -- one request ------------------------------------------------------------------------

    def _read(
        self, method: str, bucket: str, key: str, query: Iterable[tuple[str, str]] = (), body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> ElementTree.Element:  # fmt: skip
        return _parsed(self.send(method, bucket, key, query, body, headers))

    def send(
        self, method: str, bucket: str, key: str, query: Iterable[tuple[str, str]] = (), body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:  # fmt: skip
        """One request, signed anew at each try. Raises Unreachable, and what S3 refuses it with."""
        fields, pause_s = list(query), FIRST_PAUSE_S / 2
        for left in range(TRIES_MORE, -1, -1):
            try:
                answer = self._once(method, self._base + path_of(bucket, key), query_of(fields), body, headers or {})
            except (OSError, HTTPException) as error:
                self._close()
                if isinstance(error, ssl.SSLCertVerificationError):
                    said = f"{error.verify_message}; AWS_CA_BUNDLE or HANSA_CA_FILE names the authority to trust"
                    raise Unreachable(f"{self.endpoint.url} cannot be trusted: {said}") from error
                if left == 0 or isinstance(error, ConnectionRefusedError):
                    raise Unreachable(f"no S3 answers at {self.endpoint.url} ({said_by(error)})") from error
            else:
                if answer.status < 300:
                    return answer
                if answer.status not in _AGAIN or left == 0:
                    raise refused(answer, f"{method} {bucket}/{key}")
            time.sleep(jittered(pause_s))
            pause_s = min(pause_s * 2, PAUSE_S_MAX)
        raise AssertionError("the last try returns or raises")

    def _once(self, method: str, path: str, query: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        payload = hashlib.sha256(body).hexdigest() if body else EMPTY
        sent = signed(self.endpoint.pair, method, path, query, {**headers, "host": self._netloc}, payload, time.time())
        if body or method in ("PUT", "POST"):
            sent["content-length"] = str(len(body))
        connection = self._connection()
        connection.request(method, path + (f"?{query}" if query else ""), body or None, sent)
        response = connection.getresponse()
        content = _whole(response, method)
        if response.will_close:
            self._close()
        return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, content)

    def _connection(self) -> HTTPConnection:
        kept: HTTPConnection | None = getattr(self._mine, "connection", None)
        if kept is None:
            if self._secure:
                kept = HTTPSConnection(self._host, self._port, timeout=TIMEOUT_S, context=self._trust)
            else:
                kept = HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
            self._mine.connection = kept
            self._open.add(kept)
        return kept

    def _close(self) -> None:
        kept: HTTPConnection | None = getattr(self._mine, "connection", None)
        if kept is not None:
            kept.close()
            self._open.discard(kept)
            self._mine.connection = None


def _whole(response: HTTPResponse, method: str) -> bytes:
    content = response.read(ANSWER_BYTES_MAX + 1)
    if len(content) > ANSWER_BYTES_MAX:
        raise HTTPException(f"the answer is larger than {ANSWER_BYTES_MAX} bytes")
    promised = response.getheader("content-length")
    if promised is not None and method != "HEAD" and len(content) != int(promised):
        raise HTTPException("the answer was cut off")
    return content


# -- what S3 says -----------------------------------------------------------------------------------


def refused(answer: Answer, what: str) -> HansaError:
    """The error that an answer stands for, its `reason` S3's own code. Pure."""
    code, said, request = "", "", ""
    if answer.body.lstrip().startswith(b"<"):
        root = _parsed(answer)
        code, said, request = _text(root, "Code"), _text(root, "Message"), _text(root, "RequestId")
    kind = _KINDS.get(answer.status, HansaError)
    error = kind(f"{what}: {said or code or f'S3 answered {answer.status}'}")
    error.status, error.reason = answer.status, code or kind.reason
    error.detail = f"request {request or answer.headers.get('x-amz-request-id', '')}"
    return error


def _check(answer: Answer, what: str) -> None:
    """A 200 that began before the work was done may still be an error."""
    if b"<Error>" in answer.body[:4096] or not answer.body.strip():
        raise refused(Answer(500, answer.headers, answer.body), what)


def _parsed(answer: Answer) -> ElementTree.Element:
    if not answer.body:
        return ElementTree.Element("Nothing")
    try:
        return ElementTree.fromstring(answer.body)  # noqa: S314 - of the endpoint that the user named
    except ElementTree.ParseError as error:
        raise Unreachable(f"what answers is no S3: {error}") from error


def _tag(root: ElementTree.Element, name: str) -> str:
    return f"{root.tag[: root.tag.index('}') + 1]}{name}" if root.tag.startswith("{") else name


def _text(element: ElementTree.Element, name: str) -> str:
    found = element.find(_tag(element, name))
    return found.text or "" if found is not None else ""


def _seen(element: ElementTree.Element) -> Seen:
    key, size, modified, etag = (_text(element, name) for name in ("Key", "Size", "LastModified", "ETag"))
    return Seen(unquote_plus(key), int(size or 0), modified, etag)
