"""Public keys of an issuer: from its one configured URL or file, bounded in time, size and number, never by redirect.

Fresh for ten minutes, kept for a day while the source is down. An unknown key id causes at most one fetch in 30 seconds,
whatever the traffic (security contract TK-7).
"""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import InvalidKeyError

from schema import telemetry

logger = logging.getLogger("countersign.authz")

FETCH_SECONDS: Final = 3.0
MAX_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 50
FRESH_SECONDS: Final = 595.0  # ten minutes, less the time of a fetch during which the old set still serves
RETRY_SECONDS: Final = 30.0
STALE_SECONDS: Final = 24 * 3600.0
MIN_RSA_BITS: Final = 2_048

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

# The one algorithm of each kind of key: a key never serves another, whatever the token's header says.
_ALGORITHMS: Final[Mapping[tuple[str, str | None], str]] = MappingProxyType(
    {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
)


class KeysUnavailableError(Exception):
    """No key set that may be used; the message is for the log."""


@dataclass(frozen=True)
class VerificationKey:
    """A public key that may verify signatures of exactly one algorithm."""

    kid: str
    algorithm: str
    key: PublicKey
    encoded: str  # the key's own members: another key under the same id is another key


def parse_keys(document: bytes) -> Mapping[str, VerificationKey]:
    """The usable signature keys of a JWKS by id; others (encryption, symmetric, short, private) are left out.

    ``ValueError`` for a document that is no key set, has too many keys, or uses one id twice.
    """
    decoded = json.loads(document)
    entries = decoded.get("keys") if isinstance(decoded, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a JSON Web Key Set")  # noqa: TRY004  the document is wrong, not a type in our code
    if len(entries) > MAX_KEYS:
        raise ValueError(f"more than {MAX_KEYS} keys")
    keys: dict[str, VerificationKey] = {}
    for entry in entries:
        key = _usable(entry) if isinstance(entry, dict) else None
        if key is None:
            continue
        if key.kid in keys:
            raise ValueError("one key id names two keys")
        keys[key.kid] = key
    return MappingProxyType(keys)


def _usable(entry: dict[str, Any]) -> VerificationKey | None:
    kid, kty = entry.get("kid"), entry.get("kty")
    algorithm = _ALGORITHMS.get((str(kty), None if kty == "RSA" else entry.get("crv")))
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(kid, str) or not kid or algorithm is None or "d" in entry:
        return None
    if entry.get("alg", algorithm) != algorithm or entry.get("use", "sig") != "sig" or "verify" not in operations:
        return None
    reader: Any = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}[str(kty)]
    try:
        key = reader.from_jwk(entry)
    except (InvalidKeyError, ValueError):
        return None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        return None
    members = {name: entry.get(name) for name in ("kty", "crv", "n", "e", "x", "y")}
    return VerificationKey(kid, algorithm, key, json.dumps(members, sort_keys=True))


class KeySet:
    """The keys of one issuer, fetched when they are needed."""

    def __init__(
        self,
        source: str,
        *,
        allow_private: bool = False,
        ca_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``source``: an https URL, or a file (``file:PATH`` or a path). ``allow_private`` admits loopback and private addresses."""
        self._read: Callable[[], bytes]
        if "://" in source and not source.startswith("file:"):
            url = _checked_url(source)
            tls = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
            self._read = lambda: fetch(url, allow_private=allow_private, tls=tls)
        else:
            path = Path(source.removeprefix("file:"))
            self._read = lambda: _read_file(path)
        self._source = source
        self._clock = clock
        self._keys: Mapping[str, VerificationKey] | None = None
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._unknown_at = float("-inf")
        self._fetching = asyncio.Lock()
        self.fetches = 0

    async def find(self, kid: str) -> VerificationKey | None:
        """The key of this id, or None; may wait for one fetch of three seconds. ``KeysUnavailableError`` after a day without source."""
        # One fetch in flight: who lacks the key waits for it and then asks again whether one is due; the others go on.
        if self._due(kid) or (self._fetching.locked() and kid not in (self._keys or ())):
            async with self._fetching:
                if self._due(kid):
                    await self._fetch(kid)
        if self._keys is None or self._clock() - self._fetched_at > STALE_SECONDS:
            raise KeysUnavailableError(f"no keys from {self._source}")
        return self._keys.get(kid)

    def _due(self, kid: str) -> bool:
        now = self._clock()
        if self._keys is None or now - self._fetched_at >= FRESH_SECONDS:
            return now - self._tried_at >= RETRY_SECONDS
        return kid not in self._keys and now - self._unknown_at >= RETRY_SECONDS

    async def _fetch(self, kid: str) -> None:
        self._tried_at = self._clock()
        if self._keys is not None and kid not in self._keys:
            self._unknown_at = self._tried_at
        self.fetches += 1
        try:
            # A second more than the fetch's own deadline, for a resolver that hangs: that cannot be interrupted, only left.
            document = await asyncio.wait_for(asyncio.to_thread(self._read), FETCH_SECONDS + 1)
            self._keys = parse_keys(document)
            self._fetched_at = self._tried_at
        except (OSError, ValueError, http.client.HTTPException, TimeoutError) as error:  # the old set serves on (FC-4)
            telemetry.count(telemetry.JWKS_FAILURES)
            logger.warning("keys of %s not fetched: %s: %s", self._source, type(error).__name__, error)


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        document = file.read(MAX_BYTES + 1)
    if len(document) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    return document


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username or parts.password or parts.fragment:
        raise ValueError(
            f"a key set is fetched from an https URL without credentials, not {parts.scheme}://{parts.hostname}"
        )
    return url


def fetch(url: str, *, allow_private: bool, tls: ssl.SSLContext) -> bytes:
    """GET one document over TLS within three seconds in all; anything but 200, a redirect included, is an error."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    conn = _PinnedConnection(host, port, _address(host, port, allow_private=allow_private), tls)
    # Socket timeouts start anew with each byte, so a server could drip for hours: this ends the whole exchange.
    watchdog = threading.Timer(FETCH_SECONDS, conn.abort)
    watchdog.daemon = True
    watchdog.start()
    try:
        target = parts.path or "/"
        conn.request(
            "GET", f"{target}?{parts.query}" if parts.query else target, headers={"Accept": "application/json"}
        )
        answer = conn.getresponse()
        if answer.status != http.client.OK:
            raise ValueError(f"status {answer.status}")
        document = answer.read(MAX_BYTES + 1)
        if conn.aborted:  # a connection that is cut reads as a short document
            raise TimeoutError("the key set took too long")
        if len(document) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        return document
    finally:
        watchdog.cancel()
        conn.close()


def _address(host: str, port: int, *, allow_private: bool) -> str:
    """Resolve once and return the address to connect to: a name that changes between check and use changes nothing."""
    for *_, sockaddr in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        address = ipaddress.ip_address(str(sockaddr[0]).partition("%")[0])
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        if allow_private or ((mapped or address).is_global and not address.is_multicast):
            return str(sockaddr[0])
    raise ValueError(f"{host} has no public address")


class _PinnedConnection(http.client.HTTPSConnection):
    """HTTPS to an address already chosen, with the certificate checked against the name."""

    def __init__(self, host: str, port: int, address: str, tls: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=FETCH_SECONDS, context=tls)
        self._address = address
        self._tls = tls
        self.aborted = False

    def connect(self) -> None:
        raw = socket.create_connection((self._address, self.port), FETCH_SECONDS)
        # The handshake comes after the socket is in place, so that `abort` reaches it too.
        self.sock = self._tls.wrap_socket(raw, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock.do_handshake()

    def abort(self) -> None:
        """End the exchange from another thread."""
        self.aborted = True
        if self.sock is not None:
            try:
                self.sock.shutdown(socket.SHUT_RDWR)
            except OSError:  # it has just ended by itself
                return
