"""Audit records of what the wire does by itself: reads, refused attempts, and what subscribers were told.

One record per root field instance (aliases multiply). Mutations make theirs in the pipeline, in their own transaction.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from audit.record import (
    PERSON_TYPES,
    Encoded,
    Templated,
    arguments_digest,
    listed,
    new_record,
    read_record,
    service_actor,
    staff_actor,
)
from db.unit_of_work import uuid7

if TYPE_CHECKING:
    from datetime import datetime

    from authz.caller import Caller
    from authz.enforcer import Snapshot
    from resolvers.context import Request
    from resolvers.root_reads import RootRead

_NAME_SHOWN: Final = 100  # characters of an operation's name: the client made it up, and a record has its limit
_SOUGHT_KEPT: Final = 100  # characters of an id that a client made up
# What stands in clear of an id that led to no object. Anything else may be a name, an address or a number.
_TOKEN: Final = re.compile(r"(?=.*[A-Za-z_])[A-Za-z0-9_.:-]{1,100}")


def actor_of(caller: Caller) -> dict[str, Any]:
    """The acting person, or the system behind an API key."""
    if caller.service is not None:
        return service_actor(caller.id)
    return staff_actor(
        caller.id, caller.roles, session=caller.session, auth_time=caller.auth_time, client=caller.client
    )


@lru_cache(maxsize=1_024)
def _encoded_staff(
    sub: str, roles: tuple[str, ...], session: str | None, auth_time: datetime | None, client: str | None
) -> Encoded:
    """One session of one person, whose reads all have the same actor."""
    return Encoded("actor", staff_actor(sub, roles, session=session, auth_time=auth_time, client=client))


@lru_cache(maxsize=64)
def _encoded_service(sub: str) -> Encoded:
    return Encoded("actor", {**service_actor(sub), "roles": []})


def _encoded_actor(caller: Caller) -> Encoded:
    if caller.service is not None:
        return _encoded_service(caller.id)
    return _encoded_staff(caller.id, tuple(caller.roles), caller.session, caller.auth_time, caller.client)


def request_of(request: Request) -> dict[str, Any]:
    agent = (
        hashlib.sha256(request.user_agent.encode("utf-8", "replace")).hexdigest()[:32] if request.user_agent else None
    )
    return {"id": request.id, "trace": request.trace_id, "ua": agent}


def operation_of(request: Request, arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    """Name and digests. The literals of a document and its variables never stand in the log."""
    name = request.operation_name
    return {
        "name": None if name is None else name[:_NAME_SHOWN],
        "document": f"sha256:{request.document_digest}",
        "arguments": None if arguments is None else arguments_digest(arguments),
    }


def policy_of(snapshot: Snapshot, row: str | None) -> dict[str, Any]:
    return {"base": snapshot.policy.digest, "version": snapshot.version, "row": row}


def sought_id(type_name: str | None, identity: str | None) -> tuple[str | None, str | None]:
    """An id that was asked for in vain: what a record shows of it, and what it seals instead.

    A person's would be given a key to become a tag: not for one that may not even exist.
    """
    if identity is None or (type_name not in PERSON_TYPES and _TOKEN.fullmatch(identity)):
        return identity, None
    return None, identity[:_SOUGHT_KEPT]


def shown(request: Request, at: datetime, root: RootRead) -> Templated:
    """The record of a root field that was answered, by the parts that its plan has encoded; of no person."""
    single = root.ids[0] if len(root.ids) == 1 and root.count == 1 else None
    return read_record(
        id=str(uuid7()),
        at=at,
        action=root.action,
        field=root.field,
        actor=_encoded_actor(request.caller),
        fields=root.encoded,
        request=request_of(request),
        operation=operation_of(request, root.arguments),
        policy=policy_of(request.snapshot, root.policy_row),
        target=(root.object_type, single or None),
        objects=listed(root.ids, count=root.count, filter_digest=root.filter_digest)
        if root.ids or root.filter_digest
        else None,
        count=root.count,
        ip=request.ip,
    )


def wire_record(
    request: Request,
    at: datetime,
    *,
    kind: str,
    action: str,
    field: str,
    arguments: Mapping[str, Any] | None = None,
    verdict: str = "ALLOWED",
    code: str | None = None,
    policy_row: str | None = None,
    object_type: str | None = None,
    ids: Sequence[str] = (),
    sought: str | None = None,
    count: int | None = None,
    city: str | None = None,
    filter_digest: str | None = None,
    outcome: str | None = None,
    cause: str | None = None,
    fields: Mapping[str, Any] | None = None,
    caller: Caller | None = None,
    snapshot: Snapshot | None = None,
) -> dict[str, Any]:
    """One record of ``request``. A single id is the record's object, several are its list; ``sought`` led to none."""
    single = ids[0] if len(ids) == 1 and (count is None or count == 1) else None
    shown, sealed = sought_id(object_type, sought)
    about = {"type": object_type, "id": single or shown, "city": city} if object_type is not None else None
    return new_record(
        id=str(uuid7()),
        at=at,
        kind=kind,
        action=action,
        field=field,
        actor=actor_of(caller or request.caller),
        request=request_of(request),
        verdict=verdict,
        code=code,
        operation=operation_of(request, arguments),
        object=about,
        objects=listed(ids, count=count, filter_digest=filter_digest) if ids or filter_digest else None,
        policy=policy_of(snapshot or request.snapshot, policy_row),
        cause=cause,
        fields=fields,
        result={"code": code, "count": len(ids) if count is None else count, "outcome": outcome},
        priv={"request.ip": request.ip, "object.id": sealed},
    )
