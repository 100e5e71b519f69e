"""What the API offers beyond objects of a kind, for the OpenAPI document: events, tokens, health. Pure."""

from __future__ import annotations

from hansa.api.openapi_parts import DATE, TEXT, content, errors, listed, parameter, query
from hansa.kinds.resource import Document
from hansa.units import LIST_LIMIT_MAX

REALM = "/realms/evroc-customer"
LIMIT: Document = {"type": "integer", "minimum": 1, "maximum": LIST_LIMIT_MAX}


def besides_paths() -> Document:
    return {**_events(), **_tokens(), **_documents()}


def besides_schemas() -> Document:
    return {
        "Event": _object("revision", "at", "act", "kind", "id", "ref", revision={"type": "integer"}, at=DATE,
                         **dict.fromkeys(("act", "by", "request", "kind", "id", "ref", "reason", "message"), TEXT)),
        "OAuthError": _object("error", error=TEXT, error_description=TEXT),
    }  # fmt: skip


def event_page() -> Document:
    return listed(_ref("Event"))


# -- groups of paths ----------------------------------------------------------------------------


def _events() -> Document:
    shown = _object("items", "revision", items={"type": "array", "items": _ref("Event")}, revision={"type": "integer"})
    events = _call("listEventsOfProject", "What happened in a project", shown)
    events["parameters"] = [query("after", {"type": "integer", "minimum": 0}), query("limit", LIMIT)]
    events["responses"].update(errors(_410="changes after that revision are no longer kept"))
    return {"/events/v1/projects/{project}": {"parameters": [parameter("project")], "get": events}}


def _tokens() -> Document:
    names = (
        "grant_type",
        "client_id",
        "refresh_token",
        "username",
        "password",
        "client_assertion",
        "client_assertion_type",
    )
    form = _object("grant_type", **dict.fromkeys(names, TEXT))
    given = _object("access_token", "token_type", "expires_in", access_token=TEXT, token_type=TEXT, scope=TEXT,
                    refresh_token=TEXT, expires_in={"type": "integer"})  # fmt: skip
    answers = {
        "200": {"description": "an access token", "content": content(given)},
        **{code: {"description": text, "content": content(_ref("OAuthError"))}
           for code, text in (("400", "refused"), ("401", "the client is not known"), ("405", "use POST"),
                              ("429", "too many wrong passwords: wait a minute"))},
    }  # fmt: skip
    token: Document = {
        "summary": "A refresh token, a password or a signed assertion for an access token",
        "operationId": "token",
        "security": [],
        "requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": form}}},
        "responses": {**errors(), **answers},
    }
    return {
        f"{REALM}/protocol/openid-connect/token": {"post": token},
        f"{REALM}/protocol/openid-connect/certs": {
            "get": _open("certs", "The keys that tokens are signed with", _object("keys", keys={"type": "array"}))
        },
        f"{REALM}/.well-known/openid-configuration": {
            "get": _open("openidConfiguration", "Where the token service is",
                         _object("issuer", "token_endpoint", "jwks_uri")),
        },
    }  # fmt: skip


def _documents() -> Document:
    ready = _object("ready", "checks", ready={"type": "boolean"}, why=TEXT,
                    checks={"type": "object", "additionalProperties": TEXT})  # fmt: skip
    readiness = _open("ready", "Can this process do its work?", ready)
    readiness["responses"]["503"] = {"description": "no, and what is wrong", "content": content(ready)}
    return {
        "/openapi.json": {"get": _open("openapi", "This document", _object("openapi", "paths"))},
        "/explain/v1/kinds": {"get": _call("explain", "Every kind, for people", listed({"type": "object"}))},
        "/health/live": {"get": _open("live", "Is the process alive?", _object("status", status=TEXT))},
        "/health/ready": {"get": readiness},
    }


# -- pure ---------------------------------------------------------------------------------------


def _ref(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(*required: str, **properties: Document) -> Document:
    return {"type": "object", "required": list(required), "properties": properties}


def _call(name: str, summary: str, shown: Document, body: Document | None = None, code: str = "200") -> Document:
    call: Document = {
        "operationId": name,
        "summary": summary,
        "responses": {**errors(), code: {"description": "done", "content": content(shown)}},
    }
    if body is not None:
        call["requestBody"] = {"required": True, "content": content(body)}
    return call


def _open(name: str, summary: str, shown: Document) -> Document:
    """What needs no token."""
    return {**_call(name, summary, shown), "security": []}
