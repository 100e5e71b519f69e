"""What the API says of itself: OpenAPI 3.1 and the table of kinds, both from the registry. Pure."""

from __future__ import annotations

from typing import Any

from hansa.api.identity_documents import identity_paths
from hansa.api.openapi_besides import besides_paths, besides_schemas, event_page
from hansa.api.openapi_parts import PROBLEM_REF as _PROBLEM_REF
from hansa.api.openapi_parts import content as _content
from hansa.api.openapi_parts import errors as _errors
from hansa.api.openapi_parts import listed
from hansa.api.openapi_parts import parameter as _parameter
from hansa.api.openapi_parts import query as _query
from hansa.kinds import catalogue
from hansa.kinds.registry import all_kinds, all_unbuilt
from hansa.kinds.resource import AnyResource, Document, Wire
from hansa.units import LIST_LIMIT_MAX

assert catalogue.MODULES  # the registry is whole

METHOD_OF = {"L": "get", "C": "post", "G": "get", "P": "patch", "D": "delete", "S": "get"}


def openapi_document() -> Document:
    """OpenAPI 3.1 of the whole native API."""
    schemas: Document = {
        "Problem": _PROBLEM,
        "Metadata": _METADATA,
        "ConsoleTicket": _TICKET,
        "Interval": _INTERVAL,
        **besides_schemas(),
    }
    paths: Document = {
        "/healthz": _plain("Is the process alive?"),
        "/readyz": _plain("Can it serve?", "503"),
        "/console/v1": _CONSOLE,
        **besides_paths(),
        "/ledger/v1/projects/{project}/usage": _usage_path(),
        "/decisions/v1/{id}": _decision_path(),
    }
    for kind in all_kinds():
        if kind.public:
            schemas.update(_schemas(kind))
            for scope in kind.scopes:
                paths.update(_paths(kind, scope))
    paths.update(identity_paths(_errors))
    for missing in all_unbuilt():
        paths[_path(missing.service, missing.version, missing.scope, missing.collection)] = _missing_path(missing)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Hansa", "version": "0.1.0", "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _plain(summary: str, *more: str) -> Document:
    answers = {code: {"description": "no", "content": _content({"type": "object"})} for code in more}
    return {"get": {"summary": summary, "security": [],
                    "responses": {"200": {"description": "yes", "content": _content({"type": "object"})}, **answers}}}  # fmt: skip


def _usage_path() -> Document:
    filters = [_query(name, _TEXT) for name in ("uid", "kind", "meter", "region", "zone", "continue")]
    moments = [_query(name, {"type": "string", "format": "date-time"}) for name in ("since", "until")]
    limit = _query("limit", {"type": "integer", "minimum": 1, "maximum": LIST_LIMIT_MAX})
    items = {"type": "array", "items": {"$ref": "#/components/schemas/Interval"}}
    page = {"type": "object", "required": ["items"], "properties": {"items": items, "continue": _TEXT}}
    return {"parameters": [_parameter("project")], "get": {
        "operationId": "listUsage", "summary": "What a project used: intervals in the order in which they opened",
        "parameters": [*filters, *moments, _query("open", {"type": "boolean"}), limit],
        "responses": {**_errors(), "200": {"description": "a page", "content": _content(page)}}}}  # fmt: skip


def _decision_path() -> Document:
    shown = {"type": "object", "required": ["id", "at", "type", "ref"]}
    return {"parameters": [_parameter("id")], "get": {
        "operationId": "getDecision", "summary": "A verdict on a write, or a placement, with its reasons",
        "responses": {**_errors(), "200": {"description": "the decision", "content": _content(shown)}}}}  # fmt: skip


def _path(service: str, version: str, scope: str, collection: str) -> str:
    return "/" + "/".join(p for p in (service, version, scope, collection) if p)


def _schemas(kind: type[AnyResource]) -> Document:
    found: Document = {}
    for half, model in (("Spec", kind.spec_type), ("Status", kind.status_type)):
        schema = model.model_json_schema(by_alias=True, ref_template="#/components/schemas/{model}")
        found.update(schema.pop("$defs", {}))
        schema.get("properties", {}).pop("", None)
        if half == "Status":
            for name in kind.hidden:
                schema.get("properties", {}).pop(name, None)
        found[f"{kind.kind}{half}"] = schema
    found[kind.kind] = {
        "type": "object",
        "description": (kind.__doc__ or "").strip(),
        "required": ["apiVersion", "kind", "metadata", "spec", "status"],
        "properties": {
            "apiVersion": {"const": f"{kind.service}/{kind.version}"},
            "kind": {"const": kind.kind},
            "metadata": {"$ref": "#/components/schemas/Metadata"},
            "spec": {"$ref": f"#/components/schemas/{kind.kind}Spec"},
            "status": {"$ref": f"#/components/schemas/{kind.kind}Status"},
        },
    }
    if kind.data_type is not None:
        _show_data(found, kind, kind.data_type)
    found[f"{kind.kind}Create"] = {
        "type": "object",
        "required": ["metadata", "spec"],
        "properties": {
            "apiVersion": {"const": f"{kind.service}/{kind.version}"},
            "kind": {"const": kind.kind},
            "metadata": {"$ref": "#/components/schemas/Metadata"},
            "spec": {"$ref": f"#/components/schemas/{kind.kind}Spec"},
        },
    }
    return found


def _show_data(found: Document, kind: type[AnyResource], model: type[Wire]) -> None:
    """Reading such an object shows `data` in the place of spec and status."""
    name, envelope = f"{kind.kind}Data", found[kind.kind]
    found[name] = model.model_json_schema(by_alias=True, ref_template="#/components/schemas/{model}")
    kept = {key: value for key, value in envelope["properties"].items() if key not in ("spec", "status")}
    envelope["properties"] = {**kept, "data": {"$ref": f"#/components/schemas/{name}"}}
    envelope["required"] = ["apiVersion", "kind", "metadata", "data"]


def _paths(kind: type[AnyResource], scope: str) -> Document:
    base = _path(kind.service, kind.version, scope, kind.collection)
    given = [_parameter(p[1:-1]) for p in scope.split("/") if p.startswith("{")]
    paths: Document = {base: {"parameters": given} if given else {}}
    one: Document = {"parameters": [*given, _parameter("id")]}
    for verb in kind.verbs:
        target = paths[base] if verb in "LCS" else one
        target[METHOD_OF[verb]] = _operation(kind, verb, scope)
    if set(kind.verbs) & set("GPD"):
        paths[base + "/{id}"] = one
        paths[base + "/{id}/why"] = {
            "parameters": one["parameters"],
            "get": _simple(kind, "why", "Why is it as it is?", scope=scope),
        }
        paths[base + "/{id}/events"] = {"parameters": one["parameters"],
                                        "get": _events_of(kind, scope)}  # fmt: skip
    for action in kind.actions:
        if action in ("start", "stop", "revoke", "rotate"):
            code = "200" if action in ("revoke", "rotate") else "202"
            paths[f"{base}/{{id}}/{action}"] = {"parameters": one["parameters"],
                                                "post": _simple(kind, action, f"{action} it", code, kind.kind)}  # fmt: skip
        if action == "console":
            operation = _simple(kind, "console", "A ticket that opens its serial console, once", "201", "ConsoleTicket")
            paths[f"{base}/{{id}}/console"] = {"parameters": one["parameters"], "post": operation}
        if action == "logs":
            operation = _simple(kind, "logs", "The end of the console log")
            operation["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
            operation["parameters"] = [_query("bytes", {"type": "integer", "minimum": 1, "maximum": 1 << 20})]
            paths[f"{base}/{{id}}/logs"] = {"parameters": one["parameters"], "get": operation}
    return paths


def _operation(kind: type[AnyResource], verb: str, scope: str) -> Document:
    ref = {"$ref": f"#/components/schemas/{kind.kind}"}
    where = _where(kind, scope)
    names = {"L": "list", "C": "create", "G": "get", "P": "patch", "D": "delete", "S": "get"}
    operation: Document = {
        "operationId": f"{names[verb]}{kind.kind}{where}",
        "tags": [kind.kind],
        "responses": _errors(),
    }
    responses = operation["responses"]
    if verb == "L":
        lines = {"application/x-ndjson": {"schema": {"type": "string"}}}
        responses["200"] = {
            "description": "all of them, or lines of changes",
            "content": {**_content(listed(ref)), **lines},
        }
        responses.update(_errors(_410="changes after that revision are no longer kept"))
        operation["parameters"] = [
            _query("labelSelector", {"type": "string"}),
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 5000}),
            _query("continue", {"type": "string", "pattern": "^[0-9]{0,18}$"}),
            _query("watch", {"type": "boolean"}),
            _query("after", {"type": "integer", "minimum": 0}),
        ]
    elif verb == "C":
        responses["201"] = {"description": "made", "content": _content(ref)}
        responses["200"] = {"description": "a dry run", "content": _content(_REHEARSED)}
        responses.update(_errors(_501="it points at something that is not built yet"))
        operation["requestBody"] = {"required": True,
                                    "content": _content({"$ref": f"#/components/schemas/{kind.kind}Create"})}  # fmt: skip
        operation["parameters"] = [*_SWITCHES, {"name": "Idempotency-Key", "in": "header",
                                                "schema": {"type": "string", "maxLength": 200}}]  # fmt: skip
    elif verb == "P":
        responses["200"] = {
            "description": "the whole object, or a dry run",
            "content": _content({"anyOf": [ref, _REHEARSED]}),
        }
        responses.update(_errors(_501="it points at something that is not built yet"))
        patch = {"schema": {"type": "object"}}
        operation["requestBody"] = {"required": True, "content": {"application/json": patch,
                                                                  "application/merge-patch+json": patch}}  # fmt: skip
        operation["parameters"] = list(_SWITCHES)
    elif verb == "D":
        responses["204"] = {"description": "going"}
        operation["parameters"] = list(_SWITCHES[:1])
    else:
        responses["200"] = {"description": "the object", "content": _content(ref)}
    return operation


def _where(kind: type[AnyResource], scope: str) -> str:
    """What tells the operations of one scope of a kind from those of another."""
    return "" if scope == kind.scope else "In" + scope.split("/", maxsplit=1)[0].capitalize()


def _simple(
    kind: type[AnyResource], name: str, summary: str, code: str = "200", shows: str = "", *, scope: str = ""
) -> Document:
    schema = {"$ref": f"#/components/schemas/{shows}"} if shows else {"type": "object"}
    where = _where(kind, scope) if scope else ""
    return {"operationId": f"{name}{kind.kind}{where}", "summary": summary, "tags": [kind.kind],
            "responses": {**_errors(), code: {"description": "done", "content": _content(schema)}}}  # fmt: skip


def _events_of(kind: type[AnyResource], scope: str) -> Document:
    operation = _simple(kind, "events", "What happened to it", scope=scope)
    operation["responses"]["200"]["content"] = _content(event_page())
    operation["parameters"] = [_query("limit", {"type": "integer", "minimum": 1, "maximum": LIST_LIMIT_MAX})]
    return operation


def _missing_path(missing: Any) -> Document:
    given = [_parameter(p[1:-1]) for p in missing.scope.split("/") if p.startswith("{")]
    answer = {"501": {"description": f"not built yet: {missing.reason}", "content": _content(_PROBLEM_REF)}}
    item: Document = {"get": {"summary": f"Not built yet: {missing.reason}", "responses": {**_errors(), **answer}}}
    return {"parameters": given, **item} if given else item


_SWITCHES = (_query("dryRun", {"type": "boolean"}), _query("strict", {"type": "boolean"}))
_TEXT = {"type": "string"}
_REHEARSED: Document = {
    "type": "object",
    "required": ["dryRun", "object"],
    "properties": {"dryRun": {"const": True}, "object": {"type": "object"}, "verdict": {"type": "object"},
                   "placement": {"type": ["object", "null"]}},
}  # fmt: skip
_PROBLEM: Document = {
    "type": "object",
    "required": ["reason", "debug"],
    "properties": {
        "reason": _TEXT,
        "debug": _TEXT,
        "help": _TEXT,
        "request": _TEXT,
        "details": {"type": "object", "description": "figures of a spent quota, the id of the decision"},
        "fields": {"type": "array", "items": {"type": "object", "properties": {"path": _TEXT, "message": _TEXT}}},
    },
}
_TICKET: Document = {
    "type": "object",
    "required": ["ticket", "expiresIn", "url"],
    "properties": {
        "ticket": {"type": "string", "description": "good for one WebSocket at /console/v1"},
        "expiresIn": {"type": "integer", "description": "seconds, at most 30"},
        "url": {"type": "string", "format": "uri", "description": "the WebSocket, ticket and all"},
    },
}
_INTERVAL: Document = {
    "type": "object",
    "required": ["id", "uid", "meter", "quantity", "unit", "start", "open", "seconds", "consumed"],
    "properties": {
        **dict.fromkeys(("id", "uid", "ref", "kind", "project", "organization", "region", "zone", "meter", "unit", "sku"), _TEXT),
        "quantity": {"type": "integer", "description": "units drawn all the time"},
        "start": {"type": "string", "format": "date-time"},
        "end": {"type": "string", "format": "date-time", "description": "absent while it is open"},
        "open": {"type": "boolean"},
        "seconds": {"type": "integer", "description": "up to now while it is open; of `since` to `until` where given"},
        "consumed": {"type": "integer", "description": "quantity times seconds"},
        "simulated": {"type": "boolean", "description": "no real thing stood behind it"},
    },
}  # fmt: skip
_CONSOLE: Document = {
    "get": {
        "summary": "The serial console of a machine, as a WebSocket of binary frames",
        "operationId": "openConsole",
        "security": [],
        "parameters": [{**_query("ticket", _TEXT), "required": True}],
        "responses": {
            "101": {"description": "open: the end of the log comes first, then what the guest writes"},
            **_errors(),
        },
    }
}
_METADATA: Document = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": _TEXT,
        "uid": {"type": "string", "format": "uuid"},
        "creationTimestamp": {"type": "string", "format": "date-time"},
        "generation": {"type": "integer"},
        "resourceVersion": _TEXT,
        "project": _TEXT,
        "region": _TEXT,
        "organization": _TEXT,
        "userLabels": {"type": "object", "additionalProperties": _TEXT},
        "systemLabels": {"type": "object", "additionalProperties": _TEXT},
    },
}
