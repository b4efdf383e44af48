"""The bench for tests of commands."""

from __future__ import annotations

from tests.services.bench import bench

__all__ = ["bench"]
