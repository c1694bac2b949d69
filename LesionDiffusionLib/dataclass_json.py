"""Dataclasses from parsed JSON or TOML: nested ones are rebuilt, and whatever does not fit is named by its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Kind = TypeVar("Kind")


def from_json(kind: type[Kind], data: object, where: str) -> Kind:
    """``data`` as a ``kind``; lists become tuples. Raises ValueError naming the place within ``where``."""
    if not isinstance(data, dict):
        raise ValueError(f"expected an object at {where}, got {type(data).__name__}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    required = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    if set(data) - set(fields) or required - set(data):
        wrong = ", ".join(sorted((set(data) - set(fields)) | (required - set(data))))
        raise ValueError(f"unknown or missing entries at {where}: {wrong}")
    hints = get_type_hints(kind)
    values = {name: _value(hints[name], value, f"{where}: {name}") for name, value in data.items()}
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"impossible values at {where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    plain = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if value is None and NoneType in plain:
        return None
    nested = next(filter(dataclasses.is_dataclass, plain), None)
    if nested is not None:
        return from_json(nested, value, where)
    sequence = next((kind for kind in plain if get_origin(kind) is tuple), None)
    if sequence is not None:
        return _tuple(get_args(sequence), value, where)
    mapping = next((kind for kind in plain if get_origin(kind) is Mapping), None)
    if mapping is not None and isinstance(value, dict):
        return {key: _value(get_args(mapping)[1], item, f"{where}: {key}") for key, item in value.items()}
    wanted = tuple(dict if get_origin(t) is Mapping else t for t in plain)
    wanted = tuple(t for t in wanted if isinstance(t, type))
    if isinstance(value, float) and value.is_integer() and int in wanted and float not in wanted:
        value = int(value)  # 1e3 steps
    accepted = (*wanted, int) if float in wanted else wanted
    if wanted and (not isinstance(value, accepted) or (isinstance(value, bool) and bool not in wanted)):
        expected = hint.__name__ if isinstance(hint, type) else hint
        raise ValueError(f"expected {expected} at {where}, got {value!r:.60}")
    return value


def _tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple:
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a list at {where}, got {value!r:.60}")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise ValueError(f"expected {len(kinds)} values at {where}, got {len(value)}")
    return tuple(_value(kind, item, f"{where}[{n}]") for n, (kind, item) in enumerate(zip(kinds, value, strict=True)))
