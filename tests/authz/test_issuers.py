"""Issuers and API keys as configured: what is read, and every refusal with the name of what is wrong."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from authz.issuers import ApiKey, Issuer, match_api_key, new_api_key, parse_api_keys, parse_issuers
from tests.authz.people import NOW

POOL: dict[str, Any] = {
    "issuer": "https://pool.example",
    "jwks": "https://pool.example/jwks",
    "audience": "console",
    "kind": "cognito",
}


def test_issuers_are_read_with_their_defaults() -> None:
    full = {
        **POOL,
        "issuer": "https://b.example",
        "algorithms": ["ES256"],
        "tokenUse": None,
        "allowPrivate": True,
        "caFile": "ca.pem",
    }
    assert parse_issuers(json.dumps([POOL, full])) == (
        Issuer(
            "https://pool.example",
            "https://pool.example/jwks",
            "console",
            "cognito",
            ("RS256",),
            ("access",),
            False,
            None,
        ),
        Issuer(
            "https://b.example",
            "https://pool.example/jwks",
            "console",
            "cognito",
            ("ES256",),
            None,
            True,
            Path("ca.pem"),
        ),
    )
    assert parse_issuers("[]") == ()


@pytest.mark.contract("TK-1")
@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({**POOL, "algorithms": ["HS256"]}, "algorithms of the issuer https://pool"),
        ({**POOL, "algorithms": ["none"]}, "algorithms of the issuer"),
        ({**POOL, "algorithms": []}, "algorithms of the issuer"),
        ({**POOL, "algorithms": "RS256"}, "algorithms is a list"),
        ({**POOL, "kind": "saml"}, "one of cognito, oidc"),
        ({**POOL, "issuer": ""}, "are texts"),
        ({**POOL, "audience": 7}, "are texts"),
        ({**POOL, "tokenUse": []}, "tokenUse is a list"),
        ({**POOL, "tokenUse": "access"}, "tokenUse is a list"),
        ({**POOL, "extra": 1}, "unknown extra, missing nothing"),
        ({"issuer": "x"}, "unknown nothing, missing audience, jwks, kind"),
        ("x", "a JSON object is wanted"),
    ],
)
def test_a_wrong_issuer_is_named(entry: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_issuers(json.dumps([entry]))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("{", "not JSON"), ("{}", "a JSON list is wanted"), (json.dumps([POOL, POOL]), "listed twice")],
)
def test_a_setting_that_is_no_list_of_different_issuers_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_issuers(text)


def test_an_issuer_made_in_code_is_checked_too() -> None:
    with pytest.raises(ValueError, match="a name and an audience"):
        Issuer("", "x", "y", "oidc")


HASH = hashlib.sha256(b"secret").hexdigest()
KEY: dict[str, Any] = {
    "id": "k1", "hash": HASH, "service": "MARKETPLACE", "cityIds": ["lisbon"], "contentCategories": ["SFW"], "rootFields": ["submitReport"],
    "createdAt": "2026-11-01T00:00:00Z", "expiresAt": "2027-10-31T00:00:00+00:00",
}  # fmt: skip


def test_api_keys_are_read_and_stand_for_a_service_or_a_person() -> None:
    person = {
        **KEY,
        "id": "k2",
        "hash": hashlib.sha256(b"other").hexdigest(),
        "service": None,
        "staff": "ana",
        "createdAt": "2026-11-01",
        "cityIds": [],
    }
    service, own = parse_api_keys(json.dumps([KEY, person]), NOW)
    assert (service.id, service.service, service.staff_id, service.root_fields) == (
        "k1",
        "MARKETPLACE",
        None,
        frozenset({"submitReport"}),
    )
    assert (service.grant.role, service.grant.city_ids, service.grant.content_categories) == (
        "SERVICE",
        ("lisbon",),
        ("SFW",),
    )
    assert service.grant.expires_at == service.expires_at
    assert (own.staff_id, own.service) == ("ana", None)
    assert own.created_at == NOW.replace(day=1, hour=0)


@pytest.mark.contract("TK-9")
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"hash": "ABC"}, "hash is the SHA-256"),
        ({"hash": 7}, "hash is the SHA-256"),
        ({"rootFields": []}, "rootFields lists"),
        ({"rootFields": ["Query.x"]}, "rootFields lists"),
        ({"rootFields": "submitReport"}, "rootFields lists"),
        ({"rootFields": ["publishAlert"]}, "IAM mode alone"),
        ({"expiresAt": "2027-11-02T00:00:00Z"}, "at most 365 days"),
        ({"createdAt": "2026-12-01T00:00:00Z"}, "which is past"),
        ({"createdAt": "soon"}, "createdAt is a date and time"),
        ({"staff": "ana"}, "one staff member, or"),
        ({"service": None}, "one staff member, or"),
        ({"service": "OUTBOX"}, "one staff member, or"),
        ({"contentCategories": ["ODD"]}, "unknown category ODD"),
        ({"cityIds": ["*", "lisbon"]}, "every city and a list"),
        ({"key": "clear"}, "unknown key"),
    ],
)
def test_a_wrong_api_key_is_named(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_api_keys(json.dumps([{**KEY, **change}]), NOW)


@pytest.mark.parametrize("second", [KEY, {**KEY, "id": "k2"}, {**KEY, "hash": hashlib.sha256(b"x").hexdigest()}])
def test_ids_and_keys_are_unique(second: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="listed twice"):
        parse_api_keys(json.dumps([KEY, second]), NOW)


@pytest.mark.contract("TK-9")
def test_a_key_is_found_by_its_hash_and_a_new_one_is_long_and_random() -> None:
    keys = parse_api_keys(json.dumps([KEY]), NOW)
    assert match_api_key(keys, "secret") is keys[0]
    assert match_api_key(keys, "secret ") is None
    assert match_api_key((), "secret") is None
    (one, digest), (two, _) = new_api_key(), new_api_key()
    assert one != two
    assert len(one) >= 43 + len("csk-")
    stored = ApiKey("n", bytes.fromhex(digest), frozenset({"me"}), NOW, NOW + timedelta(days=1), "ana")
    assert match_api_key([keys[0], stored], one) is stored
