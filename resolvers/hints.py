"""``allowedActions``: the commands that are offered on a type, each tried as the caller's attempt would be.

A hint runs the command's own pure steps and the function that judges every deed, with the least input the caller could
send (security-contract AZ-10). What only the attempt can say (sums under a lock, steps of a macro) it does not say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

import orjson
from graphql import GraphQLInputObjectType, GraphQLObjectType, get_named_type, is_required_argument

from authz.scope import grant_facts
from db.unit_of_work import Row, UnitOfWork
from resolvers.judging import judge, open_field
from resolvers.performing import needed, reason_of, typed
from resolvers.registry import COMMANDS
from schema.build import console
from schema.errors import ConsoleError
from services.cases import targets as cases
from services.command import Act, Command, Offer, Target
from services.money import commands as money

if TYPE_CHECKING:
    from authz.requirements import Requirement
    from resolvers.binding import Binding
    from schema.console import Console
    from schema.directives import FieldRules

FIELD: Final = "allowedActions"
# A row as the command's target, with what else was read beside it; a new type with hints adds its line.
TARGETS: Final[Mapping[str, Callable[[Row, str], Target]]] = MappingProxyType(
    {"Case": cases.hinted, "OrderLedger": money.hinted}
)
# What only names a row, and what a command is tried with instead: it presents what stands there, so no hint depends on it.
_NAMES: Final[Mapping[str, Any]] = MappingProxyType(
    {"id": "id", "order_id": "id", "subject_id": "subject", "buyer_id": "subject", "lease_token": "lease", "version": 1}
)


class _Moment:
    """Stands where a unit of work would: a pure step may ask the time and nothing else."""

    def __init__(self, now: datetime) -> None:
        self.now: Final = now


@cache
def offered_on(type_name: str) -> tuple[tuple[str, Command[Any], Offer], ...]:
    """(mutation, command, offer) of a type, in the order of the registry."""
    return tuple(
        (name, command, command.offered)
        for name, command in COMMANDS.items()
        if isinstance(command.offered, Offer) and command.offered.on == type_name
    )


def actions(binding: Binding, type_name: str, row: Row) -> list[dict[str, Any]]:
    """What the caller may do with this object as it stands. ``row`` has the columns that the commands' checks read.

    Rows of an answer that differ in nothing but their names are tried once.
    """
    offers = offered_on(type_name)
    if not offers:
        return []
    unnamed: dict[str, Any] = {
        name: _NAMES.get(name, value) if value is not None else None for name, value in row.items()
    }
    asked = type_name, orjson.dumps(unnamed)
    found: list[dict[str, Any]] | None = binding.hinted.get(asked)
    if found is None:
        read = {name: _at(value) if name.endswith(("_at", "now")) else value for name, value in unnamed.items()}
        target = TARGETS[type_name](read, binding.caller.id)
        found = [_tried(binding, name, command, offer, target, read["now"]) for name, command, offer in offers]
        binding.hinted[asked] = found
    return found


def _at(value: Any) -> Any:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _tried(
    binding: Binding, name: str, command: Command[Any], offer: Offer, target: Target, now: datetime
) -> dict[str, Any]:
    rule, code, requirement = console().rules["Mutation", name], None, None
    try:
        requirement = _attempt(
            _act(binding, typed(command, offer.mildest(target, binding.caller.id)), now), rule, command, offer, target
        )
    except ConsoleError as error:
        code = error.code
    return {
        "action": rule.record_action,
        "allowed": code is None,
        "needsReason": rule.reason is not None,
        "reasonList": rule.reason,
        "needsApproval": requirement is not None,
        "approvals": requirement.approvals if requirement else 0,
        "approverRoles": list(requirement.approver_roles) if requirement else [],
        "deniedCode": code,
    }


def _attempt(
    act: Act[Any], rule: FieldRules, command: Command[Any], offer: Offer, target: Target
) -> Requirement | None:
    """The pure steps in the order of ``resolvers.performing``; raises what the attempt would hear first."""
    if act.caller.root_fields is not None:  # else the field step asks nothing that ``judge`` does not ask again
        open_field(act, rule)
    target = command.with_input(act, target)
    verdict = judge(act, rule, target)
    command.authorize(act, target)
    command.validate(act, target)
    command.check(act, target)
    if verdict.grant is None:
        return None
    facts = {**target.facts, **offer.measured, **grant_facts(verdict.grant)}
    return needed(act, rule, target, facts, target.gates)


def _act(binding: Binding, wanted: Any, now: datetime) -> Act[Any]:
    nobody = cast("Any", None)  # a pure step finds nothing, runs nothing, leaves no record
    return Act(
        uow=cast("UnitOfWork", _Moment(now)),
        caller=binding.caller,
        snapshot=binding.snapshot,
        input=wanted,
        reason=reason_of(wanted),
        find=nobody,
        audit_id="",
        stored=nobody,
        steps=nobody,
    )


# ---------- asked at start ----------
def misfits(contract: Console, commands: Mapping[str, Command[Any]] = COMMANDS) -> Iterator[str]:
    """Where a command whose target has hints neither offers itself nor says why not, or is offered where nothing is."""
    hinted = {of.name for of in contract.objects() if FIELD in of.fields}
    for name, command in commands.items():
        offer = command.offered
        named = sorted(hinted & _named(contract, name))
        if offer is None and named:
            yield f"Mutation.{name}: {FIELD} of {', '.join(named)} neither offer it nor is it said why not"
        if isinstance(offer, Offer) and offer.on not in hinted:
            yield f"Mutation.{name}: offered on {offer.on}, which has no {FIELD}"
        elif isinstance(offer, Offer) and offer.on not in TARGETS:
            yield f"Mutation.{name}: offered on {offer.on}, whose rows resolvers/hints.py cannot show to a command"


def _named(contract: Console, mutation: str) -> set[str]:
    """The types that a mutation is about: whose id it takes, and what its payload shows."""
    root = contract.core.mutation_type
    if root is None or mutation not in root.fields:
        return set()
    field = root.fields[mutation]
    taken = set(field.args)
    for argument in field.args.values():
        given = get_named_type(argument.type)
        taken |= set(given.fields) if isinstance(given, GraphQLInputObjectType) else set()
    payload = get_named_type(field.type)
    shown = payload.fields.values() if isinstance(payload, GraphQLObjectType) else ()
    by_id = {of.name for of in contract.objects() if _id_of(contract, of.name) in taken}
    return by_id | {get_named_type(one.type).name for one in shown}


def _id_of(contract: Console, type_name: str) -> str:
    """How an argument names an object of a type: ``caseId``; ``orderId`` where that is the key of its ``get``."""
    listable = contract.listables.get(type_name)
    query = contract.core.query_type
    arguments = query.fields[listable.get_field].args if listable and query else {}
    keys = [name for name, argument in arguments.items() if is_required_argument(argument)]
    return f"{type_name[0].lower()}{type_name[1:]}Id" if keys in ([], ["id"]) else keys[0]
