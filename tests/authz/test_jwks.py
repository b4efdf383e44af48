"""Key sets: which keys are usable, and a source that lies, drips, redirects, floods or goes away."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from authz import jwks as jwks_module
from authz.jwks import FRESH_SECONDS, MAX_BYTES, RETRY_SECONDS, KeySet, KeysUnavailableError, _address, parse_keys
from countersign import tls

KEY: dict[str, Any] = {
    **ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True),
    "kid": "one",
}
DOCUMENT = json.dumps({"keys": [KEY]}).encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"


# ---------- documents ----------
def parsed(*keys: dict[str, Any]) -> list[str]:
    return sorted(parse_keys(json.dumps({"keys": keys}).encode()))


@pytest.mark.contract("TK-2")
@pytest.mark.parametrize(
    "change",
    [
        {"kid": None},
        {"kid": ""},
        {"use": "enc"},
        {"alg": "ES384"},
        {"alg": "HS256"},
        {"crv": "P-384"},
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": None},
        {"d": "c2VjcmV0"},
        {"x": "AA"},
        {"key_ops": ["sign"]},
    ],
)
def test_a_key_that_is_not_a_public_signature_key_of_a_known_kind_is_left_out(change: dict[str, Any]) -> None:
    assert parsed({**KEY, **change}) == []


def test_usable_keys_are_found_by_id_with_their_one_algorithm() -> None:
    keys = parse_keys(
        json.dumps(
            {"keys": [KEY, {**KEY, "kid": "two", "use": "sig", "alg": "ES256", "key_ops": ["verify"]}, 7]}
        ).encode()
    )
    assert {kid: key.algorithm for kid, key in keys.items()} == {"one": "ES256", "two": "ES256"}


@pytest.mark.contract("TK-2")
def test_short_rsa_keys_are_left_out() -> None:
    for bits, usable in ((1024, []), (2048, ["r"])):
        public = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, bits).public_key(), as_dict=True)
        assert parsed({**public, "kid": "r"}) == usable


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (b"{", "Expecting"),
        (b"[]", "not a JSON Web Key Set"),
        (b"{}", "not a JSON Web Key Set"),
        (json.dumps({"keys": [KEY] * 51}).encode(), "more than 50 keys"),
        (json.dumps({"keys": [KEY, KEY]}).encode(), "one key id names two keys"),
    ],
)
def test_a_document_that_is_no_key_set_is_refused_whole(document: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_keys(document)


# ---------- when it is fetched ----------
class Watch:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def file_set(folder: Path) -> tuple[KeySet, Watch, Path]:
    path = folder / "jwks.json"
    path.write_bytes(DOCUMENT)
    watch = Watch()
    return KeySet(f"file:{path}", clock=watch), watch, path


@pytest.mark.contract("TK-7")
async def test_unknown_ids_cause_one_fetch_in_thirty_seconds_whatever_the_traffic(tmp_path: Path) -> None:
    keys, watch, _ = file_set(tmp_path)
    assert await keys.find("one") is not None
    assert keys.fetches == 1
    found = await asyncio.gather(*(keys.find(f"junk-{number}") for number in range(200)))
    assert found == [None] * 200
    assert keys.fetches == 2
    watch.now += RETRY_SECONDS - 1
    await keys.find("junk")
    assert keys.fetches == 2
    watch.now += 1
    await keys.find("junk")
    assert keys.fetches == 3


@pytest.mark.contract("TK-7")
async def test_a_set_is_fresh_for_ten_minutes_and_one_fetch_serves_all_who_wait(tmp_path: Path) -> None:
    keys, watch, _ = file_set(tmp_path)
    await asyncio.gather(*(keys.find("one") for _ in range(50)))
    watch.now += FRESH_SECONDS - 1
    await keys.find("one")
    assert keys.fetches == 1
    watch.now += 1
    await asyncio.gather(*(keys.find("one") for _ in range(50)))
    assert keys.fetches == 2


@pytest.mark.contract("TK-7")
async def test_a_source_that_is_down_is_tried_every_thirty_seconds_and_never_had_keys(tmp_path: Path) -> None:
    keys, watch, path = file_set(tmp_path)
    path.unlink()
    for _ in range(3):
        with pytest.raises(KeysUnavailableError, match="no keys from"):
            await keys.find("one")
    assert keys.fetches == 1
    path.write_bytes(DOCUMENT)
    watch.now += RETRY_SECONDS
    assert await keys.find("one") is not None


async def test_a_file_that_is_too_large_or_broken_leaves_the_old_set(tmp_path: Path) -> None:
    keys, watch, path = file_set(tmp_path)
    await keys.find("one")
    for bad in (b" " * (MAX_BYTES + 1), b"{"):
        path.write_bytes(bad)
        watch.now += FRESH_SECONDS
        assert await keys.find("one") is not None


# ---------- where it is fetched from ----------
@pytest.mark.contract("TK-7", "OB-1")
@pytest.mark.parametrize(
    "url",
    [
        "http://keys.example/jwks",
        "ftp://keys.example/jwks",
        "https://user:secret@keys.example/",
        "https:///jwks",
        "https://keys.example/#a",
    ],
)
def test_only_an_https_url_without_credentials_is_taken(url: str) -> None:
    with pytest.raises(ValueError, match="https URL without credentials") as caught:
        KeySet(url)
    assert "secret" not in str(caught.value)


@pytest.mark.contract("TK-7")
@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1"),
        *("0.0.0.0", "::1", "fe80::1", "fd00::1", "::ffff:127.0.0.1"),  # noqa: S104  nothing is bound here
    ],
)
def test_private_addresses_are_refused_unless_the_setting_says_so(host: str) -> None:
    with pytest.raises(ValueError, match="no public address"):
        _address(host, 443, allow_private=False)
    assert _address(host, 443, allow_private=True) == host


def test_public_addresses_are_taken() -> None:
    assert _address("93.184.216.34", 443, allow_private=False) == "93.184.216.34"


class Server:
    """A TLS server on loopback that answers each connection as ``behave`` says, on the raw socket."""

    def __init__(self, folder: Path) -> None:
        self.certificate = tls.ensure(folder / "tls")
        self.behave: Callable[[ssl.SSLSocket], None] = lambda conn: conn.sendall(OK % (len(DOCUMENT), DOCUMENT))
        self.requests: list[bytes] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate.cert, self.certificate.key)
        self.handshake = True
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                raw, _ = self._listening.accept()
            except OSError:
                return
            with raw:
                raw.settimeout(5)
                if not self.handshake:
                    raw.recv(1)
                    while raw.recv(65536):
                        pass
                    continue
                try:
                    with self._context.wrap_socket(raw, server_side=True) as conn:
                        self.requests.append(conn.recv(65536))
                        self.behave(conn)
                except OSError:
                    continue

    def keys(self, **changes: Any) -> KeySet:
        settings: dict[str, Any] = {"allow_private": True, "ca_file": self.certificate.authority}
        return KeySet(f"https://localhost:{self.port}/keys?v=1", **{**settings, **changes})

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(5)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.close()


async def test_keys_come_over_tls_from_the_name_in_the_url(server: Server) -> None:
    found = await server.keys().find("one")
    assert found is not None
    assert found.algorithm == "ES256"
    assert server.requests[0].startswith(b"GET /keys?v=1 HTTP/1.1\r\n")
    assert f"Host: localhost:{server.port}".encode() in server.requests[0]


async def refused(keys: KeySet) -> None:
    with pytest.raises(KeysUnavailableError):
        await keys.find("one")


@pytest.mark.contract("TK-7")
async def test_a_loopback_address_is_not_even_connected_to(server: Server) -> None:
    await refused(server.keys(allow_private=False))
    assert server.requests == []


@pytest.mark.contract("TK-7")
async def test_a_certificate_of_another_authority_or_name_is_refused(server: Server) -> None:
    await refused(server.keys(ca_file=None))
    assert server.requests == []


@pytest.mark.contract("TK-7")
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 302 Found\r\nLocation: https://localhost/elsewhere\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{",
        b"nonsense\r\n\r\n",
        b"",
        OK % (MAX_BYTES + 1, b" " * (MAX_BYTES + 1)),
    ],
    ids=["redirect", "error", "no key set", "cut short", "no http", "nothing", "too large"],
)
async def test_a_redirect_or_a_bad_answer_gives_no_keys(server: Server, answer: bytes) -> None:
    server.behave = lambda conn: conn.sendall(answer)
    await refused(server.keys())
    assert len(server.requests) == 1


@pytest.mark.contract("TK-7")
@pytest.mark.parametrize("where", ["handshake", "headers", "body"])
async def test_a_source_that_drips_is_left_after_the_deadline(
    server: Server, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks_module, "FETCH_SECONDS", 0.4)

    def drip(conn: ssl.SSLSocket) -> None:
        conn.sendall(b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 9999\r\n\r\n" if where == "body" else b""))
        for _ in range(100):
            conn.sendall(b"X-Wait: 1\r\n" if where == "headers" else b" ")
            time.sleep(0.05)  # each byte starts the socket's timeout anew; only a deadline for the whole ends it

    server.behave = drip
    server.handshake = where != "handshake"
    before = time.monotonic()
    await refused(server.keys())
    assert time.monotonic() - before < 2


def test_a_connection_that_ends_while_it_is_aborted_is_left_alone(server: Server) -> None:
    context = ssl.create_default_context(cafile=str(server.certificate.authority))
    conn = jwks_module._PinnedConnection("localhost", server.port, "127.0.0.1", context)
    conn.abort()
    assert conn.aborted
    conn.connect()
    conn.sock.shutdown(socket.SHUT_RDWR)
    conn.abort()
    conn.close()
