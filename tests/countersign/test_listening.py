"""Ports are bound once; one that cannot be had is named with its option."""

from __future__ import annotations

import pytest

from countersign.listening import PortError, bind, visible


def test_the_loopback_host_means_both_families_on_one_port() -> None:
    bound = bind("127.0.0.1", 0, "--port")
    try:
        assert bound[0].getsockname()[0] == "127.0.0.1"
        assert len({listener.getsockname()[1] for listener in bound}) == 1
        assert {listener.getsockname()[0] for listener in bound} <= {"127.0.0.1", "::1"}
    finally:
        for listener in bound:
            listener.close()


def test_a_taken_port_is_named_with_the_option_that_changes_it() -> None:
    [first, *rest] = bind("127.0.0.1", 0, "--port")
    port = first.getsockname()[1]
    try:
        with pytest.raises(PortError, match=rf"Port {port} on 127\.0\.0\.1 is taken .* --tls-port"):
            bind("127.0.0.1", port, "--tls-port")
    finally:
        for listener in (first, *rest):
            listener.close()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(PortError, match=r"Give --host an address of this machine"):
        bind(host, 0, "--port")


def test_a_url_names_a_host_that_a_browser_can_open() -> None:
    assert [visible(host) for host in ("127.0.0.1", "0.0.0.0", "::", "::1", "console.example.test")] == [  # noqa: S104
        "127.0.0.1",
        "127.0.0.1",
        "[::1]",
        "[::1]",
        "console.example.test",
    ]
