"""GraphiQL, served from here: the page, its own small script, and the files that ``make graphiql`` fetched.

The page loads nothing from another host, its scripts run by nonce only, and a token never stands in an address. Without
the fetched files it says how to get them; the API does not depend on them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Final

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from resolvers.edge import client_address, headers_of, respond
from resolvers.edge_errors import RefusalError

FOLDER: Final = Path(str(files("resolvers"))) / "static"
FETCHED: Final = FOLDER / "graphiql"
# File name -> the export of the npm package that it is made of.
FILES: Final = {
    "graphiql.js": "js",
    "graphiql.css": "css",
    "editor.worker.js": "editorWorkerService",
    "json.worker.js": "jsonWorker",
    "graphql.worker.js": "graphqlWorker",
}
_TYPES: Final = {".js": b"text/javascript;charset=UTF-8", ".css": b"text/css;charset=UTF-8"}


@dataclass(frozen=True)
class Person:
    """Somebody of the demo whom the page may ask as."""

    handle: str
    name: str
    token: str


@dataclass(frozen=True)
class Tab:
    """An operation that the page opens with."""

    query: str
    variables: str = "{}"


def installed(folder: Path = FETCHED) -> bool:
    return all((folder / name).is_file() for name in FILES)


class GraphiQL:
    """The page and its files. ``people`` makes the demo's tokens; they are shown to this machine's own browsers only."""

    def __init__(
        self, *, tabs: Sequence[Tab] = (), people: Callable[[], Sequence[Person]] | None = None, folder: Path = FETCHED
    ) -> None:
        self._tabs = [{"query": tab.query, "variables": tab.variables} for tab in tabs]
        self._people = people
        self._folder = folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        nonce = secrets.token_urlsafe(18)
        if not installed(self._folder):
            await respond(send, 200, _MISSING.encode(), b"text/html;charset=UTF-8", [_policy(nonce, "")])
            return
        people = list(self._people()) if self._people is not None and _is_local(client_address(scope)) else []
        config = orjson.dumps(
            {"people": [{"handle": p.handle, "name": p.name, "token": p.token} for p in people], "tabs": self._tabs}
        )
        # Inside a script element only "</" and "<!--" could end the text early; JSON can say the same without "<".
        text = config.decode().replace("<", "\\u003c")
        body = _PAGE.replace("NONCE", nonce).replace("CONFIG", text)
        await respond(
            send, 200, body.encode(), b"text/html;charset=UTF-8", [_policy(nonce, headers_of(scope).get("host", ""))]
        )

    def routes(self) -> dict[str, ASGIApp]:
        """Exact paths of the page's files."""
        fetched = {f"/graphiql/{name}": _file(self._folder / name) for name in FILES}
        return {**fetched, "/graphiql/page.js": _file(FOLDER / "page.js")}


def _is_local(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _policy(nonce: str, host: str) -> tuple[bytes, bytes]:
    # 'self' covers the page's own WebSocket in some browsers only, so it is named; the host has passed the front's list.
    sockets = f" ws://{host} wss://{host}" if host else ""
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; worker-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self' data:;"
        f" img-src 'self' data:; connect-src 'self'{sockets}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return b"content-security-policy", policy.encode("latin-1")


def _file(path: Path) -> ASGIApp:
    async def serve(scope: Scope, _: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            raise RefusalError(405, "MethodNotAllowedException", "Use GET.", [(b"allow", b"GET, HEAD")])
        try:
            content = await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError as error:
            raise RefusalError(404, "NotFoundException", "Not fetched yet.") from error
        await respond(send, 200, content, _TYPES[path.suffix])

    return serve


_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Countersign GraphiQL</title>
<link rel="stylesheet" href="/graphiql/graphiql.css">
<style>body { margin: 0; height: 100vh; overflow: hidden; display: flex; flex-direction: column } #who { font: 13px sans-serif; padding: 6px 10px } #root { flex: 1; min-height: 0; overflow: hidden } #root > * { height: 100%; width: 100% }</style>
</head>
<body>
<div id="who"></div>
<div id="root"></div>
<script nonce="NONCE" type="application/json" id="config">CONFIG</script>
<script nonce="NONCE" src="/graphiql/graphiql.js"></script>
<script nonce="NONCE" src="/graphiql/page.js"></script>
</body>
</html>
"""
_MISSING: Final = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Countersign</title>
<body><h1>GraphiQL is not here yet</h1>
<p>It is fetched once from the npm registry by a committed lock: run <code>{escape("make graphiql")}</code> and load this page again.
The API itself is at this address by POST.</p></body></html>
"""
