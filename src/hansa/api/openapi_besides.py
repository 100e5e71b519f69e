"""What the API offers beyond objects of a kind, for the OpenAPI document: identities, audit, events, tokens. Pure."""

from __future__ import annotations

from hansa.api.openapi_parts import DATE, TEXT, content, errors, listed, parameter, query
from hansa.kinds.resource import Document
from hansa.units import LIST_LIMIT_MAX

IAM = "/iam/v1beta1"
REALM = "/realms/evroc-customer"
LIMIT: Document = {"type": "integer", "minimum": 1, "maximum": LIST_LIMIT_MAX}


def besides_paths() -> Document:
    return {**_identities(), **_people(), **_records(), **_tokens(), **_documents()}


def besides_schemas() -> Document:
    texts = (
        "id",
        "who",
        "verb",
        "kind",
        "name",
        "ref",
        "uid",
        "project",
        "organization",
        "outcome",
        "reason",
        "why",
        "request",
    )
    check = {"permission": TEXT, "resource": TEXT}
    user = {"type": "object", "properties": {"name": TEXT, "email": TEXT, "enabled": {"type": "boolean"}}}
    return {
        "Role": _object("id", "description", "scope", id=TEXT, description=TEXT, scope=TEXT,
                        permissions={"type": "array", "items": TEXT}),
        "Check": _object("permission", "resource", **check),
        "Checked": _object("permission", "resource", "allowed", **check, allowed={"type": "boolean"}),
        "Person": _object("metadata", "spec", metadata={"$ref": "#/components/schemas/Metadata"}, spec=user),
        "Record": _object("id", "at", "outcome", at=DATE, since=DATE, **dict.fromkeys(texts, TEXT),
                          status={"type": "integer"}, count={"type": "integer"}, counts={"type": "object"}),
        "Event": _object("revision", "at", "act", "kind", "id", "ref", revision={"type": "integer"}, at=DATE,
                         **dict.fromkeys(("act", "by", "request", "kind", "id", "ref", "reason", "message"), TEXT)),
        "OAuthError": _object("error", error=TEXT, error_description=TEXT),
    }  # fmt: skip


def event_page() -> Document:
    return listed(_ref("Event"))


# -- groups of paths ----------------------------------------------------------------------------


def _identities() -> Document:
    checks = {"type": "array", "minItems": 1, "maxItems": 256, "items": _ref("Check")}
    results = _object("results", results={"type": "array", "items": _ref("Checked")})
    me = _object("principal", "grants", principal=TEXT, grants={"type": "array", "items": {"type": "object"}})
    assign = _object("principal", "role", principal=TEXT, role=TEXT, resources={"type": "array", "items": TEXT})
    found: Document = {
        f"{IAM}/roles": {"get": _call("listRoles", "The roles, with what they permit", listed(_ref("Role")))},
        f"{IAM}/me": {"get": _call("getMe", "Who asks, and with which roles", me)},
        f"{IAM}/me/roleBindings": {
            "get": _call("listMyRoleBindings", "What gives me my roles", listed(_ref("RoleBinding")))
        },
        f"{IAM}/testPermissions": {
            "post": _call("testPermissions", "What may I do?", results, _object("checks", checks=checks))
        },
        f"{IAM}/checkAccess": {
            "post": _call("checkAccess", "What may somebody else do?", results,
                          _object("principal", "checks", principal=TEXT, checks=checks))
        },
    }  # fmt: skip
    for what in ("project", "organization"):
        for verb in ("assign", "revoke"):
            call = _call(f"{verb}RoleOn{what.capitalize()}", f"{verb} a role", _ref("RoleBinding"), assign)
            found[f"{IAM}/{what}s/{{{what}}}/roleBindings/{verb}"] = {"parameters": [parameter(what)], "post": call}
    return found


def _people() -> Document:
    path, organization = f"{IAM}/organizations/{{organization}}/users", parameter("organization")
    one = {"parameters": [organization, parameter("id")]}
    spec = {"type": "object", "properties": {"email": TEXT, "name": TEXT}}
    add = _object("spec", spec={**spec, "required": ["email"]}, password=TEXT)
    change = _object(spec={"type": "object", "properties": {"name": TEXT, "enabled": {"type": "boolean"}}})
    person = _ref("Person")
    return {
        path: {
            "parameters": [organization],
            "get": _call("listUsers", "People of an organisation", listed(person)),
            "post": _call("addUser", "A new person", person, add, "201"),
        },
        f"{path}/{{id}}": {
            **one,
            "get": _call("getUser", "One person", person),
            "patch": _call("changeUser", "A name, or who may not log in any more", person, change),
        },
        f"{path}/{{id}}/password": {
            **one,
            "post": _call("setUserPassword", "A new password", person, _object("password", password=TEXT)),
        },
        f"{IAM}/me/password": {
            "post": _call("setMyPassword", "A new password of one's own", person,
                          _object("current", "password", current=TEXT, password=TEXT)),
        },
    }  # fmt: skip


def _records() -> Document:
    found: Document = {}
    filters = [query(name, TEXT) for name in ("who", "kind", "verb", "outcome", "request", "name", "continue")]
    moments = [query(name, DATE) for name in ("since", "until")]
    for what in ("project", "organization"):
        call = _call(f"listRecordsOf{what.capitalize()}", "The audit, newest first", listed(_ref("Record")))
        call["parameters"] = [*filters, *moments, query("limit", LIMIT)]
        found[f"/audit/v1/{what}s/{{{what}}}/records"] = {"parameters": [parameter(what)], "get": call}
    shown = _object("items", "revision", items={"type": "array", "items": _ref("Event")}, revision={"type": "integer"})
    events = _call("listEventsOfProject", "What happened in a project", shown)
    events["parameters"] = [query("after", {"type": "integer", "minimum": 0}), query("limit", LIMIT)]
    events["responses"].update(errors(_410="changes after that revision are no longer kept"))
    found["/events/v1/projects/{project}"] = {"parameters": [parameter("project")], "get": events}
    return found


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
