"""The people of the console: who they are, what they hold."""

from __future__ import annotations

from enum import auto

import strawberry
from strawberry import ID

from schema.common import Money, Role, Tier
from schema.directives import FILTERABLE, INHERIT, OWN, Code, PiiClass, PiiMask, audited, pii, policy
from schema.fields import get, listing, marked, signature
from schema.scalars import AWSDateTime, AWSEmail


@strawberry.enum
class StaffState(Code):
    """INVITED -> ACTIVE <-> LOCKED -> OFFBOARDED."""

    INVITED = auto()
    ACTIVE = auto()
    LOCKED = auto()
    OFFBOARDED = auto()


@strawberry.type(directives=[policy("staff", "read")])
class StaffMember:
    """Someone of the staff with his grants."""

    id: ID = marked(FILTERABLE)
    email: AWSEmail | None = marked(policy("staff", "contact"), pii(PiiClass.CONTACT, PiiMask.HIDDEN))
    display_name: str = marked(FILTERABLE)
    state: StaffState = marked(FILTERABLE)
    roles: list[Role] = marked(FILTERABLE)
    grants: list[Grant]
    version: int


@strawberry.type(directives=[INHERIT])
class Grant:
    """Role, tier and scope, with the ceilings that follow from them."""

    id: ID
    role: Role
    tier: Tier
    city_ids: list[ID]
    content_categories: list[str]
    request_ceiling: Money | None
    alone_ceiling: Money | None
    approve_ceiling: Money | None
    expires_at: AWSDateTime | None


@strawberry.type(directives=[])
class Viewer:
    """The caller himself."""

    staff: StaffMember = marked(OWN)
    permissions: list[str] = marked(OWN)
    policy_version: int = marked(OWN)


class Query:
    """Root fields that read staff."""

    @signature(OWN, audited("staff.me", read=True))
    def me(self) -> Viewer: ...

    get_staff_member = get(StaffMember, "staff.read")
    list_staff_members = listing(StaffMember, "staff.list")
