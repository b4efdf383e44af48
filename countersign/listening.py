"""Sockets that the supervisor binds once and every serving process inherits."""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Final

_BACKLOG: Final = 2048


class PortError(Exception):
    """A port cannot be had; the message says which and what to do."""


def bind(host: str, port: int, option: str) -> list[socket.socket]:
    """Listen on ``host:port``; for this machine's IPv4 name also on ``::1``, which ``localhost`` may mean.

    ``port`` 0 takes a free one. They listen from now on: who connects before a process serves waits instead of failing.
    Raises ``PortError`` naming ``option``.
    """
    hosts = [host] if host not in ("127.0.0.1", "localhost") else ["127.0.0.1", "::1"]
    bound: list[socket.socket] = []
    for index, name in enumerate(hosts):
        try:
            bound.append(_listen(name, bound[0].getsockname()[1] if bound else port))
        except OSError as error:
            if index and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # no IPv6 here
            for one in bound:
                one.close()
            raise PortError(_reason(error, name, port, option)) from error
    return bound


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # a restart need not wait for old connections' TIME_WAIT
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _reason(error: OSError, host: str, port: int, option: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is taken by another program. Stop it, or choose another with {option}."
    if error.errno == errno.EACCES:
        return f"Port {port} may only be used by an administrator. Choose one above 1023 with {option}."
    if isinstance(error, socket.gaierror):
        return f"The host name {host} cannot be found. Give --host an address of this machine."
    return f"{host}:{port} cannot be listened on ({error.strerror}). Give --host an address of this machine."


def visible(host: str) -> str:
    """The host to print in a URL."""
    if host in ("0.0.0.0", ""):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return "[::1]" if address.is_unspecified else f"[{host}]"
    return host
