"""The figures and names that the wire enforces: what may be asked how often and how large, and who may come in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The figures of security-contract sections 4, 5 and 8 that the wire enforces; tests tighten them."""

    body_bytes: int = 1024 * 1024  # QL-2
    body_seconds: float = 10.0  # QL-3
    operation_seconds: float = 30.0  # QL-13
    response_bytes: int = 5 * 1024 * 1024  # QL-14
    query_rate: tuple[float, int] = (50.0, 100)  # RT-1: per second, burst
    mutation_rate: tuple[float, int] = (10.0, 30)
    vote_rate: tuple[float, int] = (1.0, 60)
    bad_credential_rate: tuple[float, int] = (20.0 / 60, 20)
    operations_at_once: int = 8
    init_seconds: float = 10.0  # WS-2
    subscriptions_per_connection: int = 100  # WS-3
    subscriptions_per_person: int = 400
    connections_per_person: int = 10
    unauthenticated_sockets: int = 200
    message_bytes: int = 128 * 1024  # WS-4
    message_rate: tuple[float, int] = (20.0, 100)
    event_bytes: int = 240 * 1024
    queue_events: int = 256  # WS-5
    queue_bytes: int = 1024 * 1024
    keepalive_seconds: float = 55.0
    write_seconds: float = 10.0  # WS-8
    session_check_seconds: float = 2.0  # WS-6: expiry, lock and narrowed grants are noticed within it
    connection_seconds: float = 24 * 3600.0
    token_leeway_seconds: float = 30.0  # TK-4
    poll_seconds: float = 1.0  # the hub's look at the event table that depends on no notification


@dataclass(frozen=True)
class Front:
    """What the HTTP front lets in and shows: hosts, origins, whether loopback origins and introspection are free."""

    hosts: frozenset[str] = frozenset()  # Host header without port; empty = any loopback name only
    origins: frozenset[str] = frozenset()  # exact Origin values
    loopback: bool = True  # embedded mode: loopback hosts and origins are allowed as well
    introspection: bool = True  # BR-4: free for anyone authenticated; otherwise for holders of schema:introspect
