"""The wheel: one importable name, and it serves from a folder that knows nothing of the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import ROOT, Server
from tests.conftest import private_folder

pytestmark = pytest.mark.slow  # builds a wheel and an environment of its own


@pytest.fixture
def folder() -> Iterator[Path]:
    made = private_folder()
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_a_wheel_brings_one_name_and_serves_what_the_checkout_serves(folder: Path) -> None:
    uv = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT)], check=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    # The dependencies of this run, so that nothing is fetched again; the wheel itself without any.
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", str(python), "--no-deps", str(wheel)], check=True, timeout=120
    )
    site = next((environment / "lib").glob("python*/site-packages"))
    assert sorted(path.name for path in site.iterdir() if not path.name.endswith(".dist-info")) == ["countersign"]
    ours = next(Path(entry) for entry in sys.path if entry.endswith("site-packages"))
    (site / "dependencies.pth").write_text(f"{ours}\n")
    server = Server(folder / "home", python=str(python), folder=folder)
    try:
        server.start()
        answer = server.cli("query", "--as", "auditor", "{ me { staff { displayName } } }")
        assert json.loads(answer.stdout)["data"] == {"me": {"staff": {"displayName": "Auditor"}}}
    finally:
        server.stop()
