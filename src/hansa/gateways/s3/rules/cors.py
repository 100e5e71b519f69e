"""CORS: which origins a bucket lets read answers in a browser, and the headers that tell the browser so. Pure.

The first rule that fits is the one that counts, as it is in S3. A request without `Origin` is none of ours; a preflight
is answered without asking who sends it, since it tells nothing but the rules that fit it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hansa.gateways.s3.wire.configurations import CorsRule
from hansa.gateways.s3.wire.errors import S3Error

RULES_MAX = 100
ENTRIES_MAX = 100  # of one list of a rule
TEXT_MAX = 1024
WANTED_MAX = 64  # headers that one preflight asks for
METHODS = ("GET", "PUT", "HEAD", "POST", "DELETE")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")  # a token of HTTP, in lower case
VARY = "Origin, Access-Control-Request-Headers, Access-Control-Request-Method"

Headers = dict[str, str]


def fits(rule: CorsRule, origin: str, method: str, headers: Sequence[str] = ()) -> bool:
    """`headers`: those that a script wants to send, in lower case."""
    if method not in rule.methods or not any(_is_like(pattern, origin) for pattern in rule.origins):
        return False
    patterns = [pattern.lower() for pattern in rule.headers] if headers else []
    return all(any(_is_like(pattern, name) for pattern in patterns) for name in headers)


def _is_like(pattern: str, text: str) -> bool:
    """The one star of a pattern stands for any run. No `Glob`: a stranger's preflight may ask this of every pattern there is."""
    head, star, tail = pattern.partition("*")
    if not star:
        return pattern == text
    return len(text) >= len(head) + len(tail) and text.startswith(head) and text.endswith(tail)


# -- requests -------------------------------------------------------------------------------------


def headers_for(rules: Sequence[CorsRule], method: str, headers: Mapping[str, str]) -> Headers:
    """What an answer to a plain request carries besides, errors included; nothing when no rule fits.

    `headers`: of the request, by lower-case name.
    """
    origin = headers.get("origin")
    if not origin or not rules:
        return {}
    asked = headers.get("access-control-request-method", method)
    rule = next((rule for rule in rules if fits(rule, origin, asked)), None)
    return _answer(rule, origin) if rule is not None else {"vary": VARY}


def preflight(rules: Sequence[CorsRule], headers: Mapping[str, str], *, thing: str = "BUCKET") -> Headers:
    """The answer to OPTIONS. `thing`: what is asked about, as refusals call it.

    Raises BadRequest for one that says too little, AccessForbidden when no rule fits.
    """
    origin, method = headers.get("origin"), headers.get("access-control-request-method")
    if not origin:
        raise S3Error.of("BadRequest", "Origin: a preflight request needs this header.")
    if not rules:
        asked = method if method in METHODS else "OPTIONS"
        raise S3Error.of("AccessForbidden", "The bucket has no CORS rules.", Method=asked, ResourceType="BUCKET")
    if method not in METHODS:
        raise S3Error.of("BadRequest", f"Access-Control-Request-Method: must be one of {', '.join(METHODS)}.")
    wanted = _wanted(headers.get("access-control-request-headers", ""))
    for rule in rules:
        if fits(rule, origin, method, wanted):
            return _answer(rule, origin) | ({"access-control-allow-headers": ", ".join(wanted)} if wanted else {})
    raise S3Error.of("AccessForbidden", Method=method, ResourceType=thing).with_headers({"vary": VARY})


def _wanted(text: str) -> list[str]:
    """Names in lower case, each once: a browser sends them so."""
    names = list(dict.fromkeys(word.strip().lower() for word in text.split(",") if word.strip()))
    if len(names) > WANTED_MAX:
        raise S3Error.of("BadRequest", f"Access-Control-Request-Headers: takes at most {WANTED_MAX} names.")
    for name in names:
        if not _NAME.fullmatch(name):
            raise S3Error.of("BadRequest", f"Access-Control-Request-Headers: {name[:64]!r} is no name of a header.")
    return names


def _answer(rule: CorsRule, origin: str) -> Headers:
    anybody = "*" in rule.origins
    found = {
        "access-control-allow-origin": "*" if anybody else origin,
        "access-control-allow-methods": ", ".join(rule.methods),
        "vary": VARY,
    }
    if not anybody:
        found["access-control-allow-credentials"] = "true"
    if rule.exposed:
        found["access-control-expose-headers"] = ", ".join(rule.exposed)
    if rule.max_age_s is not None:
        found["access-control-max-age"] = str(rule.max_age_s)
    return found


# -- configurations -------------------------------------------------------------------------------


def check_rules(rules: Sequence[CorsRule]) -> None:
    """Raises MalformedXML for a shape, InvalidRequest for a value that S3 does not take."""
    if not 1 <= len(rules) <= RULES_MAX:
        raise S3Error.of("MalformedXML", f"CORSConfiguration: takes 1 to {RULES_MAX} rules.")
    for number, rule in enumerate(rules):
        _check_rule(rule, f"CORSRule[{number}]")


def _check_rule(rule: CorsRule, at: str) -> None:
    if not rule.origins or not rule.methods:
        raise S3Error.of("MalformedXML", f"{at}: needs an AllowedOrigin and an AllowedMethod.")
    for name, entries in (
        ("AllowedOrigin", rule.origins),
        ("AllowedHeader", rule.headers),
        ("ExposeHeader", rule.exposed),
    ):
        if len(entries) > ENTRIES_MAX or any(not _is_plain(entry) for entry in entries):
            raise _invalid(f"{at}.{name}", f"takes up to {ENTRIES_MAX} texts of 1 to {TEXT_MAX} printable characters")
        if any(entry.count("*") > (name != "ExposeHeader") for entry in entries):
            raise _invalid(f"{at}.{name}", "may not hold a star" if name == "ExposeHeader" else "may hold one star")
    for method in rule.methods:
        if method not in METHODS:
            raise _invalid(f"{at}.AllowedMethod", f"{method[:32]!r} is none of {', '.join(METHODS)}")
    if rule.max_age_s is not None and not 0 <= rule.max_age_s < 2**31:
        raise _invalid(f"{at}.MaxAgeSeconds", "must be 0 or more")
    if len(rule.id) > 255:
        raise _invalid(f"{at}.ID", "takes at most 255 characters")


def _is_plain(text: str) -> bool:
    """What may stand in a header of an answer: no line may be begun by it."""
    return 1 <= len(text) <= TEXT_MAX and text.isprintable()


def _invalid(at: str, rule: str) -> S3Error:
    return S3Error.of("InvalidRequest", f"{at}: {rule}.")


# -- as the bucket's spec keeps them --------------------------------------------------------------


def rules_from(document: Mapping[str, Any] | None) -> tuple[CorsRule, ...]:
    """The rules of a bucket's `cors`: none where it has none."""
    return tuple(
        CorsRule(
            origins=tuple(rule["allowedOrigins"]),
            methods=tuple(rule["allowedMethods"]),
            headers=tuple(rule.get("allowedHeaders", ())),
            exposed=tuple(rule.get("exposeHeaders", ())),
            max_age_s=rule.get("maxAgeSeconds"),
            id=rule.get("id", ""),
        )
        for rule in (document or {}).get("rules", ())
    )


def document_of(rules: Sequence[CorsRule]) -> dict[str, Any]:
    return {"rules": [_document(rule) for rule in rules]}


def _document(rule: CorsRule) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": rule.id,
        "allowedOrigins": list(rule.origins),
        "allowedMethods": list(rule.methods),
        "allowedHeaders": list(rule.headers),
        "exposeHeaders": list(rule.exposed),
    }
    found = {name: value for name, value in found.items() if value}
    return found | ({} if rule.max_age_s is None else {"maxAgeSeconds": rule.max_age_s})
