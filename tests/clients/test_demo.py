"""``countersign demo`` is itself a test: it ends with 1 at the first promise that does not hold."""

from __future__ import annotations

from tests.clients.conftest import Server


def test_the_demo_keeps_its_promises_on_a_running_server(server: Server) -> None:
    done = server.cli("demo", "--port", str(server.port), "--tls-port", str(server.tls_port), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "LEAF_MISMATCH" in done.stdout
    assert done.stdout.rstrip().endswith("and the forgery found.")
    assert server.cli("audit", "verify").returncode == 0, "the walk leaves the log as it found it"
