"""Documents: parsed, counted and validated once, then served from a bounded cache.

The limits of QL-5 to QL-12 are counted in one linear pass of our own before graphql-core validates anything: a summary per
fragment, so that fragments that spread each other cannot multiply the work. Only the cost of a list whose ``limit`` is a
variable is known later; ``bind`` evaluates it with the values of the request.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from graphql import (
    DirectiveNode,
    DocumentNode,
    FieldNode,
    FloatValueNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLSchema,
    GraphQLSyntaxError,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    Node,
    ObjectValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    StringValueNode,
    VariableNode,
    get_named_type,
    is_list_type,
    parse,
    validate,
)
from graphql.execution.get_variable_signature import GraphQLVariableSignature
from graphql.execution.values import VariableValues, VariableValueSource, get_variable_values
from graphql.type import GraphQLNonNull

from resolvers.edge_errors import again
from resolvers.paging import DEFAULT_LIMIT
from resolvers.validation_errors import located, validation_errors
from schema.errors import ConsoleError

TEXT_BYTES: Final = 64 * 1024
TOKENS: Final = 2_000
DEPTH: Final = 8
INTROSPECTION_DEPTH: Final = 20  # graphql-core's own introspection query needs 15
FIELDS: Final = 500
FRAGMENTS: Final = 50
SAME_KEY: Final = 10
ALIASES: Final = 30
ROOT_FIELDS: Final = {"query": 10, "mutation": 5, "subscription": 1}
DIRECTIVES: Final = 20
DIRECTIVES_PER_NODE: Final = 4
COST: Final = 5_000
OPERATIONS: Final = 10
VARIABLES: Final = 200
LIST_INPUT: Final = 100
VALUE_DEPTH: Final = 32
HEAVY: Final = 50  # a verification, or a preview that tries twelve steps, counts as this many objects
HEAVY_FIELDS: Final = frozenset({"previewMacro", "verifyAudit"})
CACHED_DOCUMENTS: Final = 500
# A parsed document takes up to a hundred times its text, so this bounds the cache at some 50 MiB.
CACHED_TEXT_BYTES: Final = 512 * 1024

INTROSPECTION: Final = frozenset({"__schema", "__type"})

T = TypeVar("T")
_SIGNATURES: Final = "signatures"
_KNOWN: Final = 16  # things to know about one operation: its signatures, its root fields by shape of the variables
_INT: Final = 2**31
_AS_GIVEN: Final[Mapping[str, type[Any]]] = {"ID": str, "String": str, "Int": int, "Boolean": bool}


class DocumentSyntaxError(Exception):
    """The text is not GraphQL; the wire answers 400 with this message."""

    error_type: Final = "DocumentSyntaxError"


class InvalidDocumentError(Exception):
    """The document or its variables do not fit the schema; ``errors`` are AppSync's error objects."""

    error_type: Final = "ValidationError"

    def __init__(self, errors: Sequence[Mapping[str, Any]]) -> None:
        super().__init__("invalid document")
        self.errors: Final = [dict(error) for error in errors]


def _exceeded(limit: str, maximum: int, **info: Any) -> ConsoleError:
    return ConsoleError(
        "LIMIT_EXCEEDED", f"The document exceeds the limit of {maximum} {limit}.", limit=limit, max=maximum, **info
    )


# A number of objects as a tree of (limit, children): limit is a number or the name of the variable that holds it.
@dataclass(frozen=True)
class _Cost:
    own: int
    limit: int | str
    children: tuple[_Cost, ...]


def _cost(nodes: Iterable[_Cost], variables: Mapping[str, Any], memo: dict[int, int]) -> int:
    total = 0
    for node in nodes:
        known = memo.get(id(node))
        if known is None:
            limit = node.limit if isinstance(node.limit, int) else variables.get(node.limit)
            times = limit if isinstance(limit, int) and limit > 0 else DEFAULT_LIMIT
            known = memo[id(node)] = times * (node.own + _cost(node.children, variables, memo))
        total += known
    return total


@dataclass(frozen=True)
class Operation:
    """One validated operation of a document, with what it refers to. Shared between requests: nobody changes it."""

    document: DocumentNode
    definition: OperationDefinitionNode
    fragments: Mapping[str, FragmentDefinitionNode]
    digest: str  # SHA-256 of the text: what plans and audit records know the document by
    kind: str  # query, mutation, subscription
    costs: tuple[_Cost, ...] = field(default=(), repr=False)
    known: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)  # what was found out about it

    @property
    def name(self) -> str | None:
        return self.definition.name.value if self.definition.name else None

    def bind(self, schema: GraphQLSchema, raw: Mapping[str, Any] | None) -> VariableValues:
        """Coerce the request's variables and check what depends on them: list inputs (QL-12) and the cost (QL-11)."""
        values = dict(raw or {})
        if len(values) > VARIABLES:
            raise _exceeded("variables", VARIABLES)
        _check_values(values)
        coerced = self._as_given(values) or self._coerced(schema, values)
        cost = _cost(self.costs, coerced.coerced, {})
        if cost > COST:
            raise _exceeded("cost", COST, cost=cost)
        return coerced

    def _coerced(self, schema: GraphQLSchema, values: dict[str, Any]) -> VariableValues:
        coerced = get_variable_values(
            schema, self.definition.variable_definitions or (), values, max_errors=10, hide_suggestions=True
        )
        if isinstance(coerced, list):
            raise InvalidDocumentError([wrong_variable(error) for error in coerced])
        if _SIGNATURES not in self.known:
            self.known[_SIGNATURES] = {name: source.signature for name, source in coerced.sources.items()}
        return coerced

    def _as_given(self, values: Mapping[str, Any]) -> VariableValues | None:
        """The variables as they are, where each of them is there and is what coercion would leave alone."""
        signatures: Mapping[str, GraphQLVariableSignature] | None = self.known.get(_SIGNATURES)
        if signatures is None:
            return None
        sources: dict[str, VariableValueSource] = {}
        coerced: dict[str, Any] = {}
        for name, signature in signatures.items():
            of = signature.type.of_type if isinstance(signature.type, GraphQLNonNull) else signature.type
            value = values.get(name)
            if type(value) is not _AS_GIVEN.get(of.name if isinstance(of, GraphQLScalarType) else "") or (
                type(value) is int and not -_INT <= value < _INT
            ):
                return None
            sources[name] = VariableValueSource(signature, value)
            coerced[name] = value
        return VariableValues(sources, coerced)

    def remembered(self, key: Hashable, find: Callable[[], T]) -> T:
        """What ``find`` says, asked once per key and for a few keys only. Goes with the document."""
        if key in self.known:
            found: T = self.known[key]
            return found
        made = find()
        if len(self.known) < _KNOWN:
            self.known[key] = made
        return made


def wrong_variable(error: GraphQLError) -> dict[str, Any]:
    """A coercion error in AppSync's shape. graphql-core's text is not repeated: it quotes the value, which may be personal data."""
    match = re.match(r"Variable '\$(\w+)'(?: has invalid value)?(?: at '([^']*)')?", error.message)
    name = match[1] if match else ""
    where = f" at '{match[2]}'" if match and match[2] else ""
    null = "non-null type" in error.message
    reason = "Variable has coerced Null value for NonNull type." if null else "The value does not fit its type."
    return located(error, f"Variable '{name}' has an invalid value{where} : {reason}")


def _check_values(value: object, depth: int = 0) -> None:
    if depth > VALUE_DEPTH:
        raise _exceeded("value depth", VALUE_DEPTH)
    if isinstance(value, dict):
        for item in value.values():
            _check_values(item, depth + 1)
    elif isinstance(value, list):
        if len(value) > LIST_INPUT:
            raise _exceeded("list items", LIST_INPUT)
        for item in value:
            _check_values(item, depth + 1)
    elif isinstance(value, str | float):
        _check_scalar(value)


def _check_scalar(value: str | float) -> None:
    """Refuse what a GraphQL literal can still spell where JSON cannot (QL-4).

    That is NUL, which PostgreSQL's text does not hold, and ``1e999``.
    """
    if isinstance(value, str) and "\x00" in value:
        raise ConsoleError("BAD_REQUEST", "A text holds a NUL character.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConsoleError("BAD_REQUEST", "A number is out of range.")


@dataclass
class _Summary:
    """What one selection set comes to, fragments expanded."""

    depth: int = 0
    introspection_depth: int = 0
    fields: int = 0
    keys: Counter[str] = field(default_factory=Counter)
    costs: list[_Cost] = field(default_factory=list)

    def add(self, other: _Summary) -> None:
        self.depth = max(self.depth, other.depth)
        self.introspection_depth = max(self.introspection_depth, other.introspection_depth)
        self.fields += other.fields
        self.keys.update(other.keys)
        self.costs.extend(other.costs)


class _Counting:
    """The linear pass over one document. Raises ``LIMIT_EXCEEDED`` at the first limit that is passed."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode) -> None:
        self.schema = schema
        self.aliases = 0
        self.directives = 0
        self.summaries: dict[str, _Summary] = {}
        self.fragments: dict[str, FragmentDefinitionNode] = {}
        self.operations: list[OperationDefinitionNode] = []
        for definition in document.definitions:
            if isinstance(definition, OperationDefinitionNode):
                self.operations.append(definition)
            elif isinstance(definition, FragmentDefinitionNode):
                self.fragments[definition.name.value] = definition
        if len(self.operations) > OPERATIONS:
            raise _exceeded("operations", OPERATIONS)
        if sum(isinstance(d, FragmentDefinitionNode) for d in document.definitions) > FRAGMENTS:
            raise _exceeded("fragments", FRAGMENTS)

    def run(self) -> dict[int, tuple[_Cost, ...]]:
        """Count everything; returns the cost trees by operation (``id`` of its node)."""
        for name in self._in_order():
            fragment = self.fragments[name]
            self._directives(fragment.directives)
            self.summaries[name] = self._selection(fragment.selection_set, fragment.type_condition.name.value, 0)
        costs = {}
        for operation in self.operations:
            self._directives(operation.directives)
            if len(operation.variable_definitions or ()) > VARIABLES:
                raise _exceeded("variables", VARIABLES)
            for variable in operation.variable_definitions or ():
                self._directives(variable.directives)
                self._literal(variable.default_value)
            root = self.schema.get_root_type(operation.operation)
            summary = self._selection(operation.selection_set, root.name if root else "", 0)
            if summary.depth > DEPTH:
                raise _exceeded("depth", DEPTH)
            if sum(summary.keys.values()) > ROOT_FIELDS[operation.operation.value]:
                raise _exceeded(f"root fields of a {operation.operation.value}", ROOT_FIELDS[operation.operation.value])
            costs[id(operation)] = tuple(summary.costs)
        return costs

    def _in_order(self) -> Iterator[str]:
        """Fragments, each after those it spreads. A cycle is a validation error."""
        spreads = {
            name: set(_spreads(fragment.selection_set)) & self.fragments.keys()
            for name, fragment in self.fragments.items()
        }
        done: set[str] = set()
        while len(done) < len(spreads):
            ready = [name for name, needs in spreads.items() if name not in done and needs <= done]
            if not ready:
                name = min(spreads.keys() - done)
                text = f"Validation error of type FragmentCycle: Fragment cycles not allowed @ '{name}'"
                raise InvalidDocumentError([located(GraphQLError("", [self.fragments[name]]), text)])
            yield from ready
            done.update(ready)

    def _selection(self, selection: SelectionSetNode | None, type_name: str, depth: int) -> _Summary:
        summary = _Summary()
        if selection is None:
            return summary
        if depth > INTROSPECTION_DEPTH:
            raise _exceeded("depth", DEPTH)
        spread: set[str] = set()
        for node in selection.selections:
            self._directives(node.directives)
            if isinstance(node, FieldNode):
                summary.add(self._field(node, type_name, depth))
            elif isinstance(node, InlineFragmentNode):
                condition = node.type_condition.name.value if node.type_condition else type_name
                # An inline fragment adds no level to the answer, but each one is a frame of this pass.
                summary.add(self._selection(node.selection_set, condition, depth + 1))
            elif isinstance(node, FragmentSpreadNode) and node.name.value not in spread:
                spread.add(node.name.value)
                summary.add(self.summaries.get(node.name.value, _Summary()))
            if summary.fields > FIELDS:
                raise _exceeded("fields", FIELDS)
        if summary.keys and summary.keys.most_common(1)[0][1] > SAME_KEY:
            raise _exceeded("uses of one response key", SAME_KEY)
        return summary

    def _field(self, node: FieldNode, type_name: str, depth: int) -> _Summary:
        name = node.name.value
        if node.alias:
            self.aliases += 1
            if self.aliases > ALIASES:
                raise _exceeded("aliases", ALIASES)
        for argument in node.arguments or ():
            self._literal(argument.value)
        parent = self.schema.get_type(type_name)
        definition = parent.fields.get(name) if isinstance(parent, GraphQLObjectType) else None
        named = get_named_type(definition.type) if definition else None
        below = self._selection(node.selection_set, named.name if named else "", depth + 1)
        if name in INTROSPECTION and 1 + below.depth > INTROSPECTION_DEPTH:
            raise _exceeded("depth", INTROSPECTION_DEPTH)
        summary = _Summary(
            depth=0 if name in INTROSPECTION else 1 + below.depth,
            fields=1 + below.fields,
            keys=Counter({node.alias.value if node.alias else name: 1}),
        )
        if not isinstance(named, GraphQLObjectType) or definition is None:
            return summary
        unwrapped = definition.type.of_type if isinstance(definition.type, GraphQLNonNull) else definition.type
        if "limit" in definition.args:  # a connection: its items are counted here, with its limit
            summary.costs.append(_Cost(0, _limit(node), tuple(below.costs)))
        elif is_list_type(unwrapped):
            of_connection = type_name.endswith("Connection") and name == "items"
            summary.costs.append(_Cost(1, 1 if of_connection else DEFAULT_LIMIT, tuple(below.costs)))
        else:
            summary.costs.append(_Cost(HEAVY if name in HEAVY_FIELDS else 1, 1, tuple(below.costs)))
        return summary

    def _directives(self, nodes: Sequence[DirectiveNode] | None) -> None:
        if not nodes:
            return
        self.directives += len(nodes)
        if len(nodes) > DIRECTIVES_PER_NODE:
            raise _exceeded("directives on one node", DIRECTIVES_PER_NODE)
        if self.directives > DIRECTIVES:
            raise _exceeded("directives", DIRECTIVES)
        for node in nodes:
            for argument in node.arguments or ():
                self._literal(argument.value)

    def _literal(self, value: Node | None, depth: int = 0) -> None:
        if depth > VALUE_DEPTH:
            raise _exceeded("value depth", VALUE_DEPTH)
        if isinstance(value, ListValueNode):
            if len(value.values) > LIST_INPUT:
                raise _exceeded("list items", LIST_INPUT)
            for item in value.values:
                self._literal(item, depth + 1)
        elif isinstance(value, ObjectValueNode):
            for entry in value.fields:
                self._literal(entry.value, depth + 1)
        elif isinstance(value, StringValueNode):
            _check_scalar(value.value)
        elif isinstance(value, FloatValueNode):
            _check_scalar(float(value.value))


def _spreads(selection: SelectionSetNode) -> Iterator[str]:
    # A stack, not recursion: this runs before depth is known.
    pending: list[SelectionSetNode] = [selection]
    while pending:
        for node in pending.pop().selections:
            if isinstance(node, FragmentSpreadNode):
                yield node.name.value
            elif isinstance(node, FieldNode | InlineFragmentNode) and node.selection_set:
                pending.append(node.selection_set)


def _limit(node: FieldNode) -> int | str:
    for argument in node.arguments or ():
        if argument.name.value == "limit":
            if isinstance(argument.value, IntValueNode):
                # More than 100 is refused where the list is read; here it only must not overflow the text.
                return min(int(argument.value.value[:9]), 10**6)
            if isinstance(argument.value, VariableNode):
                return argument.value.name.value
    return DEFAULT_LIMIT


@dataclass(frozen=True)
class _Entry:
    size: int
    document: DocumentNode | None = None
    costs: Mapping[int, tuple[_Cost, ...]] = field(default_factory=dict)
    fragments: Mapping[str, FragmentDefinitionNode] = field(default_factory=dict)
    error: Exception | None = None
    operations: dict[str | None, Operation] = field(default_factory=dict)


class Documents:
    """The document cache: text -> operation, or the same refusal again. Bounded by number and by text size."""

    def __init__(
        self, schema: GraphQLSchema, *, capacity: int = CACHED_DOCUMENTS, text_bytes: int = CACHED_TEXT_BYTES
    ) -> None:
        self._schema = schema
        self._capacity = capacity
        self._text_bytes = text_bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._size = 0
        self.hits = 0
        self.parsed = 0
        self.validated = 0

    def __len__(self) -> int:
        return len(self._entries)

    def operation(self, text: str, name: str | None = None) -> Operation:
        """The operation ``name`` of the document (or its only one).

        Raises ``DocumentSyntaxError``, ``InvalidDocumentError``, or ``LIMIT_EXCEEDED`` before anything is validated.
        """
        raw = text.encode()
        if len(raw) > TEXT_BYTES:
            raise _exceeded("bytes of query text", TEXT_BYTES)
        digest = hashlib.sha256(raw).hexdigest()
        entry = self._entries.get(digest)
        if entry is None:
            entry = self._read(text, len(raw))
            self._keep(digest, entry)
        else:
            self.hits += 1
            self._entries.move_to_end(digest)
        if entry.error is not None:
            raise again(entry.error)
        assert entry.document is not None  # noqa: S101 # one of the two is always set
        return self._choose(entry, entry.document, digest, name)

    def _read(self, text: str, size: int) -> _Entry:
        try:
            self.parsed += 1
            document = parse(text, max_tokens=TOKENS, allow_empty_selection_sets=False)
            counting = _Counting(self._schema, document)
            costs = counting.run()
            self.validated += 1
            errors = validate(self._schema, document, max_errors=10, hide_suggestions=True)
            if errors:
                return _Entry(size, error=InvalidDocumentError(validation_errors(document, errors)))
        except GraphQLSyntaxError as error:
            # graphql-core says both limits as syntax errors of its own wording.
            if f"more than {TOKENS} tokens" in error.message:
                return _Entry(size, error=_exceeded("tokens", TOKENS))
            if "nested too deeply" in error.message:
                return _Entry(size, error=_exceeded("depth", DEPTH))
            return _Entry(size, error=DocumentSyntaxError(error.message))
        except RecursionError:  # nesting beyond the parser's own stack: far beyond any limit of ours
            return _Entry(size, error=_exceeded("depth", DEPTH))
        except (ConsoleError, InvalidDocumentError) as error:
            return _Entry(size, error=again(error))
        return _Entry(size, document, costs, counting.fragments)

    def _choose(self, entry: _Entry, document: DocumentNode, digest: str, name: str | None) -> Operation:
        known = entry.operations.get(name)
        if known is not None:
            return known
        operations = [d for d in document.definitions if isinstance(d, OperationDefinitionNode)]
        if name is not None:
            operations = [d for d in operations if d.name and d.name.value == name]
        if len(operations) != 1:
            text = (
                f"Unknown operation named '{name}'."
                if name is not None
                else "Must provide operation name if query contains multiple operations."
            )
            if name is None and not operations:
                text = "The document contains no operation."
            raise InvalidDocumentError([{"path": None, "locations": None, "message": text}])
        definition = operations[0]
        made = entry.operations[name] = Operation(
            document,
            definition,
            entry.fragments,
            digest,
            definition.operation.value,
            tuple(entry.costs[id(definition)]),
        )
        return made

    def _keep(self, digest: str, entry: _Entry) -> None:
        self._entries[digest] = entry
        self._size += entry.size
        while len(self._entries) > self._capacity or self._size > self._text_bytes:
            _, old = self._entries.popitem(last=False)
            self._size -= old.size
