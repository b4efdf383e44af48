"""The load: keep-alive connections that each send the next request when the last one is answered, and count.

Written on the loop's protocols, since a client library would take more CPU than the servers that it measures.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

_END_OF_HEAD: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length: "
_OK: Final = b"HTTP/1.1 200"


@dataclass
class Sample:
    """What one stretch of load saw."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    errors: int = 0
    first_error: bytes = b""

    @property
    def count(self) -> int:
        return len(self.latencies)

    def rate(self) -> float:
        return self.count / self.seconds if self.seconds else 0.0

    def percentile_ms(self, share: float) -> float:
        """Of the answered requests; 0 when there were none."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 if ordered else 0.0


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, bodies: Iterator[bytes], sample: Sample, until: float) -> None:
        self._bodies = bodies
        self._sample = sample
        self._until = until
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._sent_at = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 # a TCP connection
        self._transport = transport
        self._send()

    def _send(self) -> None:
        first, self._sent_at = not self._sent_at, time.perf_counter()
        if self._sent_at >= self._until and not first:  # at least one each, however long connecting took
            self._finish()
            return
        self._transport.write(next(self._bodies))

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        whole = _whole(self._received)
        if whole is None:
            return
        self._sample.latencies.append(time.perf_counter() - self._sent_at)
        if not whole.startswith(_OK) or b'"errors":' in whole:
            self._sample.errors += 1
            self._sample.first_error = self._sample.first_error or whole[:2000]
        self._received.clear()
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self._sample.errors += 1
            self._sample.first_error = self._sample.first_error or repr(exc).encode()
            self.done.set_result(None)

    @staticmethod
    def once(port: int, request: bytes, seconds: float = 10.0) -> bytes:
        """One request on a connection of its own; the body of its answer."""
        with socket.create_connection(("127.0.0.1", port), timeout=seconds) as plain:
            plain.sendall(request)
            received = bytearray()
            while (whole := _whole(received)) is None:
                data = plain.recv(1 << 16)
                if not data:
                    raise ConnectionError("the server closed the connection")
                received += data
        return whole.partition(_END_OF_HEAD)[2]


def _whole(received: bytearray) -> bytes | None:
    """The response once all of it is there; both sides always say its length."""
    end = received.find(_END_OF_HEAD)
    if end < 0:
        return None
    head = bytes(received[:end]).lower()
    at = head.find(_LENGTH)
    length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    return bytes(received) if len(received) >= end + len(_END_OF_HEAD) + length else None


async def run(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Sample:
    """Load one server for so many seconds; every connection ends with its last answer."""
    sample = Sample()
    bodies = itertools.cycle(requests)
    began = time.perf_counter()
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: Client(bodies, sample, began + seconds), "127.0.0.1", port)
        clients.append(client)
    await asyncio.gather(*(client.done for client in clients))
    sample.seconds = time.perf_counter() - began
    return sample


async def times(port: int, requests: Sequence[bytes], count: int) -> Sample:
    """Exactly so many requests, one after the other on one connection: for counting what each of them causes."""
    sample = Sample()
    done = asyncio.Event()
    left = iter([*itertools.islice(itertools.cycle(requests), count)])

    class Counted(Client):
        def _send(self) -> None:
            try:
                body = next(left)
            except StopIteration:
                self._finish()
                done.set()
                return
            self._sent_at = time.perf_counter()
            self._transport.write(body)

    began = time.perf_counter()
    await asyncio.get_running_loop().create_connection(lambda: Counted(left, sample, 0.0), "127.0.0.1", port)
    await done.wait()
    sample.seconds = time.perf_counter() - began
    return sample
