"""Calls of the ports and their answers as bytes: JSON, read by the types that the port itself declares.

A frame can hold values and nothing that runs: which type comes out is decided here, by the call's name, never by what
was sent, and a field too many, missing or of another type is refused. Pure: no socket, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from types import GenericAlias
from typing import Any, get_type_hints

from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from hansa import errors
from hansa.engines.ports import ComputeEngine, NetworkEngine, VolumeEngine
from hansa.errors import Bug, FieldError, HansaError, Shortfall

PORTS: dict[str, type] = {"compute": ComputeEngine, "volumes": VolumeEngine, "network": NetworkEngine}
CALLS = {  # those that are called from outside
    "compute": frozenset({"host", "apply", "observe", "remove", "log", "console", "held"}),
    "volumes": frozenset({"apply", "remove", "held"}),
    "network": frozenset({"host", "apply", "observe", "remove", "held"}),
}
HEAD: Any = tuple[str, str, str]  # port, where, name
MORE = {
    "Full": ("scope", "key", "owner", "short"),
    "Exhausted": ("after_s",),
    "Refused": ("why",),
    "Retry": ("after_s",),
}
_ANSWER, _ERROR = b"+", b"!"
_CONFIG = ConfigDict(
    strict=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants"
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a port: which engine, by host or zone, and what it is given."""

    port: str
    where: str
    name: str
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """An error of `hansa.errors` as it travels. Of the last five each class has its own, see `MORE`."""

    kind: str
    message: str
    detail: str = ""
    fields: tuple[FieldError, ...] = ()
    details: dict[str, JsonValue] = field(default_factory=dict)
    scope: str = ""
    key: str = ""
    owner: str = ""
    short: Shortfall | None = None
    why: str = ""
    after_s: float | None = None


# -- calls --------------------------------------------------------------------------------------


def write_call(call: Call) -> bytes:
    """Raises Bug for what the port does not take."""
    takes, _ = _types(call.port, call.name)
    return _written(HEAD, (call.port, call.where, call.name)) + b"\n" + _written(takes, call.args)


def read_call(body: bytes) -> Call:
    """Raises Bug for a call that no port has, or that is not made as the port says."""
    head, _, rest = body.partition(b"\n")
    port, where, name = _read(HEAD, head, "a call")
    takes, _ = _types(port, name)
    return Call(port, where, name, _read(takes, rest, f"{port}.{name}"))


# -- answers ------------------------------------------------------------------------------------


def write_answer(call: Call, value: Any) -> bytes:
    """Raises Bug for what the port does not give."""
    return _ANSWER + _written(_types(call.port, call.name)[1], (value,))


def write_error(error: HansaError) -> bytes:
    """An error that cannot travel, because of what it carries, becomes the Bug that says so."""
    more = {name: value for name, value in error.__dict__.items() if name in Told.__slots__}
    try:
        return _ERROR + _written(tuple[Told], (Told(type(error).__name__, **more),))
    except Bug as bug:
        return _ERROR + _written(tuple[Told], (Told("Bug", f"{type(error).__name__} is {bug.message}"),))


def read_answer(call: Call, body: bytes) -> Any:
    """What the engine gave. Raises what it raised, and Bug for what the port does not give."""
    if body[:1] == _ERROR:
        raise _rebuilt(_read(tuple[Told], body[1:], "an error")[0])
    if body[:1] != _ANSWER:
        raise Bug(f"{call.port}.{call.name}: neither an answer nor an error came back")
    return _read(_types(call.port, call.name)[1], body[1:], f"{call.port}.{call.name}")[0]


def _rebuilt(told: Told) -> HansaError:
    """An error as it was, whatever its constructor asks for; of a class that is not known here, a Bug."""
    kind = getattr(errors, told.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, HansaError)):
        kind = Bug
    error: HansaError = kind.__new__(kind)
    Exception.__init__(error, told.message)
    more = next((MORE[each.__name__] for each in kind.__mro__ if each.__name__ in MORE), ())
    for name in ("message", "detail", "fields", "details", *more):
        setattr(error, name, getattr(told, name))
    return error


# -- types --------------------------------------------------------------------------------------


@cache
def _types(port: str, name: str) -> tuple[Any, Any]:
    """What a call takes and, alone in a tuple, what it gives, as the port declares both. Of a console, which goes on
    as bytes, nothing is given. Raises Bug for what is not called from outside."""
    if name not in CALLS.get(port, ()):
        raise Bug(f"{port}.{name} is not called from outside")
    hints = get_type_hints(getattr(PORTS[port], name))
    gives = hints.pop("return")
    return GenericAlias(tuple, tuple(hints.values())), GenericAlias(tuple, (None if name == "console" else gives,))


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=_CONFIG)


def _written(kind: Any, value: Any) -> bytes:
    try:
        return _adapter(kind).dump_json(value, warnings="error")
    except PydanticSerializationError as error:
        raise Bug(f"not what the port declares: {error}") from error


def _read(kind: Any, body: bytes, what: str) -> Any:
    try:
        return _adapter(kind).validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Bug(f"{what}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
