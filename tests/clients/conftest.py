"""A started server with demo data, as the README starts it, and people who sign in to it with Amplify."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.clients.amplify import Person, install_client, person
from tests.conftest import private_folder

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@dataclass
class Server:
    """One ``countersign serve`` on its own home; it can be killed and started again."""

    home: Path
    port: int = field(default_factory=free_port)
    tls_port: int = field(default_factory=free_port)
    workers: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None
    python: str = sys.executable
    folder: Path = ROOT  # where the command is typed

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def env(self) -> dict[str, str]:
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("COUNTERSIGN_", "DATABASE_URL"))}
        pg_bin = os.environ.get("COUNTERSIGN_PG_BIN")
        return {
            **keep,
            "COUNTERSIGN_HOME": str(self.home),
            **({"COUNTERSIGN_PG_BIN": pg_bin} if pg_bin else {}),
            **self.environment,
        }

    def cli(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command as a person would."""
        done = subprocess.run(
            [self.python, "-m", "countersign", *args],
            cwd=self.folder,
            env=self.env(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, (
            f"countersign {' '.join(args)} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def start(self) -> None:
        log = (self.home.parent / f"{self.home.name}.log").open("a")
        self.process = subprocess.Popen(
            [self.python, "-m", "countersign", "serve", "--port", str(self.port), "--tls-port", str(self.tls_port), "--workers", str(self.workers)],
            cwd=self.folder, env=self.env(), stdout=log, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        log.close()
        self.wait_ready()

    def wait_ready(self, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process is None or self.process.poll() is None, (
                f"the server ended with {self.process and self.process.returncode}:\n{self.log()[-4000:]}"
            )
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"not ready after {seconds} s:\n{self.log()[-4000:]}")

    def log(self) -> str:
        return (self.home.parent / f"{self.home.name}.log").read_text()

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)

    def token_file(self, handle: str) -> Path:
        path = self.home.parent / f"{self.home.name}-{handle}.jwt"
        if not path.exists():
            path.write_text(self.cli("token", "--as", handle, "--ttl", "2h").stdout.strip())
        return path

    def outputs(self) -> Path:
        path = self.home.parent / f"{self.home.name}-outputs.json"
        outputs: dict[str, Any] = json.loads(self.cli("amplify-outputs", "--tls-port", str(self.tls_port)).stdout)
        path.write_text(json.dumps(outputs))
        return path


@pytest.fixture(scope="session")
def amplify_client() -> None:
    install_client()


@pytest.fixture(scope="session")
def server(amplify_client: None) -> Iterator[Server]:
    """The server of this session: two workers, so that whatever one of them knows alone shows."""
    folder = private_folder()
    started = Server(folder / "home", workers=2)
    started.start()
    yield started
    started.stop()
    shutil.rmtree(folder, ignore_errors=True)


SignIn = Callable[[str], Any]


@asynccontextmanager
async def signing_in(server: Server) -> AsyncIterator[SignIn]:
    """Gives a Person for a handle; all are signed out at the end."""
    async with AsyncExitStack() as stack:
        outputs = await asyncio.to_thread(server.outputs)

        async def enter(handle: str) -> Person:
            token = await asyncio.to_thread(server.token_file, handle)
            return await stack.enter_async_context(person(outputs, token, server.home / "tls" / "ca.pem"))

        yield enter


@pytest_asyncio.fixture
async def sign_in(server: Server) -> AsyncIterator[SignIn]:
    async with signing_in(server) as enter:
        yield enter
