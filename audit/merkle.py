"""The RFC 6962 tree over leaf hashes: the growing edge, tiles of 256 hashes (C2SP tlog-tiles), roots and proofs. Pure.

The verifier has a tree of its own; a test holds both to the recursive definition.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

HASH: Final = 32
WIDTH: Final = 256
EMPTY: Final = hashlib.sha256(b"").digest()

Result = TypeVar("Result")
Coordinates = tuple[int, int]  # level, index


def node(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def perfect(hashes: Sequence[bytes]) -> bytes:
    """The root over 2^k hashes."""
    level = list(hashes)
    while len(level) > 1:
        level = [node(level[i], level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


def split(data: bytes) -> list[bytes]:
    """The hashes of a tile."""
    return [data[i : i + HASH] for i in range(0, len(data), HASH)]


def fold(levels: Sequence[Sequence[bytes]]) -> bytes:
    """The root of a tree from its unfinished tiles, level 0 first."""
    root: bytes | None = None
    for hashes in levels:
        end = len(hashes)
        for bit in range(8):  # the smallest perfect subtree stands rightmost
            width = 1 << bit
            if len(hashes) & width:
                subtree = perfect(hashes[end - width : end])
                root = subtree if root is None else node(subtree, root)
                end -= width
    return EMPTY if root is None else root


@dataclass
class Edge:
    """The right edge of a tree: its size and the unfinished tile of each level. All that is needed to append."""

    size: int = 0
    levels: list[list[bytes]] = field(default_factory=list)

    @classmethod
    def load(cls, size: int, data: bytes) -> Edge:
        """Read what ``dump`` wrote; raises ValueError when it does not belong to a tree of this size."""
        levels: list[list[bytes]] = []
        offset, rest = 0, size
        while rest:
            width = (rest % WIDTH) * HASH
            levels.append(split(data[offset : offset + width]))
            offset += width
            rest //= WIDTH
        if offset != len(data):
            raise ValueError("the edge does not fit the size")
        return cls(size, levels)

    def dump(self) -> bytes:
        """The hashes of all levels, level 0 first; their widths follow from the size."""
        return b"".join(value for level in self.levels for value in level)

    def append(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Add a leaf; returns the tiles that it completes as (level, index, hashes)."""
        done: list[tuple[int, int, bytes]] = []
        self.size += 1
        value, level = leaf, 0
        while True:
            if level == len(self.levels):
                self.levels.append([])
            self.levels[level].append(value)
            if len(self.levels[level]) < WIDTH:
                return done
            full = self.levels[level]
            done.append((level, (self.size >> (8 * (level + 1))) - 1, b"".join(full)))
            self.levels[level] = []
            value, level = perfect(full), level + 1

    def root(self) -> bytes:
        return fold(self.levels)


class TileMissingError(Exception):
    """A computation needs a tile that it was not given."""

    def __init__(self, level: int, index: int) -> None:
        super().__init__(f"tile {level}/{index}")
        self.coordinates: Final = (level, index)


class Tiles(dict[Coordinates, bytes]):
    """Tiles at hand; asking for another one raises ``TileMissingError``."""

    def __missing__(self, key: Coordinates) -> bytes:
        raise TileMissingError(*key)

    def subtree(self, level: int, index: int) -> bytes:
        """The hash of the perfect subtree of 2^level leaves at index."""
        tile_level, inner = divmod(level, 8)
        first = index << inner
        offset = (first % WIDTH) * HASH
        part = self[tile_level, first // WIDTH][offset : offset + (HASH << inner)]
        if len(part) != HASH << inner:
            raise TileMissingError(tile_level, first // WIDTH)
        return perfect(split(part))

    def range(self, start: int, end: int) -> bytes:
        """MTH(D[start:end]) for the ranges that RFC 6962 splits a tree into."""
        count = end - start
        if count & (count - 1) == 0:
            return self.subtree(count.bit_length() - 1, start // count)
        half = _half(count)
        return node(self.range(start, start + half), self.range(start + half, end))

    def root(self, size: int) -> bytes:
        return self.range(0, size) if size else EMPTY

    def inclusion(self, seq: int, size: int) -> list[bytes]:
        """PATH(seq, D[size]), from the leaf's sibling up."""
        if not 0 <= seq < size:
            raise ValueError("no such leaf")
        path: list[bytes] = []
        start, end = 0, size
        while end - start > 1:
            half = _half(end - start)
            if seq < start + half:
                path.append(self.range(start + half, end))
                end = start + half
            else:
                path.append(self.range(start, start + half))
                start += half
        return path[::-1]

    def consistency(self, first: int, second: int) -> list[bytes]:
        """PROOF(first, D[second])."""
        if not 0 < first <= second:
            raise ValueError("no such heads")
        path: list[bytes] = []
        start, end, whole = 0, second, True  # whole: the subtree at hand is the old tree itself
        while first != end:
            half = _half(end - start)
            if first <= start + half:
                path.append(self.range(start + half, end))
                end = start + half
            else:
                path.append(self.range(start, start + half))
                start += half
                whole = False
        if not whole:
            path.append(self.range(start, end))
        return path[::-1]


def _half(count: int) -> int:
    """The largest power of two below count."""
    return 1 << (count - 1).bit_length() - 1


async def with_tiles(fetch: Callable[[int, int], Awaitable[bytes]], compute: Callable[[Tiles], Result]) -> Result:
    """Run a computation over tiles that are fetched as it asks for them; a proof asks for five or fewer."""
    tiles = Tiles()
    while True:
        try:
            return compute(tiles)
        except TileMissingError as missing:
            if missing.coordinates in tiles:
                raise
            tiles[missing.coordinates] = await fetch(*missing.coordinates)


def includes(leaf: bytes, seq: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Check an inclusion proof (RFC 9162 section 2.1.3.2)."""
    if not 0 <= seq < size:
        return False
    place, last, value = seq, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if place & 1 or place == last:
            value = node(sibling, value)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            value = node(value, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and value == root


def extends(first: int, first_root: bytes, second: int, second_root: bytes, path: Sequence[bytes]) -> bool:
    """Check a consistency proof (RFC 9162 section 2.1.4.2)."""
    if first == second:
        return not path and first_root == second_root
    if not 0 < first < second or not path:
        return False
    steps = [first_root, *path] if first & (first - 1) == 0 else list(path)
    place, last = first - 1, second - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = steps[0]
    for value in steps[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old, new = node(value, old), node(value, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node(new, value)
        place, last = place >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


def tile_path(level: int | str, index: int, width: int = WIDTH) -> str:
    """Name of a tile or (level ``entries``) of an entry bundle; a partial one carries its width (C2SP tlog-tiles)."""
    digits = f"{index % 1000:03d}"
    while index := index // 1000:
        digits = f"x{index % 1000:03d}/{digits}"
    return f"tile/{level}/{digits}" + ("" if width == WIDTH else f".p/{width}")


def entry_bundle(bodies: Sequence[bytes]) -> bytes:
    """Entries with their uint16 lengths."""
    return b"".join(len(body).to_bytes(2, "big") + body for body in bodies)
