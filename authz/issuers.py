"""Whom we trust to say who is calling, as configured: token issuers and API keys. Wrong configuration is refused here."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from authz.caller import Grant
from authz.scope import SERVICE, grant_problem
from schema.build import console

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")  # symmetric ones and `none` are in no list, so they can never be named
SERVICES: Final = ("MARKETPLACE",)  # the outbox is a part of us and needs no key
KINDS: Final = ("cognito", "oidc")
MAX_KEY_LIFE: Final = timedelta(days=365)

_ISSUER_KEYS: Final = {"issuer", "jwks", "audience", "kind", "algorithms", "tokenUse", "allowPrivate", "caFile"}
_API_KEY_KEYS: Final = {
    "id",
    "hash",
    "staff",
    "service",
    "cityIds",
    "contentCategories",
    "rootFields",
    "createdAt",
    "expiresAt",
}
_ROOT_FIELD: Final = re.compile(r"[a-z][A-Za-z0-9]*")


@dataclass(frozen=True)
class Issuer:
    """A token issuer: its exact name, where its keys are, for whom its tokens must be, and the only algorithms it signs with."""

    issuer: str
    jwks: str
    audience: str
    kind: str
    algorithms: tuple[str, ...] = ("RS256",)
    token_use: tuple[str, ...] | None = ("access",)  # None: an issuer whose tokens have no token_use
    allow_private: bool = False
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        if not self.issuer or not self.audience:
            raise ValueError("an issuer has a name and an audience")
        if self.kind not in KINDS:
            raise ValueError(f"the kind of the issuer {self.issuer} is one of {', '.join(KINDS)}")
        if not self.algorithms or not set(self.algorithms) <= set(ALGORITHMS):
            raise ValueError(f"the algorithms of the issuer {self.issuer} are of {', '.join(ALGORITHMS)}")


@dataclass(frozen=True)
class ApiKey:
    """An API key as stored: its SHA-256, whom it stands for (a staff member or another system), and what it opens."""

    id: str
    digest: bytes
    root_fields: frozenset[str]
    created_at: datetime
    expires_at: datetime
    staff_id: str | None = None
    service: str | None = None
    city_ids: tuple[str, ...] = ()
    content_categories: tuple[str, ...] = ()

    @property
    def grant(self) -> Grant:
        """The grant of a key that belongs to another system; a person's key uses the person's own grants."""
        return Grant(f"key:{self.id}", SERVICE, "AGENT", self.city_ids, self.content_categories, self.expires_at)


def parse_issuers(text: str) -> tuple[Issuer, ...]:
    """Read ``COUNTERSIGN_ISSUERS``; ``ValueError`` names the issuer and what is wrong with it."""
    found = tuple(_issuer(entry) for entry in _list("COUNTERSIGN_ISSUERS", text))
    if len({issuer.issuer for issuer in found}) != len(found):
        raise ValueError("COUNTERSIGN_ISSUERS: an issuer is listed twice")
    return found


def _list(setting: str, text: str) -> Sequence[Any]:
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{setting}: not JSON: {error}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{setting}: a JSON list is wanted")  # noqa: TRY004  a wrong setting, not a wrong type
    return entries


def _object(where: str, entry: Any, known: set[str], wanted: set[str]) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: a JSON object is wanted")  # noqa: TRY004  a wrong setting, not a wrong type
    unknown, missing = sorted(set(entry) - known), sorted(wanted - set(entry))
    if unknown or missing:
        raise ValueError(
            f"{where}: unknown {', '.join(unknown) or 'nothing'}, missing {', '.join(missing) or 'nothing'}"
        )
    return entry


def _issuer(entry: Any) -> Issuer:
    wanted = {"issuer", "jwks", "audience", "kind"}
    found = _object("COUNTERSIGN_ISSUERS", entry, _ISSUER_KEYS, wanted)
    where = f"COUNTERSIGN_ISSUERS {found['issuer']}"
    if not all(isinstance(found[name], str) and found[name] for name in wanted):
        raise ValueError(f"{where}: issuer, jwks, audience and kind are texts")
    algorithms = found.get("algorithms", ["RS256"])
    if not isinstance(algorithms, list) or not all(isinstance(name, str) for name in algorithms):
        raise ValueError(f"{where}: algorithms is a list of texts")
    uses = found.get("tokenUse", ["access"])
    if uses is not None and (not isinstance(uses, list) or not uses or not all(isinstance(use, str) for use in uses)):
        raise ValueError(f"{where}: tokenUse is a list of texts, or null")
    return Issuer(
        found["issuer"],
        found["jwks"],
        found["audience"],
        found["kind"],
        tuple(algorithms),
        None if uses is None else tuple(uses),
        found.get("allowPrivate", False) is True,
        Path(found["caFile"]) if found.get("caFile") else None,
    )


def parse_api_keys(text: str, now: datetime) -> tuple[ApiKey, ...]:
    """Read ``COUNTERSIGN_API_KEYS``; ``ValueError`` names the key and what is wrong with it. Hashes only: no key is ever stored."""
    found = tuple(_api_key(entry, now) for entry in _list("COUNTERSIGN_API_KEYS", text))
    if len({key.id for key in found}) != len(found) or len({key.digest for key in found}) != len(found):
        raise ValueError("COUNTERSIGN_API_KEYS: a key is listed twice")
    return found


def _api_key(entry: Any, now: datetime) -> ApiKey:
    found = _object(
        "COUNTERSIGN_API_KEYS", entry, _API_KEY_KEYS, {"id", "hash", "rootFields", "createdAt", "expiresAt"}
    )
    where = f"COUNTERSIGN_API_KEYS {found['id']}"
    if not isinstance(found["hash"], str) or not re.fullmatch(r"[0-9a-f]{64}", found["hash"]):
        raise ValueError(f"{where}: hash is the SHA-256 of the key in hex")
    fields = found["rootFields"]
    if (
        not isinstance(fields, list)
        or not fields
        or not all(isinstance(name, str) and _ROOT_FIELD.fullmatch(name) for name in fields)
    ):
        raise ValueError(f"{where}: rootFields lists the root fields that it opens")
    if console().published & set(fields):
        raise ValueError(f"{where}: publish* is for the IAM mode alone")  # TK-9
    created, expires = _time(where, "createdAt", found["createdAt"]), _time(where, "expiresAt", found["expiresAt"])
    if created > now or expires > created + MAX_KEY_LIFE:
        raise ValueError(f"{where}: a key lives at most {MAX_KEY_LIFE.days} days from its making, which is past")
    staff, service = found.get("staff"), found.get("service")
    if (staff is None) == (service is None) or (service is not None and service not in SERVICES):
        raise ValueError(f"{where}: a key stands for one staff member, or for the service {', '.join(SERVICES)}")
    cities, categories = tuple(found.get("cityIds", ())), tuple(found.get("contentCategories", ()))
    key = ApiKey(
        found["id"],
        bytes.fromhex(found["hash"]),
        frozenset(fields),
        created,
        expires,
        staff,
        service,
        cities,
        categories,
    )
    problem = grant_problem(key.grant, (SERVICE,))
    if problem:
        raise ValueError(f"{where}: {problem}")
    return key


def _time(where: str, name: str, value: Any) -> datetime:
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise ValueError(f"{where}: {name} is a date and time") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def match_api_key(keys: Sequence[ApiKey], presented: str) -> ApiKey | None:
    """The key that was presented, in time that does not tell which, nor how nearly."""
    digest = hashlib.sha256(presented.encode()).digest()
    found = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def new_api_key() -> tuple[str, str]:
    """A fresh key of 256 random bits, and the hash to store. The key is shown once and kept nowhere."""
    key = f"csk-{secrets.token_urlsafe(32)}"
    return key, hashlib.sha256(key.encode()).hexdigest()
