"""A browser's form with a file in it (multipart/form-data), read as it comes. Pure: bytes in, pieces of the file out.

The fields come before the file and are held in memory, within a limit; the file is the part named `file` and is handed on
piece by piece. What follows it is passed over, as S3 does.
"""

from __future__ import annotations

import re

from hansa.gateways.s3.wire.errors import S3Error

FIELDS_BYTES_MAX = 20 << 10  # everything before the file, part headers aside
HEAD_BYTES_MAX = 4 << 10  # of one part
FIELDS_MAX = 100
AFTER_BYTES_MAX = 64 << 10
_BOUNDARY = re.compile(
    r"multipart/form-data\s*;(?:.*;)?\s*boundary=(?:\"([^\"]{1,200})\"|([^\s;\"]{1,200}))", re.IGNORECASE
)
_PARAMETER = re.compile(r";\s*(name|filename)=(?:\"((?:[^\"\\]|\\.)*)\"|([^\s;\"]+))", re.IGNORECASE)

# Where the next byte stands: before a part's heading, in a field's value, in the file, behind it.
_HEADING, _VALUE, _FILE, _AFTER = range(4)


class PostForm:
    """`fields` by lower-case name, as soon as `has_file`. Raises MalformedPOSTRequest, MaxPostPreDataLengthExceededError,
    InvalidArgument in `feed`; IncompleteBody in `finish`."""

    def __init__(self, content_type: str) -> None:
        found = _BOUNDARY.match(content_type.strip())
        if found is None:
            raise S3Error.of("MalformedPOSTRequest", "The Content-Type must be multipart/form-data with a boundary.")
        self._mark = b"\r\n--" + (found[1] or found[2]).encode("latin-1", errors="replace")
        self._held = b"\r\n"  # so that the first mark is like the others
        self._state = _VALUE
        self._name = ""  # of the field whose value is read; empty before the first mark
        self._before = 0  # bytes of fields
        self._after = 0
        self.fields: dict[str, str] = {}
        self.filename = ""
        self.file_type = ""

    @property
    def has_file(self) -> bool:
        """Whether the file has begun: all fields are here, and what was fed last may have brought the first pieces."""
        return self._state >= _FILE

    def feed(self, data: bytes) -> list[bytes]:
        """The pieces of the file in `data`, in order."""
        self._held = self._held + data if self._held else data
        pieces: list[bytes] = []
        while self._step(pieces):
            pass
        return pieces

    def finish(self) -> None:
        """Raises IncompleteBody where the file has not come to its end, InvalidArgument where there is none."""
        if self._state < _FILE:
            raise S3Error.argument("file", "", "the form must have a part with this name, the last")
        if self._state == _FILE:
            raise S3Error.of("IncompleteBody", "The form ends before its file does.")

    def _step(self, pieces: list[bytes]) -> bool:
        """One part of a part; False: more bytes are needed."""
        if self._state == _AFTER:
            self._after += len(self._held)
            self._held = b""
            if self._after > AFTER_BYTES_MAX:
                raise S3Error.of("MalformedPOSTRequest", "There is too much after the file.")
            return False
        if self._state == _HEADING:
            return self._heading()
        return self._file(pieces) if self._state == _FILE else self._value()

    def _value(self) -> bool:
        end = self._held.find(self._mark)
        if end < 0:
            if self._before + len(self._held) > FIELDS_BYTES_MAX + len(self._mark):
                raise S3Error.of("MaxPostPreDataLengthExceededError", MaxSizeAllowed=FIELDS_BYTES_MAX)
            return False
        if self._name:
            self._keep(self._held[:end])
        elif end:
            raise S3Error.of("MalformedPOSTRequest", "The form does not begin with its boundary.")
        self._held = self._held[end + len(self._mark) :]
        self._state = _HEADING
        return True

    def _keep(self, value: bytes) -> None:
        self._before += len(value)
        if self._before > FIELDS_BYTES_MAX or len(self.fields) >= FIELDS_MAX:
            raise S3Error.of("MaxPostPreDataLengthExceededError", MaxSizeAllowed=FIELDS_BYTES_MAX)
        if self._name in self.fields:
            raise S3Error.argument(self._name[:64], "", "the field may be given only once")
        self.fields[self._name] = _text(value)

    def _heading(self) -> bool:
        """Between a mark and the empty line: the part's own headers."""
        if self._held.startswith(b"--"):
            raise S3Error.argument("file", "", "the form must have a part with this name, the last")
        end = self._held.find(b"\r\n\r\n")
        if end < 0 or end > HEAD_BYTES_MAX:
            if len(self._held) > HEAD_BYTES_MAX:
                raise S3Error.of(
                    "MalformedPOSTRequest", f"The headers of a part have more than {HEAD_BYTES_MAX} bytes."
                )
            return False
        if not self._held.startswith(b"\r\n"):
            raise S3Error.of("MalformedPOSTRequest", "A boundary does not end with CR LF.")
        self._open(_headers(_text(self._held[2:end])))
        self._held = self._held[end + 4 :]
        return True

    def _open(self, headers: dict[str, str]) -> None:
        disposition = headers.get("content-disposition", "")
        given = {found[1].lower(): found[2] or found[3] or "" for found in _PARAMETER.finditer(disposition)}
        name = given.get("name", "").lower()
        if not disposition.lower().startswith("form-data") or not name:
            raise S3Error.of("MalformedPOSTRequest", "A part has no Content-Disposition: form-data with a name.")
        if name == "file":
            self.filename = re.split(r"[/\\]", given.get("filename", ""))[-1]
            self.file_type = headers.get("content-type", "")
            self._state = _FILE
        else:
            self._name = name
            self._state = _VALUE

    def _file(self, pieces: list[bytes]) -> bool:
        end = self._held.find(self._mark)
        if end >= 0:
            if end:
                pieces.append(self._held[:end])
            self._held = self._held[end + len(self._mark) :]
            self._state = _AFTER
            return True
        sure = self._sure()
        if sure:
            pieces.append(self._held[:sure])
            self._held = self._held[sure:]
        return False

    def _sure(self) -> int:
        """How many of the bytes held cannot belong to a mark that has only begun."""
        tail = self._held.rfind(b"\r", max(0, len(self._held) - len(self._mark) + 1))
        while tail >= 0:
            if self._mark.startswith(self._held[tail:]):
                return tail
            tail = self._held.rfind(b"\r", max(0, len(self._held) - len(self._mark) + 1), tail)
        return len(self._held)


def _headers(text: str) -> dict[str, str]:
    lines = (line.partition(":") for line in text.split("\r\n"))
    return {name.strip().lower(): value.strip() for name, colon, value in lines if colon}


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise S3Error.of("MalformedPOSTRequest", "A field of the form is no UTF-8.") from error
