"""OpenAPI of what `api.identities` and `api.users` offer beyond kinds. Data, no code but its composition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hansa.kinds.resource import Document

_TEXT: Document = {"type": "string"}
_ANY: Document = {"type": "object"}
_CHECK: Document = {
    "type": "object",
    "required": ["permission", "resource"],
    "properties": {"permission": _TEXT, "resource": _TEXT},
}
_CHECKS: Document = {"type": "array", "items": _CHECK, "minItems": 1, "maxItems": 256}
_RESULTS: Document = {
    "type": "object",
    "properties": {
        "results": {
            "type": "array",
            "items": {**_CHECK, "properties": {**_CHECK["properties"], "allowed": {"type": "boolean"}}},
        }
    },
}
_ITEMS: Document = {"type": "object", "properties": {"items": {"type": "array", "items": _ANY}}}
_PAGE: Document = {"type": "object", "properties": {**_ITEMS["properties"], "continue": _TEXT}}
_BINDING: Document = {"$ref": "#/components/schemas/RoleBinding"}
_USER: Document = {
    "type": "object",
    "properties": {
        "spec": {"type": "object", "properties": {"email": _TEXT, "name": _TEXT, "enabled": {"type": "boolean"}}},
        "password": {"type": "string", "writeOnly": True},
    },
}
_PASSWORD: Document = {
    "type": "object",
    "required": ["password"],
    "properties": {"password": {"type": "string", "writeOnly": True}, "current": {"type": "string", "writeOnly": True}},
}


def _asks(*names: str, **more: Any) -> Document:
    return {"type": "object", "required": list(names), "properties": {**dict.fromkeys(names, _TEXT), **more}}


_PLACES = (("projects", "project", "Project"), ("organizations", "organization", "Organization"))
_FILTERS = ("who", "kind", "name", "verb", "outcome", "request", "since", "until", "limit", "continue")
_RESOURCES: Document = {"type": "array", "items": _TEXT}


def identity_paths(errors: Callable[[], Document]) -> Document:
    """`errors`: the answers that every operation may give."""

    def call(id: str, summary: str, shows: Document, takes: Document | None = None, code: str = "200") -> Document:
        answer = {"description": "done", "content": {"application/json": {"schema": shows}}}
        body = {"requestBody": {"required": True, "content": {"application/json": {"schema": takes}}}} if takes else {}
        return {
            "operationId": id,
            "summary": summary,
            "tags": ["Access"],
            "responses": {**errors(), code: answer},
            **body,
        }

    iam = "/iam/v1beta1"
    paths: Document = {
        f"{iam}/roles": {"get": call("listRoles", "The roles, with their permissions", _ITEMS)},
        f"{iam}/me": {"get": call("whoAmI", "Who asks, and which roles they hold where", _ANY)},
        f"{iam}/me/roleBindings": {"get": call("listMyRoleBindings", "The caller's own bindings", _ITEMS)},
        f"{iam}/me/password": {"post": call("changeMyPassword", "One's own password", _ANY, _PASSWORD)},
        f"{iam}/testPermissions": {
            "post": call(
                "testPermissions", "May the caller?", _RESULTS, _asks(checks=_CHECKS) | {"required": ["checks"]}
            )
        },
        f"{iam}/checkAccess": {
            "post": call("checkAccess", "May somebody else?", _RESULTS, _asks("principal", checks=_CHECKS))
        },
    }
    for collection, name, called in _PLACES:
        given = [{"name": name, "in": "path", "required": True, "schema": _TEXT}]
        base = f"{iam}/{collection}/{{{name}}}/roleBindings"
        paths[f"{base}/assign"] = {
            "parameters": given,
            "post": call(
                f"assign{called}Role", "Give a role", _BINDING, _asks("principal", "role", resources=_RESOURCES)
            ),
        }
        paths[f"{base}/revoke"] = {
            "parameters": given,
            "post": call(f"revoke{called}Role", "Take a role away", _BINDING, _asks("principal", "role")),
        }
        filters = [{"name": each, "in": "query", "schema": _TEXT} for each in _FILTERS]
        paths[f"/audit/v1/{collection}/{{{name}}}/records"] = {
            "parameters": [*given, *filters],
            "get": call(f"read{called}Audit", "Who did what, and who was refused: newest first", _PAGE),
        }
    given = [{"name": "organization", "in": "path", "required": True, "schema": _TEXT}]
    one = [*given, {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}]
    people = f"{iam}/organizations/{{organization}}/users"
    paths[people] = {
        "parameters": given,
        "get": call("listUsers", "The organisation's people", _ITEMS),
        "post": call("addUser", "Add a person", _ANY, _USER, "201"),
    }
    paths[f"{people}/{{id}}"] = {
        "parameters": one,
        "get": call("getUser", "One of them", _ANY),
        "patch": call("changeUser", "Name, and whether they are let in", _ANY, _USER),
    }
    paths[f"{people}/{{id}}/password"] = {
        "parameters": one,
        "post": call("setPassword", "Set a password; logins made with the old one end", _ANY, _PASSWORD),
    }
    return paths
