"""The audit record's body and its canonical bytes (profile J1): the only encoder whose output is hashed. Pure.

Every key is always there, unknown is null, so absence is never ambiguous. JSON paths, as ``audit.entry`` (the view that
readers select from) and every later tool find them, with the GraphQL field in brackets:
``id at kind action field cause truncated``; ``actor.sub`` [actorId] ``.type`` [actor.kind]; ``onBehalf.sub``,
``onBehalf.breakGlass``; ``operation.name .document .arguments`` [argsDigest]; ``object.type .id .version.before
.version.after`` [targetVersion: after, else before] ``.city .subject`` [subjectTag]; ``objects.ids .count .filter``;
``decision.verdict .code .obligations``; ``policy.base .version .row``; ``reason.code .ticket``; ``approval.request
.step``; ``request.id .trace``; ``before after changed`` [diff]; ``fields.read .masked .pii`` (path -> class);
``result.count .outcome``; ``priv`` (path -> sealed value, ``audit.sealing``; free text of the reason is ``reason.text``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

import orjson

VERSION: Final = 1
LIMIT_BYTES: Final = 32_768  # tiles carry 65,535 (uint16 lengths); half leaves room for a later version
MAX_INTEGER: Final = 2**53 - 1
MAX_IDS: Final = 100
_NESTING: Final = 16  # of a record
_ARGUMENT_NESTING: Final = 64  # of what is only digested: whatever a document may nest
KINDS: Final = frozenset(
    {"mutation", "read", "denied", "auth", "system", "subscription", "export", "key", "erase", "heartbeat"}
)
VERDICTS: Final = frozenset({"ALLOWED", "DENIED", "FAILED"})
PERSON_TYPES: Final = frozenset({"Subject"})  # their ids stand in the body only as tags
_DETAIL: Final = (
    ("fields", "pii"),
    ("fields", "masked"),
    ("fields", "read"),
    ("objects", "ids"),
    ("object", "parents"),
    ("approval", "votes"),
)

# Keys of each part, all present in every record.
PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "actor": ("sub", "type", "roles", "session", "authTime", "mfa", "client"),
    "onBehalf": ("sub", "grant", "until", "breakGlass"),
    "operation": ("name", "document", "arguments"),
    "object": ("type", "id", "version", "city", "subject", "parents"),
    "objects": ("ids", "count", "digest", "filter"),
    "policy": ("base", "version", "row", "approval"),
    "reason": ("code", "ticket"),
    "approval": ("request", "hash", "votes", "step"),
    "request": ("id", "trace", "span", "ipTag", "ua", "region"),
    "fields": ("read", "masked", "pii"),
    "result": ("code", "count", "bytes", "outcome"),
}
_NAMES: Final = {part: frozenset(keys) for part, keys in PARTS.items()}
# Index columns of audit.record: name -> path in the body. The verifier has its own copy and compares.
COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "w": ("w",),
    "wn": ("wn",),
    "kind": ("kind",),
    "actor": ("actor", "sub"),
    "action": ("action",),
    "obj_type": ("object", "type"),
    "obj_id": ("object", "id"),
    "subject": ("object", "subject"),
    "city": ("object", "city"),
    "decision": ("decision", "verdict"),
    "code": ("decision", "code"),
    "policy": ("policy", "row"),
    "approval": ("approval", "request"),
    "request": ("request", "id"),
}
_NOT_NULL: Final = ("w", "wn", "kind", "actor", "action", "decision", "request")

_NO_VERSION: Final[Mapping[str, None]] = {"before": None, "after": None}
_NO_REQUEST: Final[Mapping[str, None]] = dict.fromkeys(PARTS["request"])

SYSTEM_ACTOR: Final[Mapping[str, Any]] = {"sub": "system", "type": "system"}


class NotCanonicalError(ValueError):
    """The value or bytes are outside profile J1 (audit-design section 4)."""


# ---------- canonical bytes ----------
def _check(value: object, depth: int) -> None:
    # Texts and nulls, most of a record, are looked at where they are met: a call for each would cost more than the look.
    kind = type(value)
    if kind is str and "\x00" in value:  # type: ignore[operator]  # kind says str
        raise NotCanonicalError("U+0000 in a string")  # PostgreSQL's jsonb cannot hold it
    if value is None or kind is bool or kind is str:
        return
    if kind is int:
        if not -MAX_INTEGER <= value <= MAX_INTEGER:  # type: ignore[operator]  # kind says int
            raise NotCanonicalError("an integer beyond 2^53-1")
        return
    if depth == 0:
        raise NotCanonicalError("nested too deep")
    if kind is dict:
        for key, item in value.items():  # type: ignore[attr-defined]  # kind says dict
            if type(key) is not str or not key.isascii() or "\x00" in key:
                raise NotCanonicalError("a key that is not ASCII")
            if item is not None and (type(item) is not str or "\x00" in item):
                _check(item, depth - 1)
        return
    if kind is list:
        for item in value:  # type: ignore[attr-defined]  # kind says list
            if item is not None and (type(item) is not str or "\x00" in item):
                _check(item, depth - 1)
        return
    raise NotCanonicalError(f"a {kind.__name__}")


def canonical(value: Any, *, nesting: int = _NESTING) -> bytes:
    """The J1 bytes of a value: RFC 8785 output and orjson's sorted-key output at once. Raises ``NotCanonicalError`` outside."""
    _check(value, nesting)
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:  # lone surrogates
        raise NotCanonicalError(str(error)) from error


def parse(data: bytes) -> Any:
    """The value of J1 bytes; raises ``NotCanonicalError`` when they are not what ``canonical`` would have written."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise NotCanonicalError("not JSON") from error
    if canonical(value) != data:
        raise NotCanonicalError("not the canonical form")
    return value


def leaf(data: bytes) -> bytes:
    """RFC 6962 leaf hash: the record's identity, known before it has a place."""
    return hashlib.sha256(b"\x00" + data).digest()


def chain_start(origin: str) -> bytes:
    """The chain value before the first record."""
    return hashlib.sha256(b"countersign/chain/v1\n" + origin.encode()).digest()


def chain_next(previous: bytes, leaf_hash: bytes) -> bytes:
    """The running chain after one more leaf."""
    return hashlib.sha256(b"\x02" + previous + leaf_hash).digest()


# ---------- values ----------
def timestamp(at: datetime) -> str:
    """UTC with microseconds and Z."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def plain(value: Any) -> Any:
    """Bring a row or input into J1: times, decimals and floats become text, sets are sorted, unpaired surrogates and NUL are replaced."""
    known = _BY_TYPE.get(type(value))
    return _by_nature(value) if known is None else known(value)


def _by_nature(value: Any) -> Any:
    """A value of a type that is not the plain one: an enum, a subclass, any mapping or iterable."""
    if isinstance(value, Enum) and not isinstance(value, str):
        return plain(value.value)
    for kind, bring in _KINDS:
        if isinstance(value, kind):
            return bring(value)
    raise NotCanonicalError(f"a {type(value).__name__}")


def _as_it_is(value: Any) -> Any:
    return value


def _text(value: str) -> str:
    text = str.__str__(value)
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return text.replace("\x00", "\ufffd")


def _integer(value: int) -> int | str:
    return int(value) if -MAX_INTEGER <= value <= MAX_INTEGER else str(value)


def _hex(value: bytes | bytearray | memoryview) -> str:
    return bytes(value).hex()


def _object(value: Mapping[Any, Any]) -> dict[str, Any]:
    return {_key(key): plain(item) for key, item in value.items()}


def _sorted(value: Iterable[Any]) -> list[Any]:
    return sorted(plain(item) for item in value)


def _list(value: Iterable[Any]) -> list[Any]:
    return [plain(item) for item in value]


def _key(key: object) -> str:
    text = str(key)
    if text.isascii() and "\x00" not in text:
        return text
    return text.encode("ascii", "backslashreplace").decode().replace("\x00", "\\x00")


# In this order: a bool is an int, a datetime is a date, a text and a mapping are iterables.
_KINDS: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (type(None), _as_it_is),
    (bool, _as_it_is),
    (str, _text),
    (int, _integer),
    (float, repr),
    (Decimal, str),
    (datetime, timestamp),
    (date, str),
    (UUID, str),
    (bytes, _hex),
    (bytearray, _hex),
    (memoryview, _hex),
    (Mapping, _object),
    (set, _sorted),
    (frozenset, _sorted),
    (Iterable, _list),
)
# The same by exact type, which nearly every value of a row has.
_BY_TYPE: Final[Mapping[type, Callable[[Any], Any]]] = {
    **{kind: bring for kind, bring in _KINDS if kind not in (Mapping, Iterable)},
    dict: _object,
    list: _list,
    tuple: _list,
}


def ids_digest(ids: Iterable[str]) -> str:
    """Digest of a set of ids, whatever their order."""
    return "sha256:" + hashlib.sha256("\n".join(sorted(ids)).encode("utf-8", "replace")).hexdigest()


def arguments_digest(value: Any) -> str:
    """Digest of canonical arguments. Callers take personal data out first: a bare hash of a small domain is reversible."""
    try:
        data = canonical(value, nesting=_ARGUMENT_NESTING)
    except NotCanonicalError:  # a date, an enum, a float: most arguments have none
        data = canonical(plain(value), nesting=_ARGUMENT_NESTING)
    return "sha256:" + hashlib.sha256(data).hexdigest()


# ---------- the record ----------
def _part(name: str, given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if given is None:
        return None
    if not given.keys() <= _NAMES[name]:
        raise ValueError(f"{name} has no {sorted(given.keys() - _NAMES[name])}")
    return {key: plain(given.get(key)) for key in PARTS[name]}


def staff_actor(
    sub: str,
    roles: Sequence[str],
    *,
    session: str | None = None,
    auth_time: datetime | None = None,
    mfa: bool | None = None,
    client: str | None = None,
) -> dict[str, Any]:
    """The acting staff member; ``session`` is a hash of the token, never the token."""
    return {
        "sub": sub,
        "type": "staff",
        "roles": list(roles),
        "session": session,
        "authTime": auth_time,
        "mfa": mfa,
        "client": client,
    }


def service_actor(sub: str) -> dict[str, Any]:
    """A service that calls with its own identity (an API key, the outbox)."""
    return {"sub": sub, "type": "service"}


def listed(ids: Sequence[str], *, count: int | None = None, filter_digest: str | None = None) -> dict[str, Any]:
    """The objects of a list: ids up to 100, the count (of all that were returned) and the digest of the ids given."""
    return {
        "ids": list(ids[:MAX_IDS]),
        "count": len(ids) if count is None else count,
        "digest": ids_digest(ids),
        "filter": filter_digest,
    }


def new_record(
    *,
    id: str,  # noqa: A002  (the body's own key)
    at: datetime,
    kind: str,
    action: str,
    field: str,
    actor: Mapping[str, Any],
    request: Mapping[str, Any],
    verdict: str = "ALLOWED",
    code: str | None = None,
    obligations: Sequence[str] = (),
    operation: Mapping[str, Any] | None = None,
    object: Mapping[str, Any] | None = None,  # noqa: A002  (the body's own key)
    objects: Mapping[str, Any] | None = None,
    on_behalf: Mapping[str, Any] | None = None,
    policy: Mapping[str, Any] | None = None,
    reason: Mapping[str, Any] | None = None,
    approval: Mapping[str, Any] | None = None,
    idem: str | None = None,
    cause: str | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    changed: Sequence[str] = (),
    fields: Mapping[str, Any] | None = None,
    result: Mapping[str, Any] | None = None,
    subject_id: str | None = None,
    priv: Mapping[str, str | None] | None = None,
    tenant: str = "main",
) -> dict[str, Any]:
    """Build a record for ``audit.writer``; ``id`` is a UUIDv7, ``at`` the app's time.

    Parts are dictionaries with the keys of ``PARTS`` (missing ones become null, others are refused). ``before``/``after``
    are whole objects: only their salted digests are recorded. ``subject_id`` is the real id of the marketplace subject
    concerned: it is recorded as a tag, and ``priv`` (path -> clear text) is sealed under that subject's key. For a
    ``Subject`` give the real id in ``object.id`` too: the writer puts the tag in its place.
    """
    if kind not in KINDS or verdict not in VERDICTS:
        raise ValueError(f"no such kind or verdict: {kind}, {verdict}")
    UUID(id)
    target = _part("object", object)
    if target is not None:
        version = (
            target["version"] if isinstance(target["version"], dict) else {"before": target["version"], "after": None}
        )
        target["version"] = {"before": version.get("before"), "after": version.get("after")}
        target["parents"] = target["parents"] or []
        if subject_id is None and target["type"] in PERSON_TYPES:
            subject_id = target["id"]
    shown = _part("fields", fields or {}) or {}
    shown = {"read": shown["read"] or [], "masked": shown["masked"] or [], "pii": shown["pii"] or {}}
    return {
        "v": VERSION,
        "id": id,
        "at": timestamp(at),
        "tenant": tenant,
        "kind": kind,
        "actor": {**(_part("actor", actor) or {}), "roles": plain(actor.get("roles") or [])},
        "onBehalf": _part("onBehalf", on_behalf),
        "action": plain(action),
        "field": plain(field),
        "operation": _part("operation", operation or {}),
        "object": target,
        "objects": _part("objects", objects),
        "decision": {"verdict": verdict, "code": plain(code), "obligations": plain(obligations)},
        "policy": _part("policy", policy or {}),
        "reason": _part("reason", reason),
        "approval": _part("approval", approval),
        "idem": plain(idem),
        "cause": plain(cause),
        "request": _part("request", request),
        "changed": plain(changed),
        "fields": shown,
        "result": _part("result", result or {}),
        "truncated": False,
        "_subject": subject_id,
        "_priv": {path: plain(text) for path, text in (priv or {}).items() if text is not None},
        "_before": None if before is None else plain(before),
        "_after": None if after is None else plain(after),
    }


class Encoded:
    """A part of many records in its J1 bytes, made once; ``value`` is the part itself. Nobody changes it."""

    __slots__ = ("data", "value")

    def __init__(self, name: str, given: Mapping[str, Any]) -> None:
        self.value: Final = _part(name, given)
        # Copied: orjson's own buffer is a multiple of what stands in it.
        self.data: Final = orjson.Fragment(bytes(memoryview(canonical(self.value))))


class Templated(dict[str, Any]):
    """A record as ``new_record`` would have made it, of values that are J1 already and parts that are encoded already."""

    __slots__ = ("_encoded",)

    def __init__(self, values: Mapping[str, Any], encoded: Mapping[str, Encoded]) -> None:
        super().__init__(values)
        self.update((name, part.value) for name, part in encoded.items())
        self._encoded = {name: part.data for name, part in encoded.items()}

    def bytes_of(self, body: dict[str, Any]) -> bytes:
        """What ``fit`` makes of this record's finished body."""
        data = orjson.dumps({**body, **self._encoded}, option=orjson.OPT_SORT_KEYS)
        return data if len(data) <= LIMIT_BYTES else fit(body)


def read_record(
    *,
    id: str,  # noqa: A002  (the body's own key)
    at: datetime,
    action: str,
    field: str,
    actor: Encoded,
    fields: Encoded,
    request: Mapping[str, str | None],
    operation: Mapping[str, str | None],
    policy: Mapping[str, str | int | None],
    target: tuple[str, str | None],
    objects: Mapping[str, Any] | None,
    count: int,
    ip: str,
) -> Templated:
    """The record of a read that was allowed: ``new_record`` for the busiest of its callers, with the same bytes.

    All values must be J1 as they are, and ``target`` (type, id) no person: a person's record needs its keys.
    """
    of, object_id = target
    if of in PERSON_TYPES:
        raise ValueError(f"{of} is sealed")
    values = {
        "v": VERSION,
        "id": id,
        "at": timestamp(at),
        "tenant": "main",
        "kind": "read",
        "onBehalf": None,
        "action": action,
        "field": field,
        "operation": operation,
        "object": {"type": of, "id": object_id, "version": _NO_VERSION, "city": None, "subject": None, "parents": []},
        "objects": objects,
        "decision": {"verdict": "ALLOWED", "code": None, "obligations": []},
        "policy": {**policy, "approval": None},
        "reason": None,
        "approval": None,
        "idem": None,
        "cause": None,
        "request": {**_NO_REQUEST, **request},
        "changed": [],
        "result": {"code": None, "count": count, "bytes": None, "outcome": "EXECUTED"},
        "truncated": False,
        "_subject": None,
        "_priv": {"request.ip": ip},
        "_before": None,
        "_after": None,
    }
    return Templated(values, {"actor": actor, "fields": fields})


def fit(body: dict[str, Any]) -> bytes:
    """Canonical bytes within the limit; too long detail is replaced by its digest and ``truncated`` says so."""
    data = canonical(body)
    for part, name in _DETAIL:
        if len(data) <= LIMIT_BYTES:
            break
        holder = body.get(part)
        detail = holder.get(name) if holder else None
        if not holder or not detail:
            continue
        digest = "sha256:" + hashlib.sha256(canonical(detail)).hexdigest()
        holder[name] = {"digest": digest} if isinstance(detail, dict) else [digest]
        body["truncated"] = True
        data = canonical(body)
    if len(data) > LIMIT_BYTES:
        raise NotCanonicalError(f"a record of {len(data)} bytes")
    return data


def columns(body: Mapping[str, Any]) -> dict[str, Any]:
    """The index columns of a body. Raises ``NotCanonicalError`` when it is not a version 1 record."""
    found: dict[str, Any] = {}
    for name, path in COLUMNS.items():
        value: Any = body
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        expected = int if name == "wn" else str
        if (value is None and name in _NOT_NULL) or (value is not None and type(value) is not expected):
            raise NotCanonicalError(f"no record: {'.'.join(path)}")
        found[name] = value
    if body.get("v") != VERSION or body.get("kind") not in KINDS:
        raise NotCanonicalError("no version 1 record")
    return found


def numbers(body: Mapping[str, Any]) -> tuple[int, list[int], int]:
    """A record's own number, those it declares void, and the bound below which its writer has settled all of them."""
    number, voided, settled = body.get("wn"), body.get("voided"), body.get("settled")
    if type(number) is not int or type(settled) is not int or type(voided) is not list:
        raise NotCanonicalError("no counters")
    if number < 1 or any(type(one) is not int for one in voided):
        raise NotCanonicalError("no counters")
    return number, voided, settled
