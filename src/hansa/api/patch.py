"""A user's document, changed: JSON merge patch, unknown fields pruned, rules on fields held. Pure.

Merge patch is RFC 7396. Labels are replaced as a whole. Read-only parts (status, uid, …) are never looked
at here: the caller hands over only `spec` and `metadata.userLabels`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from hansa.errors import FieldError, HansaError, ImmutableField, Invalid, Unprocessable
from hansa.kinds.resource import AnyResource, Document, Spec, Stored
from hansa.kinds.rules import Rule, model_in, ruled_fields
from hansa.units import LABEL_KEY_LENGTH_MAX, LABEL_VALUE_LENGTH_MAX, LABELS_MAX

DEPTH_MAX = 32


def refuse_deep(document: Any) -> None:
    """Raises Invalid for a document of more levels than anything here needs: whoever walks it may recurse."""
    level, depth = [document], 0
    while level:
        depth += 1
        if depth > DEPTH_MAX:
            raise Invalid(f"the document is nested deeper than {DEPTH_MAX} levels")
        level = [v for each in level for v in _inside(each) if isinstance(v, (dict, list))]


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def merge(old: Any, patch: Any, depth: int = 0) -> Any:
    """RFC 7396: absent keeps, null removes, objects merge, everything else replaces."""
    if depth > DEPTH_MAX:
        raise Invalid(f"the document is nested deeper than {DEPTH_MAX} levels")
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value, depth + 1)
    return merged


def without_nulls(value: Any) -> Any:
    """A new document as merge patch would have made it of nothing."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_nulls(v) for v in value]
    return value


def prune(model: type[BaseModel], document: Any) -> Any:
    """The document without the fields that its type does not know."""
    if not isinstance(document, dict):
        return document
    known = _known(model)
    return {k: _prune_value(known[k], v) for k, v in document.items() if k in known}


@cache
def _known(model: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    """Its fields as they are called on the wire, each with the model inside."""
    return {info.alias or name: _model_inside(info.annotation) for name, info in model.model_fields.items()}


def _prune_value(inner: type[BaseModel] | None, value: Any) -> Any:
    if inner is None:
        return value
    if isinstance(value, list):
        return [prune(inner, v) for v in value]
    return prune(inner, value)


def _model_inside(annotation: Any) -> type[BaseModel] | None:
    """The model in `M`, `M | None`, `list[M]`, `list[M] | None`."""
    if (found := model_in(annotation)) is not None:
        return found
    for part in get_args(annotation):
        if (found := _model_inside(part)) is not None:
            return found
    return None


def unknown_fields(model: type[BaseModel], document: Any, at: str = "spec") -> Iterator[str]:
    """Paths of fields that the type does not know: what a strict reading refuses."""
    if isinstance(document, list):
        for i, value in enumerate(document):
            yield from unknown_fields(model, value, f"{at}[{i}]")
    elif isinstance(document, dict):
        known = _known(model)
        for name, value in document.items():
            if name not in known:
                yield f"{at}.{name}"
            elif (inner := known[name]) is not None:
                yield from unknown_fields(inner, value, f"{at}.{name}")


def read_spec(kind: type[AnyResource], document: Document, status: int = 400) -> Spec:
    """The typed reading. Raises Invalid naming every wrong field, 422 for a change that makes no sense."""
    try:
        return kind.spec_type.model_validate(document)
    except ValidationError as error:
        found = tuple(_field_error(e) for e in error.errors(include_url=False))
        text = "; ".join(f"{f.path}: {f.message}" for f in found[:5])
        raise (Invalid if status == 400 else Unprocessable)(text, fields=found) from error


def _field_error(error: Any) -> FieldError:
    path = "spec"
    for part in error["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    message = str(error["msg"]).removeprefix("Value error, ")
    value = error.get("input")
    if error["type"] == "missing":
        return FieldError(path, "is required")
    if isinstance(value, (str, int, float, bool)) and len(str(value)) <= 80:
        message += f" (given: {value!r})"
    return FieldError(path, message)


def check_rules(kind: type[AnyResource], stored: Stored, old: Spec, new: Spec) -> None:
    """May each changed field change now? Raises ImmutableField or Unprocessable."""
    for ruled in ruled_fields(kind.spec_type):
        if ruled.rule in (Rule.ECHOED, Rule.HIDDEN):
            continue
        before, after = _typed(old, ruled.path), _typed(new, ruled.path)
        if before != after:
            _check_change(kind, stored, ruled.rule, "spec." + ".".join(ruled.path), before, after)


def _check_change(kind: type[AnyResource], stored: Stored, rule: Rule, path: str, before: Any, after: Any) -> None:
    if rule is Rule.SECRET:
        raise _refused(ImmutableField, path, "may not change after creation")
    if rule is Rule.FIXED:
        raise _refused(
            ImmutableField, path, f"may not change after creation (is {_show(before)}, given {_show(after)})"
        )
    if rule is Rule.STOPPED and not kind.stopped(stored):
        raise _refused(Unprocessable, path, "may change only while it is stopped: set spec.running to false and wait")
    if rule is Rule.GROWS and before is not None:
        if after is None:
            raise _refused(Unprocessable, path, "may not be removed once it is set")
        if after.size_bytes < before.size_bytes:
            raise _refused(Unprocessable, path, f"may not shrink from {before} to {after}")


def _refused(error: type[HansaError], path: str, message: str) -> HansaError:
    return error(f"{path}: {message}", fields=(FieldError(path, message),))


def _typed(spec: BaseModel, path: tuple[str, ...]) -> Any:
    value: Any = spec
    for alias in path:
        if value is None:
            return None
        fields = type(value).model_fields
        value = getattr(value, next(n for n, info in fields.items() if (info.alias or n) == alias))
    return value


def _show(value: Any) -> str:
    if isinstance(value, BaseModel):
        return str(value.model_dump(mode="json", by_alias=True, exclude_none=True))
    return repr(value)


def check_labels(labels: Any) -> dict[str, str]:
    """The whole new map of user labels; keys with null are dropped. Raises Invalid."""
    if labels is None:
        return {}
    at = "metadata.userLabels"
    if not isinstance(labels, dict):
        raise Invalid.field(at, "must be a map from text to text")
    kept = {k: v for k, v in labels.items() if v is not None}
    if len(kept) > LABELS_MAX:
        raise Invalid.field(at, f"has {len(kept)} labels; at most {LABELS_MAX} are kept")
    for key, value in kept.items():
        if not isinstance(value, str):
            raise Invalid.field(f"{at}.{key}", "must be text")
        if not 0 < len(key) <= LABEL_KEY_LENGTH_MAX or len(value) > LABEL_VALUE_LENGTH_MAX:
            raise Invalid.field(f"{at}.{key[:40]}", f"a key has 1 to {LABEL_KEY_LENGTH_MAX} characters, "
                                f"a value at most {LABEL_VALUE_LENGTH_MAX}")  # fmt: skip
    return kept
