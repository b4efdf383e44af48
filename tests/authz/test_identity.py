"""Tokens and API keys: what is accepted, what is refused in which of AppSync's sentences, and who stands behind it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from authz import identity as identity_module
from authz.dev_issuer import AUDIENCE, ISSUER, DevIssuer
from authz.identity import (
    EXPIRED,
    MISSING,
    NO_MODE,
    NOT_A_JWT,
    REFUSED,
    Authenticator,
    AuthError,
    AuthHeaders,
    Identity,
    caller,
)
from authz.issuers import ApiKey, Issuer, new_api_key
from tests.authz.people import NOW, grant, person, snapshot

POOL = "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_pool"
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


class Clock:
    """Wall and monotonic time that a test moves by hand."""

    def __init__(self) -> None:
        self.now = NOW
        self.elapsed = 0.0

    def wall(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self.elapsed

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.elapsed += seconds


def public(key: Any, kid: str, **extra: Any) -> dict[str, Any]:
    reader: Any = {
        rsa.RSAPrivateKey: RSAAlgorithm,
        ec.EllipticCurvePrivateKey: ECAlgorithm,
        ed25519.Ed25519PrivateKey: OKPAlgorithm,
    }[
        next(
            kind
            for kind in (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey)
            if isinstance(key, kind)
        )
    ]
    return {**reader.to_jwk(key.public_key(), as_dict=True), "kid": kid, **extra}


class Pool:
    """A user pool: its published keys in a file, and tokens signed with any key we like."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "jwks.json"
        self.clock = Clock()
        self.publish(public(RSA_KEY, "rsa-1"), public(EC_KEY, "ec-1"), public(ED_KEY, "ed-1"))
        self.authenticator = self.trusting()

    def publish(self, *keys: dict[str, Any]) -> None:
        self.path.write_text(json.dumps({"keys": keys}))

    def trusting(self, **changes: Any) -> Authenticator:
        settings: dict[str, Any] = {
            "issuer": POOL, "jwks": str(self.path), "audience": "console", "kind": "cognito", "algorithms": ("RS256", "ES256", "EdDSA"),
        }  # fmt: skip
        return Authenticator([Issuer(**{**settings, **changes})], clock=self.clock.wall, monotonic=self.clock.monotonic)

    def claims(self, **changes: Any) -> dict[str, Any]:
        seconds = int(self.clock.now.timestamp())
        claims = {
            "iss": POOL, "sub": "ana", "client_id": "console", "token_use": "access", "iat": seconds, "auth_time": seconds - 60, "exp": seconds + 3600,
            "cognito:groups": ["FINANCE"],
        }  # fmt: skip
        if "groups" in changes:  # the claim's own name is no Python name
            changes["cognito:groups"] = changes.pop("groups")
        return {name: value for name, value in {**claims, **changes}.items() if value is not ...}

    def token(
        self, key: Any = RSA_KEY, alg: str = "RS256", header: Mapping[str, Any] | None = None, **changes: Any
    ) -> str:
        return jwt.encode(
            self.claims(**changes), key, algorithm=alg, headers=dict({"kid": "rsa-1"} if header is None else header)
        )

    async def verify(self, token: str) -> Identity:
        return await self.authenticator.authenticate(AuthHeaders(token))

    async def refusal(self, token: str) -> tuple[str, str]:
        with pytest.raises(AuthError) as caught:
            await self.verify(token)
        assert (caught.value.status, caught.value.error_type) == (401, "UnauthorizedException")
        return caught.value.message, caught.value.cause


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path)


def b64(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


REPEATED = b'{"sub":"ana","sub":"admin"}'


# ---------- good tokens ----------
@pytest.mark.parametrize(
    ("key", "alg", "kid"), [(RSA_KEY, "RS256", "rsa-1"), (EC_KEY, "ES256", "ec-1"), (ED_KEY, "EdDSA", "ed-1")]
)
async def test_a_token_of_each_pinned_algorithm_becomes_an_identity(pool: Pool, key: Any, alg: str, kid: str) -> None:
    token = pool.token(key, alg, {"kid": kid})
    found = await pool.verify(token)
    assert (found.sub, found.issuer, found.kind, found.groups, found.client) == (
        "ana",
        POOL,
        "cognito",
        ("FINANCE",),
        "console",
    )
    assert found.issued_at == NOW
    assert found.auth_time == NOW - timedelta(seconds=60)
    assert found.expires_at == NOW + timedelta(hours=1)
    assert token not in repr(found)


async def test_a_bearer_prefix_is_taken_and_the_client_need_not_send_one(pool: Pool) -> None:
    token = pool.token()
    assert await pool.verify(f"Bearer {token}") == await pool.verify(token) == await pool.verify(f"  bearer   {token} ")


async def test_two_tokens_are_two_sessions(pool: Pool) -> None:
    assert (await pool.verify(pool.token())).session != (await pool.verify(pool.token(auth_time=1))).session


@pytest.mark.parametrize("audience", ["console", ["other", "console"]])
async def test_aud_may_be_a_text_or_a_list(pool: Pool, audience: object) -> None:
    assert (await pool.verify(pool.token(aud=audience, client_id=...))).sub == "ana"


async def test_an_issuer_without_token_use_may_be_configured(pool: Pool) -> None:
    pool.authenticator = pool.trusting(kind="oidc", token_use=None)
    assert (await pool.verify(pool.token(token_use=...))).kind == "oidc"


@pytest.mark.contract("TK-4")
async def test_leeway_is_thirty_seconds_on_each_clock_claim(pool: Pool) -> None:
    seconds = int(NOW.timestamp())
    await pool.verify(pool.token(iat=seconds + 30, auth_time=seconds + 30, nbf=seconds + 30))
    await pool.verify(pool.token(exp=seconds - 29, iat=seconds - 600))


# ---------- bad tokens ----------
@pytest.mark.contract("TK-1", "TK-2", "TK-3", "TK-4", "TK-9")
@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"exp": ...}, "no iat or exp"),
        ({"iat": ...}, "no iat or exp"),
        ({"sub": ...}, "no subject"),
        ({"sub": ""}, "no subject"),
        ({"sub": 7}, "no subject"),
        ({"exp": "tomorrow"}, "exp is not a date"),
        ({"exp": True}, "exp is not a date"),
        ({"iat": -1}, "iat is not a date"),
        ({"exp": 10**30}, "exp is not a date"),
        ({"exp": int(NOW.timestamp()) + 86_401}, "lifetime"),
        ({"exp": int(NOW.timestamp())}, "lifetime"),
        ({"iat": int(NOW.timestamp()) + 31}, "future"),
        ({"auth_time": int(NOW.timestamp()) + 31}, "future"),
        ({"nbf": int(NOW.timestamp()) + 31}, "future"),
        ({"client_id": "another"}, "audience"),
        ({"client_id": ...}, "audience"),
        ({"aud": "another"}, "audience"),  # an audience that is there decides, whatever the client
        ({"aud": ["another"]}, "audience"),
        ({"aud": None, "client_id": ...}, "audience"),
        ({"token_use": "id"}, "token_use"),
        ({"token_use": ...}, "token_use"),
        ({"groups": "FINANCE"}, "groups"),
        ({"groups": [1]}, "groups"),
    ],
)
async def test_wrong_claims_share_one_sentence_and_the_log_knows_which(
    pool: Pool, changes: dict[str, Any], cause: str
) -> None:
    message, told = await pool.refusal(pool.token(**changes))
    assert message == REFUSED
    assert cause in told


@pytest.mark.contract("TK-4")
async def test_an_expired_token_is_told_so_only_when_all_else_is_right(pool: Pool) -> None:
    old: dict[str, Any] = {"iat": int(NOW.timestamp()) - 3600, "exp": int(NOW.timestamp()) - 30, "auth_time": 1}
    assert (await pool.refusal(pool.token(**old)))[0] == EXPIRED
    assert (await pool.refusal(pool.token(**old, client_id="x")))[0] == REFUSED
    assert (await pool.refusal(pool.token(OTHER_RSA_KEY, **old)))[0] == REFUSED


@pytest.mark.contract("TK-2")
@pytest.mark.parametrize(
    "header",
    [
        {"jku": "https://evil.example/jwks"},
        {"x5u": "https://evil.example"},
        {"x5c": ["MII"]},
        {"jwk": {"kty": "oct"}},
        {"crit": ["exp"]},
        {"crit": []},
        {"zip": "DEF"},
    ],
)
async def test_a_token_that_brings_its_own_key_or_extension_is_refused(pool: Pool, header: dict[str, Any]) -> None:
    head, body, _ = pool.token().split(".")
    bad = {**json.loads(base64.urlsafe_b64decode(head + "==")), **header}
    signature = (
        jwt.PyJWS().encode(base64.urlsafe_b64decode(body + "=="), RSA_KEY, "RS256", {"kid": "rsa-1"}).rsplit(".", 1)[1]
    )
    message, cause = await pool.refusal(f"{b64(bad)}.{body}.{signature}")
    assert (message, cause) == (REFUSED, "forbidden header parameter")


@pytest.mark.contract("TK-1", "TK-2")
async def test_keys_and_algorithms_must_agree(pool: Pool) -> None:
    assert (await pool.refusal(pool.token(header={"kid": "unknown"})))[1] == "no such key for this algorithm"
    assert (await pool.refusal(pool.token(header={})))[1] == "no key id"
    assert (await pool.refusal(pool.token(header={"kid": "ec-1"})))[1] == "no such key for this algorithm"
    assert (await pool.refusal(pool.token(OTHER_RSA_KEY)))[1] == "signature: InvalidSignatureError"
    pool.authenticator = pool.trusting(algorithms=("ES256",))
    assert (await pool.refusal(pool.token()))[1] == "algorithm not of this issuer"


@pytest.mark.contract("TK-1")
async def test_none_and_symmetric_algorithms_are_never_taken(pool: Pool) -> None:
    body = b64(pool.claims())
    for alg in ("none", "None", "NONE"):
        assert (await pool.refusal(f"{b64({'alg': alg, 'kid': 'rsa-1'})}.{body}."))[1] == "algorithm not of this issuer"
    pem = RSA_KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for secret in (pem, json.dumps(public(RSA_KEY, "rsa-1")).encode()):
        signed = f"{b64({'alg': 'HS256', 'kid': 'rsa-1'})}.{body}"
        forged = b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())
        assert (await pool.refusal(f"{signed}.{forged}"))[1] == "algorithm not of this issuer"
        as_rsa = f"{b64({'alg': 'RS256', 'kid': 'rsa-1'})}.{body}"
        assert (await pool.refusal(f"{as_rsa}.{b64(hmac.new(secret, as_rsa.encode(), hashlib.sha256).digest())}"))[
            1
        ].startswith("signature")


@pytest.mark.contract("TK-1")
async def test_a_tampered_payload_is_refused(pool: Pool) -> None:
    head, _, signature = pool.token().split(".")
    assert (await pool.refusal(f"{head}.{b64(pool.claims(sub='admin'))}.{signature}"))[0] == REFUSED


@pytest.mark.contract("TK-1")
@pytest.mark.parametrize("issuer", [POOL + "/", POOL.upper(), "https://evil.example", 7, ...])
async def test_an_issuer_that_is_not_exactly_ours_is_taken_by_no_mode(pool: Pool, issuer: object) -> None:
    assert (await pool.refusal(f"{b64({'alg': 'RS256', 'kid': 'rsa-1'})}.{b64(pool.claims(iss=issuer))}.{b64(b'x')}"))[
        0
    ] == NO_MODE


@pytest.mark.contract("TK-9")
@pytest.mark.parametrize(
    "value",
    [
        "nonsense",
        "a.b",
        "a.b.c",
        f"{b64({})}.{b64(b'[')}.x",
        f"{b64([])}.{b64({})}.{b64(b'x')}",
        f"{b64({})}.{b64({})}.x!y",
        f"{b64(b'[' * 3000)}.{b64({})}.",
        f"{b64({})}.{b64(REPEATED)}.",
    ],
)
async def test_what_is_no_jwt_is_told_so(pool: Pool, value: str) -> None:
    assert (await pool.refusal(value))[0] == NOT_A_JWT


@pytest.mark.contract("TK-2")
async def test_a_token_above_8_kib_is_refused_unread(pool: Pool) -> None:
    assert await pool.refusal(pool.token(pad="x" * 8192)) == (REFUSED, "token too long")


# ---------- the mode ----------
@pytest.mark.contract("TK-9")
async def test_no_credentials_and_credentials_of_no_mode_have_their_own_sentences(pool: Pool) -> None:
    for headers, message in (
        (AuthHeaders(), MISSING),
        (AuthHeaders("  "), MISSING),
        (AuthHeaders(None, "da2-x"), NO_MODE),
        (AuthHeaders("AWS4-HMAC-SHA256 Credential=x"), NO_MODE),
    ):
        with pytest.raises(AuthError) as caught:
            await pool.authenticator.authenticate(headers)
        assert caught.value.message == message
    assert AuthHeaders.of({"authorization": "a", "x-api-key": "b", "host": "c"}) == AuthHeaders("a", "b")
    assert (await pool.authenticator.authenticate(AuthHeaders(pool.token(), "da2-x"))).kind == "cognito"


def api_key(**changes: Any) -> tuple[str, ApiKey]:
    key, digest = new_api_key()
    settings: dict[str, Any] = {
        "id": "k1", "digest": bytes.fromhex(digest), "root_fields": frozenset({"submitReport"}), "created_at": NOW - timedelta(days=1),
        "expires_at": NOW + timedelta(days=1), "service": "MARKETPLACE", "city_ids": ("lisbon",), "content_categories": ("SFW",),
    }  # fmt: skip
    return key, ApiKey(**{**settings, **changes})


@pytest.mark.contract("TK-9")
async def test_an_api_key_that_is_given_decides_alone(pool: Pool) -> None:
    key, stored = api_key()
    both = Authenticator([Issuer(POOL, str(pool.path), "console", "cognito")], [stored], clock=pool.clock.wall)
    found = await both.authenticate(AuthHeaders(pool.token(), key))
    assert (found.kind, found.sub, found.client, found.auth_time) == ("apiKey", "service:MARKETPLACE", "k1", None)
    assert key not in repr(found)
    with pytest.raises(AuthError, match="You are not authorized to make this call"):
        await both.authenticate(AuthHeaders(pool.token(), key + "x"))
    pool.clock.advance(86_400)
    with pytest.raises(AuthError) as caught:
        await both.authenticate(AuthHeaders(None, key))
    assert (caught.value.message, caught.value.cause) == (REFUSED, "API key k1 has expired")


# ---------- cache and rotation ----------
@pytest.mark.contract("TK-6")
async def test_a_verified_token_is_remembered_and_dies_on_time(pool: Pool) -> None:
    token = pool.token()
    first = await pool.verify(token)
    assert await pool.verify(token) is first
    pool.clock.advance(3600 + 29)
    assert await pool.verify(token) is first
    pool.clock.advance(1)
    assert (await pool.refusal(token))[0] == EXPIRED


@pytest.mark.contract("TK-6")
async def test_the_cache_is_bounded(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_module, "CACHE_ENTRIES", 2)
    first = await pool.verify(tokens := pool.token(EC_KEY, "ES256", {"kid": "ec-1"}))
    for number in range(2):
        await pool.verify(pool.token(EC_KEY, "ES256", {"kid": "ec-1"}, auth_time=number))
    assert await pool.verify(tokens) is not first


@pytest.mark.contract("TK-7", "TK-8")
async def test_rotation_refuses_nobody_early_and_a_removed_key_within_ten_minutes(pool: Pool) -> None:
    old, new = (RSA_KEY, "RS256", {"kid": "rsa-1"}), (EC_KEY, "ES256", {"kid": "ec-2"})
    cached = pool.token(*old)
    await pool.verify(cached)
    pool.publish(public(RSA_KEY, "rsa-1"), public(EC_KEY, "ec-2"))
    for number in range(50):  # both keys at once: the new one from its first use
        await pool.verify(pool.token(*new, auth_time=number))
        await pool.verify(pool.token(*old, auth_time=number))
    pool.publish(public(EC_KEY, "ec-2"))
    pool.clock.advance(601)
    assert (await pool.refusal(cached))[1] == "no such key for this algorithm"  # although it had been verified
    assert (await pool.refusal(pool.token(*old)))[0] == REFUSED
    await pool.verify(pool.token(*new))


@pytest.mark.contract("TK-8")
async def test_another_key_under_the_same_id_ends_what_the_first_one_signed(pool: Pool) -> None:
    token = pool.token()
    await pool.verify(token)
    pool.publish(public(OTHER_RSA_KEY, "rsa-1"))
    pool.clock.advance(601)
    assert (await pool.refusal(token))[1] == "signature: InvalidSignatureError"
    await pool.verify(pool.token(OTHER_RSA_KEY))


@pytest.mark.contract("FC-4")
async def test_old_keys_serve_a_day_while_the_source_is_down_and_then_nobody_passes(pool: Pool) -> None:
    await pool.verify(pool.token())
    pool.path.unlink()
    pool.clock.advance(24 * 3600 - 60)
    await pool.verify(pool.token())
    pool.clock.advance(61)
    message, cause = await pool.refusal(pool.token())
    assert message == REFUSED
    assert cause.startswith("no keys from")


# ---------- the person ----------
@pytest.mark.contract("TK-5")
async def test_a_caller_has_the_grants_of_the_store_narrowed_by_the_groups_of_the_token(pool: Pool) -> None:
    finance, support = grant("FINANCE", "SENIOR"), grant("SUPPORT", "LEAD")
    board = snapshot(person("ana", finance, support, grant("CITY_OPS", expires_at=NOW)))
    named = caller(await pool.verify(pool.token()), board, NOW)
    assert (named.id, named.handle, named.grants, named.groups) == ("ana", "ana", (finance,), ("FINANCE",))
    assert (named.auth_time, named.expires_at, named.service, named.root_fields) == (
        NOW - timedelta(seconds=60),
        NOW + timedelta(hours=1),
        None,
        None,
    )
    assert (named.roles, named.role_set, named.facts) == (("FINANCE",), (("FINANCE", "SENIOR"),), {})
    silent = caller(await pool.verify(pool.token(groups=...)), board, NOW)
    assert silent.grants == (finance, support)
    assert silent.groups is None
    wide = caller(await pool.verify(pool.token(groups=["ADMIN", "FINANCE", "SUPPORT"])), board, NOW)
    assert wide.grants == (finance, support)
    assert caller(await pool.verify(pool.token(groups=[])), board, NOW).grants == ()


@pytest.mark.contract("TK-5")
@pytest.mark.parametrize("state", ["INVITED", "LOCKED", "OFFBOARDED"])
async def test_only_an_active_member_is_somebody(pool: Pool, state: str) -> None:
    found = await pool.verify(pool.token())
    for board in (snapshot(person("ana", grant("FINANCE"), state=state)), snapshot()):
        with pytest.raises(AuthError) as caught:
            caller(found, board, NOW)
        assert (caught.value.status, caught.value.message) == (401, REFUSED)


@pytest.mark.contract("TK-5")
async def test_tokens_from_before_a_lock_are_dead_cached_or_not(pool: Pool) -> None:
    found = await pool.verify(pool.token())
    assert caller(found, snapshot(person("ana", not_before=NOW)), NOW).id == "ana"
    with pytest.raises(AuthError, match="not authorized"):
        caller(found, snapshot(person("ana", not_before=NOW + timedelta(microseconds=1))), NOW)


async def test_a_key_of_another_system_is_a_service_with_the_scope_of_the_key() -> None:
    key, stored = api_key()
    authenticator = Authenticator([], [stored], clock=lambda: NOW)
    found = caller(await authenticator.authenticate(AuthHeaders(None, key)), snapshot(), NOW)
    assert (found.id, found.handle, found.roles, found.facts) == (
        "service:MARKETPLACE",
        "marketplace",
        ("SERVICE",),
        {"service": "MARKETPLACE"},
    )
    assert found.root_fields == frozenset({"submitReport"})
    assert snapshot().permits(found.grants, "report", "submit", found.facts, city_id="lisbon", category="SFW").allowed
    assert (
        not snapshot().permits(found.grants, "report", "submit", found.facts, city_id="berlin", category="SFW").allowed
    )


async def test_a_key_of_a_person_has_that_persons_grants_and_ends_with_him() -> None:
    key, stored = api_key(service=None, staff_id="ana")
    found = await Authenticator([], [stored], clock=lambda: NOW).authenticate(AuthHeaders(None, key))
    person_ = caller(found, snapshot(person("ana", grant("FINANCE"))), NOW)
    assert (person_.id, person_.grants, person_.root_fields, person_.service) == (
        "ana",
        (grant("FINANCE"),),
        frozenset({"submitReport"}),
        None,
    )
    with pytest.raises(AuthError):
        caller(found, snapshot(person("ana", state="LOCKED")), NOW)
    with pytest.raises(AuthError):
        caller(found, snapshot(person("ana", not_before=NOW)), NOW)


# ---------- the dev issuer ----------
async def test_the_dev_issuers_tokens_carry_the_claims_of_a_user_pool(tmp_path: Path) -> None:
    dev = DevIssuer(tmp_path / "dev")
    authenticator = Authenticator([], dev=dev, clock=lambda: NOW)
    token = dev.token("ana", ["FINANCE"], ttl=timedelta(minutes=5), auth_age=timedelta(minutes=10), now=NOW)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims == {
        "iss": ISSUER,
        "sub": "ana",
        "aud": AUDIENCE,
        "client_id": AUDIENCE,
        "token_use": "access",
        "iat": int(NOW.timestamp()),
        "auth_time": int(NOW.timestamp()) - 600,
        "exp": int(NOW.timestamp()) + 300,
        "cognito:groups": ["FINANCE"],
    }
    found = await authenticator.authenticate(AuthHeaders(token))
    assert (found.sub, found.groups, found.auth_time) == ("ana", ("FINANCE",), NOW - timedelta(minutes=10))
    assert "cognito:groups" not in jwt.decode(dev.token("ana"), options={"verify_signature": False})


@pytest.mark.contract("PV-3")
def test_the_dev_key_is_made_once_and_is_its_users_alone(tmp_path: Path) -> None:
    folder = tmp_path / "keys" / "dev"
    first, second = DevIssuer(folder), DevIssuer(folder)
    assert first.kid == second.kid
    assert first.jwks() == second.jwks() == json.loads((folder / "dev_jwks.json").read_text())
    assert "d" not in first.jwks()["keys"][0]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "dev_issuer.pem").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["dev_issuer.pem", "dev_jwks.json"]


def test_of_many_first_starts_one_makes_the_key_and_all_use_it(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def start() -> str:
        barrier.wait(5)
        return DevIssuer(tmp_path / "dev").kid

    with ThreadPoolExecutor(8) as starts:
        kids = {made.result() for made in [starts.submit(start) for _ in range(8)]}
    assert len(kids) == 1
    assert sorted(path.name for path in (tmp_path / "dev").iterdir()) == ["dev_issuer.pem", "dev_jwks.json"]


def test_a_dev_key_file_that_holds_another_key_is_named(tmp_path: Path) -> None:
    pem = RSA_KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "dev_issuer.pem").write_bytes(pem)
    with pytest.raises(ValueError, match=r"dev_issuer\.pem does not hold an ES256 key"):
        DevIssuer(tmp_path)


@pytest.mark.contract("PV-3")
def test_the_dev_issuer_is_refused_beside_a_real_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dev issuer is refused"):
        Authenticator([Issuer(POOL, "x", "console", "cognito")], dev=DevIssuer(tmp_path))


def test_by_default_the_clock_is_the_wall_clock() -> None:
    before = datetime.now(UTC)
    assert before <= Authenticator([])._clock() <= datetime.now(UTC)
