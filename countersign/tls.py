"""TLS for this machine: a local authority and a server certificate for ``localhost``, made at the first start.

Amplify's client opens subscriptions over ``wss`` only. The authority may sign for loopback names and addresses alone (a
name constraint), so trusting it in a browser gives its key no power over any other host.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_AUTHORITY_DAYS: Final = 3650
_SERVER_DAYS: Final = 90
_RENEW_DAYS: Final = 30
_BACKDATED: Final = timedelta(hours=1)  # a client's clock may be behind


@dataclass(frozen=True)
class Certificate:
    """Files of a server certificate; ``authority`` is None where the operator brought his own."""

    cert: Path
    key: Path
    authority: Path | None


def ensure(folder: Path, *, now: datetime | None = None) -> Certificate:
    """The local certificate in ``folder`` (mode 0700); made when missing, renewed thirty days before it ends."""
    moment = now or datetime.now(UTC)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    authority, authority_key = folder / "ca.pem", folder / "ca-key.pem"
    made = Certificate(folder / "server.pem", folder / "server-key.pem", authority)
    if not _lasts(authority, moment) or not authority_key.exists():
        _make_authority(authority, authority_key, moment)
        made.cert.unlink(missing_ok=True)
    if not _lasts(made.cert, moment) or not made.key.exists():
        _make_server(made, authority_key, moment)
    return made


def _lasts(cert: Path, now: datetime) -> bool:
    try:
        return x509.load_pem_x509_certificate(cert.read_bytes()).not_valid_after_utc - now > timedelta(days=_RENEW_DAYS)
    except (FileNotFoundError, ValueError):
        return False


def _make_authority(cert_path: Path, key_path: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Countersign local authority {os.urandom(4).hex()}")])
    allowed: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(IPv4Network("127.0.0.0/8")),
        x509.IPAddress(IPv6Network("::1/128")),
    ]
    cert = (
        _builder(name, name, key.public_key(), now, _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(permitted_subtrees=allowed, excluded_subtrees=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_path, _pem(key))
    _write(cert_path, cert.public_bytes(serialization.Encoding.PEM))


def _make_server(made: Certificate, authority_key: Path, now: datetime) -> None:
    if made.authority is None:
        raise ValueError("A certificate of the operator's is not ours to renew.")
    issuer = x509.load_pem_x509_certificate(made.authority.read_bytes())
    issuer_key = serialization.load_pem_private_key(authority_key.read_bytes(), password=None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{authority_key} is not the key that was made here; remove {authority_key.parent}.")  # noqa: TRY004 - a wrong file
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1")), x509.IPAddress(IPv6Address("::1"))]
    )
    cert = (
        _builder(name, issuer.subject, key.public_key(), now, _SERVER_DAYS)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    _write(made.key, _pem(key))
    _write(made.cert, cert.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes) -> None:
    """Readable by its owner only from its first byte on, and never half written."""
    staging = path.with_name(path.name + ".new")
    staging.unlink(missing_ok=True)
    with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    staging.replace(path)
