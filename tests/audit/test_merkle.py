"""The tree equals RFC 6962's recursive definition, whichever way it is built, and proofs prove what they say and no more."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import formats, merkle
from audit.merkle import Edge, TileMissingError, Tiles

VECTORS = Path(__file__).parent.parent / "vectors" / "merkle_roots.json"
LEAVES = [hashlib.sha256(b"\x00" + str(i).encode()).digest() for i in range(1401)]


def defined(leaves: Sequence[bytes]) -> bytes:
    """MTH as RFC 6962 section 2.1 writes it."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return hashlib.sha256(b"\x01" + defined(leaves[:half]) + defined(leaves[half:])).digest()


def tiles_of(leaves: Sequence[bytes]) -> Tiles:
    edge, tiles = Edge(), Tiles()
    for leaf in leaves:
        for level, index, hashes in edge.append(leaf):
            tiles[level, index] = hashes
    for level, hashes in enumerate(edge.levels):
        if hashes:
            tiles[level, edge.size >> 8 * (level + 1)] = b"".join(hashes)
    return tiles


def test_roots_of_0_to_130_leaves_are_the_frozen_vectors() -> None:
    frozen = json.loads(VECTORS.read_text())
    assert len(frozen) == 131
    edge = Edge()
    for size, expected in enumerate(frozen):
        assert edge.root().hex() == defined(LEAVES[:size]).hex() == expected
        edge.append(LEAVES[size])


@pytest.mark.parametrize("size", [255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 1400])
def test_edge_tiles_and_the_verifiers_tree_equal_the_definition(size: int) -> None:
    edge = Edge()
    for leaf in LEAVES[:size]:
        edge.append(leaf)
    assert edge.root() == tiles_of(LEAVES[:size]).root(size) == defined(LEAVES[:size])
    assert formats.fold(edge.levels) == edge.root()
    again = Edge.load(size, edge.dump())
    assert (again.levels, again.root()) == (edge.levels, edge.root())


def test_70000_leaves_make_the_tiles_of_the_specification() -> None:
    edge, full = Edge(), {0: 0, 1: 0, 2: 0}
    leaf = b"\x07" * 32
    for _ in range(70_000):
        for level, index, hashes in edge.append(leaf):
            assert index == full[level]
            assert len(hashes) == 8192
            full[level] += 1
    assert full == {0: 273, 1: 1, 2: 0}
    assert [len(level) for level in edge.levels] == [112, 17, 1]
    assert edge.root() == defined([leaf] * 70_000)


@given(size=st.integers(1, 1400), data=st.data())
@settings(max_examples=150, deadline=None)
def test_inclusion_proofs_hold_for_their_leaf_only(size: int, data: st.DataObject) -> None:
    seq = data.draw(st.integers(0, size - 1))
    tiles = tiles_of(LEAVES[:size])
    root = tiles.root(size)
    path = tiles.inclusion(seq, size)
    assert merkle.includes(LEAVES[seq], seq, size, path, root)
    assert not merkle.includes(LEAVES[seq - 1] if seq else LEAVES[size], seq, size, path, root)
    assert not merkle.includes(LEAVES[seq], seq, size, [*path, root], root)
    if size > 1:
        assert not merkle.includes(LEAVES[seq], (seq + 1) % size, size, path, root)
        assert not merkle.includes(LEAVES[seq], seq, size, path[:-1], root)


@given(first=st.integers(1, 1400), second=st.integers(1, 1400))
@settings(max_examples=150, deadline=None)
def test_consistency_proofs_hold_for_their_heads_only(first: int, second: int) -> None:
    first, second = sorted((first, second))
    tiles = tiles_of(LEAVES[:second])
    old, new = defined(LEAVES[:first]), defined(LEAVES[:second])
    path = tiles.consistency(first, second)
    assert merkle.extends(first, old, second, new, path)
    assert not merkle.extends(first, new if first != second else bytes(32), second, new, path)
    if first != second:
        assert not merkle.extends(first, old, second, old, path)
        assert not merkle.extends(first, old, second, new, [*path, old])


def test_a_missing_tile_is_named() -> None:
    tiles = tiles_of(LEAVES[:700])
    del tiles[0, 1]
    with pytest.raises(TileMissingError) as missing:
        tiles.inclusion(300, 700)
    assert missing.value.coordinates == (0, 1)


@pytest.mark.parametrize(
    ("level", "index", "width", "path"),
    [
        (0, 0, 256, "tile/0/000"),
        (1, 1_234_067, 256, "tile/1/x001/x234/067"),
        ("entries", 999, 17, "tile/entries/999.p/17"),
        (0, 1000, 1, "tile/0/x001/000.p/1"),
    ],
)
def test_tiles_are_named_as_the_specification_says(level: int | str, index: int, width: int, path: str) -> None:
    assert merkle.tile_path(level, index, width) == path


def test_an_edge_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Edge.load(3, b"\x00" * 64)
