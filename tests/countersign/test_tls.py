"""The local certificate works for this machine's names, renews itself, and its authority has no power over others."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from countersign import tls
from countersign.tls import Certificate


def _handshake(made: Certificate, name: str, authority: Path) -> str:
    """The error of a handshake for ``name``, or the protocol's version."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.cert, made.key)
    client = ssl.create_default_context(cafile=str(authority))
    ours, theirs = socket.socketpair()

    def answer() -> None:
        try:
            server.wrap_socket(ours, server_side=True).close()
        except OSError:
            ours.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with client.wrap_socket(theirs, server_hostname=name) as wrapped:
            return str(wrapped.version())
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    finally:
        theirs.close()
        thread.join()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_it_is_trusted_for_this_machine(tmp_path: Path, name: str) -> None:
    made = tls.ensure(tmp_path / "tls")
    assert made.authority is not None
    assert _handshake(made, name, made.authority) == "TLSv1.3"


@pytest.mark.contract("PV-3")
def test_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    tls.ensure(tmp_path / "tls")
    assert (tmp_path / "tls").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "tls").iterdir()} == {0o600}


def test_it_stays_until_a_month_before_its_end(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    first = tls.ensure(tmp_path, now=now).cert.read_bytes()
    authority = (tmp_path / "ca.pem").read_bytes()
    assert tls.ensure(tmp_path, now=now + timedelta(days=59)).cert.read_bytes() == first
    renewed = tls.ensure(tmp_path, now=now + timedelta(days=61)).cert.read_bytes()
    assert renewed != first
    assert (tmp_path / "ca.pem").read_bytes() == authority


def test_a_damaged_certificate_is_made_anew(tmp_path: Path) -> None:
    made = tls.ensure(tmp_path)
    made.cert.write_text("no certificate")
    again = tls.ensure(tmp_path)
    assert again.authority is not None
    assert _handshake(again, "localhost", again.authority) == "TLSv1.3"


def test_its_authority_cannot_speak_for_other_hosts(tmp_path: Path) -> None:
    made = tls.ensure(tmp_path)
    assert made.authority is not None
    stolen = serialization.load_pem_private_key((tmp_path / "ca-key.pem").read_bytes(), None)
    assert isinstance(stolen, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate(made.authority.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    forged = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bank.example.test")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("bank.example.test")]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(stolen.public_key()), critical=False)
        .sign(stolen, hashes.SHA256())
    )
    (tmp_path / "forged.pem").write_bytes(forged.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "forged.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    said = _handshake(
        Certificate(tmp_path / "forged.pem", tmp_path / "forged.key", None), "bank.example.test", made.authority
    )
    assert said == "permitted subtree violation"
