"""What a run is given: parameters, checked against the JSON Schema that the macro carries.

A macro's author is trusted with a form, not with the process: no reference leads out of the schema or in a circle, what
a check may cost is bounded before it begins, patterns run in linear time, and no message repeats a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from jsonschema_rs import Draft202012Validator, RegexOptions, ValidationError

from schema.errors import ConsoleError
from services.macros import rules

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_LOCAL: Final = re.compile(r"#/\$defs/([A-Za-z0-9_]+)")
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
# Names that would give "#" another meaning inside the schema.
_REFUSED: Final = frozenset({"$id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$vocabulary"})
# A schema weighs its values, with every reference written out, and what its patterns may cost; parameters weigh their values
# and characters. What weighs too much together could stop the process for seconds, whoever wrote it.
_WEIGHT_MAXIMUM: Final = 10_000
_WORK_MAXIMUM: Final = 100_000  # the one times the other: a tenth of a second at worst
_PATTERN_WEIGHT: Final = 64
_PATTERNS: Final = ("pattern", "patternProperties")
_REGEX_BYTES: Final = 262_144  # compiled; ``^.{1,200}$`` fits
_MASK: Final = "the value"
_PROBLEMS_MAXIMUM: Final = 20  # told at once
_MESSAGE_MAXIMUM: Final = 200  # characters: a message names properties, as many as were given
FIELD: Final = "parameters"


def _refusal(message: str) -> ConsoleError:
    return ConsoleError("SCHEMA_VIOLATION", message, field=FIELD)


def check_schema(schema: Any) -> None:
    """Refuse what is no schema of an object, or one that looks elsewhere, in a circle, or too long."""
    rules.check_document(schema, FIELD)
    if schema.get("type") != "object":
        raise _refusal('The schema of the parameters has "type": "object".')
    if schema.get("$schema", _DIALECT) != _DIALECT:
        raise _refusal(f"The schema of the parameters is of {_DIALECT}, or names none.")
    _schema_weight(schema)
    try:
        _validator(schema)
    except ValidationError as error:
        where = _place(error.instance_path)
        raise _refusal(f"The schema of the parameters is not one at {where}.") from error
    except ValueError as error:  # a pattern that the linear engine does not know, a reference to nothing
        raise _refusal("The schema of the parameters cannot be used: a pattern or a reference in it.") from error


def _validator(schema: Mapping[str, Any]) -> Draft202012Validator:
    return Draft202012Validator(dict(schema), mask=_MASK, pattern_options=RegexOptions(size_limit=_REGEX_BYTES))


def _values(value: Any) -> Iterator[Any]:
    """Every value inside, itself included; it is known not to be deep."""
    yield value
    if isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _values(item)


def _schema_weight(schema: Mapping[str, Any]) -> int:
    """What checking one value against the schema may cost. Refuses references that lead elsewhere or in a circle."""
    definitions = schema.get("$defs", {})
    if not isinstance(definitions, Mapping):
        raise _refusal("$defs is an object.")
    weights: dict[str, int] = {}
    for name in definitions:
        _weight(definitions, name, definitions[name], weights, ())
    return _weight(definitions, "", {name: part for name, part in schema.items() if name != "$defs"}, weights, ())


def _weight(
    definitions: Mapping[str, Any], name: str, part: Any, weights: dict[str, int], on_the_way: tuple[str, ...]
) -> int:
    """The weight of a definition with its references written out."""
    if name in weights:
        return weights[name]
    if name in on_the_way:
        raise _refusal("A reference leads in a circle.")
    total = 0
    for value in _values(part):
        total += 1
        if isinstance(value, Mapping):
            total += _PATTERN_WEIGHT * sum(keyword in value for keyword in _PATTERNS)
            for reference in _references(definitions, value):
                total += _weight(definitions, reference, definitions[reference], weights, (*on_the_way, name))
        if total > _WEIGHT_MAXIMUM:
            raise _refusal("With its references written out the schema has too many parts or patterns.")
    weights[name] = total
    return total


def _references(definitions: Mapping[str, Any], node: Mapping[str, Any]) -> Iterator[str]:
    """The names of the definitions that a part of a schema refers to."""
    if _REFUSED & node.keys():
        raise _refusal(f"{min(_REFUSED & node.keys())} has no place in the parameters' schema.")
    for keyword in _REFERENCES:
        reference = node.get(keyword)
        if isinstance(reference, Mapping | None):  # a property of that name, or none
            continue
        found = _LOCAL.fullmatch(reference) if isinstance(reference, str) and keyword == "$ref" else None
        if found is None or found[1] not in definitions:
            raise _refusal("A reference is a $ref to #/$defs/NAME of the same schema.")
        yield found[1]


def check(schema: Mapping[str, Any], given: Any) -> None:
    """Refuse parameters that do not satisfy the schema; the refusal names every place, and no value.

    Numbers are whole: an approval is bound to their canonical form, which no fraction has.
    """
    rules.check_document(given, FIELD)
    values = list(_values(given))
    if any(isinstance(value, float) for value in values):
        raise _refusal("Numbers among the parameters are whole.")
    characters = sum(len(value) for value in values if isinstance(value, str))
    if _schema_weight(schema) * (len(values) + characters // _PATTERN_WEIGHT) > _WORK_MAXIMUM:
        raise ConsoleError("LIMIT_EXCEEDED", "These are too many parameters for such a schema.", field=FIELD)
    problems = [
        {"path": _place((FIELD, *error.instance_path)), "problem": error.message[:_MESSAGE_MAXIMUM]}
        for error in islice(_validator(schema).iter_errors(given), _PROBLEMS_MAXIMUM)
    ]
    if problems:
        first = problems[0]
        raise ConsoleError(
            "SCHEMA_VIOLATION", f"{first['path']}: {first['problem']}.", field=first["path"], violations=problems
        )


def _place(path: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in path) or "its root"


def declares(schema: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether a path below ``param`` may have a value: its first name is declared, the others as far as the schema says."""
    node: Any = schema
    for depth, name in enumerate(names):
        node = _followed(schema, node)
        properties = node.get("properties") if isinstance(node, Mapping) else None
        if not isinstance(properties, Mapping):
            return depth > 0
        if name not in properties:
            return False
        node = properties[name]
    return True


def _followed(schema: Mapping[str, Any], node: Any) -> Any:
    while isinstance(node, Mapping) and isinstance(node.get("$ref"), str):
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    return node
