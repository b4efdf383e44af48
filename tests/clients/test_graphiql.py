"""GraphiQL in a real browser: it comes up, from this server alone, under its own content security policy."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from countersign.graphiql import fetch
from resolvers.graphiql import installed
from tests.clients.conftest import Server

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=10000",
    "--window-size=1400,900",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


@pytest.fixture(scope="session")
def graphiql() -> None:
    if not installed():
        fetch()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_shows_it_and_asks_no_other_host(server: Server, graphiql: None, tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    done = subprocess.run(
        [str(BROWSER), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", "--dump-dom", f"{server.url}/graphql"],
        capture_output=True, text=True, timeout=90, check=False, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert "graphiql-container" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    assert "LiveApprovals" in done.stdout, "the demo's tabs are open"
    assert "Finance Senior" in done.stdout, "the demo's people may be chosen"
    asked = set(re.findall(r'"url":"(?:https?|wss?)://([^/"]+)', log.read_text()))
    of_the_page = {
        host for host in asked if not host.endswith((".google.com", ".googleapis.com"))
    }  # the browser's own errands
    assert of_the_page == {f"127.0.0.1:{server.port}"}, "one host"


def test_the_page_names_no_other_host_and_runs_scripts_by_nonce_only(server: Server, graphiql: None) -> None:
    request = urllib.request.Request(f"{server.url}/graphql", headers={"Accept": "text/html"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        page, policy = answer.read().decode(), answer.headers["content-security-policy"]
    assert re.findall(r"https?://[^\s\"'<]+", page) == []
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
    nonce = re.search(r"'nonce-([^']+)'", policy)
    assert nonce is not None
    assert all(f'nonce="{nonce.group(1)}"' in tag for tag in re.findall(r"<script[^>]*>", page))
    people = json.loads(re.search(r'id="config">(.*?)</script>', page, re.DOTALL).group(1))["people"]  # type: ignore[union-attr]
    assert {person["handle"] for person in people} >= {"support-agent", "finance-senior", "auditor"}


def test_the_address_alone_leads_to_the_page(server: Server) -> None:
    with urllib.request.urlopen(
        urllib.request.Request(f"{server.url}/", headers={"Accept": "text/html"}), timeout=5
    ) as answer:
        assert answer.url == f"{server.url}/graphql"
        assert "GraphiQL" in answer.read().decode()
