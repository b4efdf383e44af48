"""The issuer of the embedded mode: one ES256 key in a folder of its user, and tokens that look like a user pool's.

Never beside a real issuer: ``Authenticator`` refuses to be built with both (security contract PV-3).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from authz.issuers import Issuer

ISSUER: Final = "https://dev.countersign.invalid"  # a name that can resolve nowhere (RFC 2606)
AUDIENCE: Final = "countersign-dev"


class DevIssuer:
    """Signs tokens for demo and tests with the key in ``folder``; makes folder (0700) and key (0600) when there are none."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._key = _load(folder / "dev_issuer.pem")
        self._public: dict[str, Any] = {
            **ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True),
            "alg": "ES256",
            "use": "sig",
        }
        self._public["kid"] = _thumbprint(self._public)
        self._jwks = folder / "dev_jwks.json"
        written = _draft(self._jwks)
        written.write_text(json.dumps(self.jwks()), encoding="utf-8")
        written.replace(self._jwks)  # in one step: another process may be reading it

    @property
    def kid(self) -> str:
        return str(self._public["kid"])

    @property
    def issuer(self) -> Issuer:
        """How a verifier is to trust this issuer."""
        return Issuer(ISSUER, f"file:{self._jwks}", AUDIENCE, "oidc", ("ES256",))

    def jwks(self) -> dict[str, Any]:
        """The public key, for ``/.well-known/jwks.json``."""
        return {"keys": [dict(self._public)]}

    def token(
        self,
        sub: str,
        groups: Sequence[str] | None = None,
        ttl: timedelta = timedelta(hours=1),
        auth_age: timedelta = timedelta(0),
        now: datetime | None = None,
    ) -> str:
        """An access token for a staff id. ``groups`` None leaves the claim out, so that nothing is narrowed."""
        issued = now or datetime.now(UTC)
        seconds = int(issued.timestamp())
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "sub": sub,
            "aud": AUDIENCE,
            "client_id": AUDIENCE,
            "token_use": "access",
            "iat": seconds,
            "auth_time": int((issued - auth_age).timestamp()),
            "exp": seconds + int(ttl.total_seconds()),
        }
        if groups is not None:
            claims["cognito:groups"] = list(groups)
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self.kid})


def _load(path: Path) -> ec.EllipticCurvePrivateKey:
    """The stored key; a new one is put in place by a link, so that of two first starts one wins and both use its key."""
    if not path.exists():
        made = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        draft = _draft(path)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(made)
        try:
            path.hardlink_to(draft)
        except FileExistsError:  # the other start was first
            pass
        finally:
            draft.unlink()
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} does not hold an ES256 key; remove it and start again")  # noqa: TRY004  a wrong file, not a wrong type
    return key


def _draft(path: Path) -> Path:
    return path.with_suffix(f".{secrets.token_hex(4)}")


def _thumbprint(public: dict[str, Any]) -> str:
    """The key's id (RFC 7638)."""
    members = {name: public[name] for name in ("crv", "kty", "x", "y")}
    digest = hashlib.sha256(json.dumps(members, sort_keys=True, separators=(",", ":")).encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
