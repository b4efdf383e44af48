"""The ``countersign`` command: the one importable name of the wheel, which carries the application in ``_app/``.

In a checkout the application lies beside this folder. ``activate`` puts whichever it is first on the import path, so
that ``import app`` (and ``schema``, ``db``, …) finds ours and nobody else's package of the same name.
"""

from __future__ import annotations

import sys
from pathlib import Path

_here = Path(__file__).resolve().parent
ROOT = _here / "_app" if (_here / "_app").is_dir() else _here.parent


def activate() -> None:
    """Put the application's folder first on ``sys.path``; harmless when repeated."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
