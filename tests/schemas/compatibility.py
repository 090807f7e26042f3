"""Finds changes of a JSON Schema that its event may not have while it keeps its name.

It covers what pydantic generates: references into ``$defs``, ``properties``, ``anyOf``, ``enum``, bounds.
"""

from collections.abc import Iterator
from typing import Any, Literal

Schema = dict[str, Any]
Reader = Literal["abstream", "others"]

_UPPER, _LOWER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), (
    "minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties",
)  # fmt: skip


def breaks(old: Schema, new: Schema, reader: Reader) -> Iterator[str]:
    """Yield a sentence for each change by which ``new`` breaks programs written for ``old``.

    If abstream is the reader, all that was accepted must still be accepted. If others are, all that was promised must
    still be there. Optional fields and values of an enumeration may be added.
    """
    yield from _Comparison(old, new, reader).of(old, new, "event")


class _Comparison:
    def __init__(self, old: Schema, new: Schema, reader: Reader) -> None:
        self._old, self._new, self._reader = old, new, reader

    def of(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        old, new = _resolved(old, self._old), _resolved(new, self._new)
        yield from self._types(old, new, path)
        yield from self._required(old, new, path)
        yield from self._bounds(old, new, path)
        for name, schema in old.get("properties", {}).items():
            if name in new.get("properties", {}):
                yield from self.of(schema, new["properties"][name], f"{path}.{name}")
            else:
                yield f"{path}.{name} is gone"
        for part in ("items", "additionalProperties"):
            if isinstance(old.get(part), dict):
                yield from self.of(old[part], new.get(part) or {}, f"{path}[]")

    def _types(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        before, after = _alternatives(old, self._old), _alternatives(new, self._new)
        if missing := before.keys() - after.keys():
            yield f"{path} is no longer {' or '.join(sorted(missing))}"
        if self._reader == "others" and (added := after.keys() - before.keys()):
            yield f"{path} may now be {' or '.join(sorted(added))}"
        if gone := set(_values(old)) - set(_values(new)):
            yield f"{path} is never {' or '.join(sorted(gone))} any more"
        if "anyOf" in old:
            for type_ in before.keys() & after.keys():
                yield from self.of(before[type_], after[type_], path)

    def _required(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        before, after = set(old.get("required", ())), set(new.get("required", ()))
        changed = after - before if self._reader == "abstream" else before - after
        for name in sorted(changed):
            yield f"{path}.{name} is {'now' if self._reader == 'abstream' else 'no longer'} required"

    def _bounds(self, old: Schema, new: Schema, path: str) -> Iterator[str]:
        tighter = 1 if self._reader == "abstream" else -1
        for names, sign in ((_UPPER, -1), (_LOWER, 1)):
            limit = float("inf") * -sign
            for name in names:
                if (new.get(name, limit) - old.get(name, limit)) * sign * tighter > 0:
                    yield f"{path} has another {name}: {old.get(name)} became {new.get(name)}"
        if old.get("pattern") != new.get("pattern"):
            yield f"{path} has another pattern"


def _resolved(schema: Schema, root: Schema) -> Schema:
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema


def _alternatives(schema: Schema, root: Schema) -> dict[str, Schema]:
    """The alternatives of a schema, by their types."""
    parts = [_resolved(part, root) for part in schema.get("anyOf", [schema])]
    return {part["type"]: part for part in parts if "type" in part}


def _values(schema: Schema) -> list[str]:
    return schema.get("enum", [schema["const"]] if "const" in schema else [])
