"""Who is calling: a credential becomes an ``Identity`` (what the token says), and with the directory a ``Caller``.

One mode per request, chosen by the headers as AppSync does. The issuer is found before any key, the key before any claim,
and a bad credential hears one of AppSync's few sentences; the cause goes to the log (security contract, section 3).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from jwt import PyJWS
from jwt.exceptions import PyJWTError

from authz.caller import Caller, Grant, StaffRow
from authz.dev_issuer import DevIssuer
from authz.issuers import ApiKey, Issuer, match_api_key
from authz.jwks import KeySet, KeysUnavailableError, VerificationKey
from schema.errors import ConsoleError

if TYPE_CHECKING:
    from authz.enforcer import Snapshot

logger = logging.getLogger("countersign.authz")

MAX_TOKEN_BYTES: Final = 8 * 1024
LEEWAY: Final = timedelta(seconds=30)
MAX_LIFETIME_SECONDS: Final = 24 * 3600
CACHE_ENTRIES: Final = 10_000
_YEAR_10000: Final = 253_402_300_800  # the first second that datetime cannot hold

# AppSync's sentences (appsync contract, section 2); the last is shared by every other cause (TK-9).
MISSING: Final = "Missing authorization header"
NO_MODE: Final = "Valid authorization header not provided."
NOT_A_JWT: Final = "Unable to parse JWT token."
EXPIRED: Final = "Token has expired."
REFUSED: Final = "You are not authorized to make this call."

# A key that the token itself brings, or an extension we would have to understand (RFC 7515, sections 4.1.2 to 4.1.11).
_FORBIDDEN_HEADERS: Final = ("jku", "x5u", "x5c", "jwk", "crit", "b64", "zip", "enc")
_JWS: Final = PyJWS(algorithms=["RS256", "ES256", "EdDSA"])


class AuthError(Exception):
    """The request has no usable identity. ``cause`` is for the log only."""

    def __init__(self, status: int, error_type: str, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.status: Final = status
        self.error_type: Final = error_type
        self.message: Final = message
        self.cause: Final = cause


def _refusal(message: str, cause: str) -> AuthError:
    return AuthError(401, "UnauthorizedException", message, cause)


@dataclass(frozen=True)
class AuthHeaders:
    """The two headers that carry credentials."""

    authorization: str | None = None
    api_key: str | None = None

    @staticmethod
    def of(headers: Mapping[str, str]) -> AuthHeaders:
        """Out of headers with lower-case names."""
        return AuthHeaders(headers.get("authorization"), headers.get("x-api-key"))


@dataclass(frozen=True)
class Identity:
    """What a verified credential says. It opens nothing by itself: roles and scopes come from the store."""

    sub: str
    issuer: str
    kind: str  # cognito, oidc, apiKey
    issued_at: datetime
    expires_at: datetime
    auth_time: datetime | None
    groups: tuple[str, ...] | None
    session: str  # a hash of the credential, never the credential
    client: str | None = None
    api_key: ApiKey | None = None


@dataclass(frozen=True)
class _Verified:
    identity: Identity
    key: VerificationKey


class Authenticator:
    """Verifies credentials against the configured issuers and API keys, and nothing else."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        api_keys: Sequence[ApiKey] = (),
        dev: DevIssuer | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``ValueError`` when the dev issuer is given beside a real one: its key lies on a developer's disk."""
        if dev and issuers:
            raise ValueError("the dev issuer is refused where a real issuer is configured")
        trusted = [dev.issuer] if dev else list(issuers)
        self._issuers: Final = {
            issuer.issuer: (
                issuer,
                KeySet(issuer.jwks, allow_private=issuer.allow_private, ca_file=issuer.ca_file, clock=monotonic),
            )
            for issuer in trusted
        }
        self._api_keys: Final = tuple(api_keys)
        self._clock = clock
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()

    async def authenticate(self, headers: AuthHeaders) -> Identity:
        """The identity of the one mode that the headers choose, or ``AuthError``. Two credentials never add up."""
        if headers.api_key is not None and self._api_keys:
            return self._by_api_key(headers.api_key)
        value = (headers.authorization or "").strip()
        if not value:
            if headers.api_key is not None:
                raise _refusal(NO_MODE, "an API key where none is configured")
            raise _refusal(MISSING, "no credentials")
        if value.startswith("AWS4-HMAC-SHA256"):
            raise _refusal(NO_MODE, "SigV4, which no mode here takes")
        scheme, _, rest = value.partition(" ")
        return await self._by_token(rest.strip() if scheme.lower() == "bearer" else value)

    def _by_api_key(self, presented: str) -> Identity:
        key = match_api_key(self._api_keys, presented)
        if key is None:
            raise _refusal(REFUSED, "unknown API key")
        if self._clock() >= key.expires_at:
            raise _refusal(REFUSED, f"API key {key.id} has expired")
        return Identity(
            sub=key.staff_id or f"service:{key.service}",
            issuer="api-key",
            kind="apiKey",
            issued_at=key.created_at,
            expires_at=key.expires_at,
            auth_time=None,
            groups=None,
            session=_session(presented),
            client=key.id,
            api_key=key,
        )

    async def _by_token(self, token: str) -> Identity:
        if len(token.encode()) > MAX_TOKEN_BYTES:
            raise _refusal(REFUSED, "token too long")
        digest = hashlib.sha256(token.encode()).digest()
        cached = self._verified.get(digest)
        if cached is not None:
            # The key is looked up again: a removed one must not live on in the cache (TK-7).
            if await self._key(cached.identity.issuer, cached.key.kid) == cached.key:
                self._verified.move_to_end(digest, last=True)
                self._check_expiry(cached.identity)
                return cached.identity
            del self._verified[digest]
        verified = await self._verify(token)
        self._check_expiry(verified.identity)
        self._verified[digest] = verified
        while len(self._verified) > CACHE_ENTRIES:
            self._verified.popitem(last=False)
        return verified.identity

    def _check_expiry(self, identity: Identity) -> None:
        if self._clock() >= identity.expires_at + LEEWAY:
            raise _refusal(EXPIRED, "expired")

    async def _verify(self, token: str) -> _Verified:
        header, claims = _decode(token)
        found = self._issuers.get(claims["iss"]) if isinstance(claims.get("iss"), str) else None
        if found is None:
            raise _refusal(NO_MODE, "unknown issuer")
        issuer, _ = found
        kid, algorithm = header.get("kid"), header.get("alg")
        if algorithm not in issuer.algorithms:
            raise _refusal(REFUSED, "algorithm not of this issuer")
        if any(name in header for name in _FORBIDDEN_HEADERS):
            raise _refusal(REFUSED, "forbidden header parameter")
        if not isinstance(kid, str) or not kid:
            raise _refusal(REFUSED, "no key id")
        key = await self._key(issuer.issuer, kid)
        if key is None or key.algorithm != algorithm:
            raise _refusal(REFUSED, "no such key for this algorithm")
        try:
            _JWS.decode(token, key.key, algorithms=[key.algorithm])
        except (PyJWTError, ValueError) as error:
            raise _refusal(REFUSED, f"signature: {type(error).__name__}") from error
        return _Verified(_identity(issuer, claims, _session(token), self._clock()), key)

    async def _key(self, issuer: str, kid: str) -> VerificationKey | None:
        try:
            return await self._issuers[issuer][1].find(kid)
        except KeysUnavailableError as error:
            raise _refusal(REFUSED, str(error)) from error


def _session(credential: str) -> str:
    return hashlib.sha256(b"session:" + credential.encode()).hexdigest()[:32]


def _decode(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        head, body, signature = token.split(".")
        header, claims = (json.loads(_unpadded(part), object_pairs_hook=_no_repeats) for part in (head, body))
        _unpadded(signature)
    except (ValueError, RecursionError) as error:
        raise _refusal(NOT_A_JWT, "not three parts of base64url JSON") from error
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise _refusal(NOT_A_JWT, "parts are not JSON objects")
    return header, claims


def _unpadded(part: str) -> bytes:
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is repeated")
    return found


def _identity(issuer: Issuer, claims: Mapping[str, Any], session: str, now: datetime) -> Identity:
    """Check the claims of a token whose signature is good; its expiry is asked afterwards, each time it is used."""
    sub = claims.get("sub")
    if not isinstance(sub, str) or not sub:
        raise _refusal(REFUSED, "no subject")
    issued, expires = _seconds(claims, "iat"), _seconds(claims, "exp")
    if issued is None or expires is None:
        raise _refusal(REFUSED, "no iat or exp")
    if not 0 < expires - issued <= MAX_LIFETIME_SECONDS:
        raise _refusal(REFUSED, "lifetime")
    latest = int((now + LEEWAY).timestamp())
    authenticated = _seconds(claims, "auth_time")
    if any(at is not None and at > latest for at in (issued, authenticated, _seconds(claims, "nbf"))):
        raise _refusal(REFUSED, "iat, auth_time or nbf in the future")
    audience = claims.get("aud", claims.get("client_id"))
    if issuer.audience not in (audience if isinstance(audience, list) else (audience,)):
        raise _refusal(REFUSED, "audience")
    if issuer.token_use is not None and claims.get("token_use") not in issuer.token_use:
        raise _refusal(REFUSED, "token_use")
    groups = claims.get("cognito:groups")
    if groups is not None and not (isinstance(groups, list) and all(isinstance(group, str) for group in groups)):
        raise _refusal(REFUSED, "groups")
    client = claims.get("client_id")
    return Identity(
        sub=sub,
        issuer=issuer.issuer,
        kind=issuer.kind,
        issued_at=datetime.fromtimestamp(issued, UTC),
        expires_at=datetime.fromtimestamp(expires, UTC),
        auth_time=None if authenticated is None else datetime.fromtimestamp(authenticated, UTC),
        groups=None if groups is None else tuple(groups),
        session=session,
        client=client if isinstance(client, str) else None,
    )


def _seconds(claims: Mapping[str, Any], name: str) -> int | None:
    """A numeric date, or None when it is absent; anything else, or a year that does not exist, is refused."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _YEAR_10000:
        raise _refusal(REFUSED, f"{name} is not a date")
    return int(value)


def caller(identity: Identity, snapshot: Snapshot, now: datetime) -> Caller:
    """The person or system behind an identity, with the grants in force at ``now``; ``AuthError`` when there is none.

    Asked at every request and every delivery, cached token or not: a locked person, or one whose tokens were revoked, ends
    here. Groups of the token narrow the grants and never widen them.
    """
    key = identity.api_key
    if key is not None and key.service is not None:
        return Caller(
            id=identity.sub,
            handle=key.service.lower(),
            display_name=key.service.capitalize(),
            grants=(key.grant,),
            issued_at=identity.issued_at,
            auth_time=None,
            expires_at=identity.expires_at,
            session=identity.session,
            client=identity.client,
            service=key.service,
            root_fields=key.root_fields,
        )
    person, grants = _standing(identity.sub, identity.issued_at, identity.groups, snapshot, now)
    return Caller(
        id=person.id,
        handle=person.handle,
        display_name=person.display_name,
        grants=grants,
        issued_at=identity.issued_at,
        auth_time=identity.auth_time,
        expires_at=identity.expires_at,
        session=identity.session,
        client=identity.client,
        groups=identity.groups,
        root_fields=key.root_fields if key else None,
    )


def renewed(caller: Caller, snapshot: Snapshot, now: datetime) -> Caller:
    """The same caller by a newer snapshot: the grants as they are now, narrowed by the token as before.

    ``UnauthorizedException`` when the person may not come any more.
    """
    if caller.service is not None:
        return caller
    try:
        _, grants = _standing(caller.id, caller.issued_at, caller.groups, snapshot, now)
    except AuthError as error:
        raise ConsoleError("UnauthorizedException") from error
    return replace(caller, grants=grants)


def _standing(
    staff_id: str, issued_at: datetime, groups: tuple[str, ...] | None, snapshot: Snapshot, now: datetime
) -> tuple[StaffRow, tuple[Grant, ...]]:
    person = snapshot.staff.get(staff_id)
    if person is None or person.state != "ACTIVE":
        raise _refusal(REFUSED, "not an active staff member")
    if person.not_before is not None and issued_at < person.not_before:
        raise _refusal(REFUSED, "issued before the person's tokens were revoked")
    grants = snapshot.grants_of(staff_id, now)
    return person, tuple(grant for grant in grants if groups is None or grant.role in groups)
