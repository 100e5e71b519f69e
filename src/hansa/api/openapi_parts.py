"""The small parts that every page of the OpenAPI document is made of. Pure."""

from __future__ import annotations

from hansa.kinds.resource import Document

ERRORS = {
    "400": "a field breaks a rule, or the request has no good form",
    "401": "no token, or one that is not good any more",
    "403": "not allowed, or a quota is spent",
    "404": "no such object or collection",
    "405": "method not offered on this path",
    "408": "the request did not arrive in time",
    "409": "it exists already, is in use, or was changed meanwhile",
    "413": "the body is too large",
    "422": "the change is not possible, or not now",
    "429": "too many requests",
    "431": "the head of the request is too large",
    "500": "our mistake",
    "503": "not now: try again",
}
PROBLEM_REF = {"$ref": "#/components/schemas/Problem"}
TEXT: Document = {"type": "string"}
DATE: Document = {"type": "string", "format": "date-time"}


def errors(**more: str) -> Document:
    """What any call may be answered with; `more`: codes of this one, as `_501="…"`."""
    told = {**ERRORS, **{code.removeprefix("_"): text for code, text in more.items()}}
    return {code: {"description": text, "content": content(PROBLEM_REF)} for code, text in told.items()}


def content(schema: Document) -> Document:
    return {"application/json": {"schema": schema}}


def parameter(name: str) -> Document:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def query(name: str, schema: Document) -> Document:
    return {"name": name, "in": "query", "schema": schema}


def listed(items: Document) -> Document:
    """The shape of a page."""
    return {
        "type": "object",
        "required": ["items"],
        "properties": {"items": {"type": "array", "items": items}, "continue": TEXT},
    }
