"""Where signed heads are kept outside the database: a directory (not WORM), and the steps A1-A6 that make a head final.

The signer signs nothing that is not consistent with the newest head found here, so a database that was restored or
rewritten gets no signature. Object keys are those of a bucket; a file is made whole and never replaced.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import asyncpg

from audit import checkpoint, merkle, store
from audit.formats import Checkpoint, NoteError, read_note
from audit.keys import Signer
from audit.merkle import HASH, WIDTH, entry_bundle, tile_path
from audit.record import leaf
from audit.store import Head, LogConflictError

_ATTEMPTS: Final = 3
_INSERT: Final = """
INSERT INTO audit.checkpoint (size, root, note, made_at, anchored_at, anchor)
VALUES ($1, $2, $3, clock_timestamp(), clock_timestamp(), $4) ON CONFLICT DO NOTHING
"""


class DirectoryAnchor:
    """Write-once files in a directory. Whoever may write there can still delete: evidence against the database, not WORM."""

    worm: Final = False
    kind: Final = "directory"

    def __init__(self, directory: Path) -> None:
        self.directory: Final = directory

    def read_latest(self) -> tuple[str | None, str]:
        """The pointer and the tag to swap it by."""
        try:
            data = (self.directory / "latest").read_bytes()
        except FileNotFoundError:
            return None, ""
        return data.decode("utf-8", "replace"), hashlib.sha256(data).hexdigest()

    def swap_latest(self, note: str, tag: str) -> bool:
        """Replace the pointer if it is still the one that ``tag`` names; False when somebody else was first."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "latest.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.read_latest()[1] != tag:
                return False
            temporary = self._temporary(self.directory / "latest", note.encode())
            temporary.replace(self.directory / "latest")
            _sync(self.directory)
        return True

    def put_once(self, key: str, data: bytes) -> bool:
        """Create an object; False when it is there with other bytes. The same bytes again are fine."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._temporary(path, data)
        try:
            os.link(temporary, path)  # fails where the name exists, and never shows half a file
        except FileExistsError:
            return path.read_bytes() == data
        finally:
            temporary.unlink()
        _sync(path.parent)
        return True

    def get(self, key: str) -> bytes | None:
        path = self._path(key)
        return path.read_bytes() if path.is_file() else None

    def highest_checkpoint(self) -> str | None:
        """The note of the largest size that was ever published here."""
        folders = sorted((self.directory / "checkpoint").glob("[0-9]*"), reverse=True)
        files = (sorted(folder.glob("[0-9]*"), reverse=True) for folder in folders)
        newest = next((found[0] for found in files if found), None)
        return None if newest is None else newest.read_text(encoding="utf-8")

    def drop_partials(self, level: int | str, index: int) -> None:
        """Remove the unfinished states of a tile whose full form is stored (tlog-tiles allows it)."""
        shutil.rmtree(self.directory / (tile_path(level, index) + ".p"), ignore_errors=True)

    def _path(self, key: str) -> Path:
        # Ten thousand sizes to a folder, so that the highest is found without listing years of checkpoints.
        folder, _, name = key.rpartition("/")
        return self.directory / folder / name[:-4] / name if folder == "checkpoint" else self.directory / key

    @staticmethod
    def _temporary(path: Path, data: bytes) -> Path:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return temporary


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoint_key(size: int) -> str:
    return f"checkpoint/{size:020d}"


class Anchorer:
    """Makes the head final: A1 what is anchored, A2 is ours an extension, A3 tiles, A4 the pointer, A5 the note, A6 the cache."""

    def __init__(self, anchor: DirectoryAnchor, signer: Signer, fault: Callable[[str], None]) -> None:
        self._anchor: Final = anchor
        self._signer: Final = signer
        self._fault: Final = fault
        self.size = 0  # of the newest head known to be anchored

    async def run(self, conn: asyncpg.Connection[Any], head: Head) -> int:
        """Anchor a head that the sealer has recognised as its own. Returns the anchored size; raises ``LogConflictError``."""
        for _ in range(_ATTEMPTS):
            newest, tag = await asyncio.to_thread(self._newest)
            self._fault("A2")
            size = newest.size if newest else 0
            if size > head.size:
                raise LogConflictError("ROLLBACK", f"head {size} is anchored, and the database ends at {head.size}")
            if newest is not None and size:
                await self._must_extend(conn, head, newest)
                await conn.execute(_INSERT, size, newest.root, newest.note, self._anchor.kind)  # A6 of a run that died
                self.size = size
            if size == head.size:  # nothing has grown, or nothing is there yet
                return size
            self._fault("A3")
            await self._upload(conn, head, size)
            self._fault("A4")
            note = checkpoint.sign(self._signer, head.size, head.root)
            if not await asyncio.to_thread(self._anchor.swap_latest, note, tag):
                continue  # ANCHOR_CONFLICT: the note is thrown away, and the winner's head is looked at first
            self._fault("A5")
            await asyncio.to_thread(self._publish, head.size, note)
            self._fault("A6")
            await conn.execute(_INSERT, head.size, head.root, note, self._anchor.kind)
            self.size = head.size
            return head.size
        raise LogConflictError("ANCHOR_CONFLICT", "somebody else keeps moving the anchor's pointer")

    def _newest(self) -> tuple[Checkpoint | None, str]:
        """A1, and A5 of a run that died between pointer and note: the pointer's head is published before anything else."""
        self._fault("A1")
        latest, tag = self._anchor.read_latest()
        pointer = None if latest is None else self._verified(latest)
        if pointer is not None:
            self._publish(pointer.size, pointer.note)
        published = self._anchor.highest_checkpoint()
        highest = None if published is None else self._verified(published)
        found = [head for head in (pointer, highest) if head is not None]
        return max(found, key=lambda head: head.size, default=None), tag

    def _verified(self, note: str) -> Checkpoint:
        try:
            return read_note(note, [self._signer.vkey], origin=self._signer.name)
        except NoteError as error:
            raise LogConflictError(error.code, f"in the anchor: {error}") from error

    def _publish(self, size: int, note: str) -> None:
        if self._anchor.put_once(checkpoint_key(size), note.encode()):
            return
        stored = self._verified((self._anchor.get(checkpoint_key(size)) or b"").decode("utf-8", "replace"))
        if stored.note.rpartition("\n\n")[0] != note.rpartition("\n\n")[0]:
            raise LogConflictError("FORK", f"another head of size {size} is published already")

    async def _must_extend(self, conn: asyncpg.Connection[Any], head: Head, old: Checkpoint) -> None:
        path = await store.consistency(conn, head, old.size, head.size)
        if not merkle.extends(old.size, old.root, head.size, head.root, path):
            raise LogConflictError("FORK", f"the tree of {head.size} does not extend the anchored head {old.size}")

    async def _upload(self, conn: asyncpg.Connection[Any], head: Head, size: int) -> None:
        for index in range(size // WIDTH, (head.size - 1) // WIDTH + 1):
            start = index * WIDTH
            hashes = await store.read_tile(conn, head, 0, index)
            rows = await store.read_records(conn, start, start + len(hashes) // HASH)
            bodies = [(row["body"] or "").encode() for row in rows]
            if [leaf(body) for body in bodies] != merkle.split(hashes):
                raise LogConflictError(
                    "HEAD_CONFLICT",
                    f"records {start}..{start + len(hashes) // HASH - 1} are not those that were sealed",
                )
            await asyncio.to_thread(self._put_tile, "entries", index, len(bodies), entry_bundle(bodies))
            await asyncio.to_thread(self._put_tile, 0, index, len(bodies), hashes)
        for level in range(1, len(head.edge.levels)):
            for index in range(size >> 8 * (level + 1), (head.size >> 8 * (level + 1)) + 1):
                if width := store.width_of(head.size, level, index):
                    hashes = await store.read_tile(conn, head, level, index)
                    await asyncio.to_thread(self._put_tile, level, index, width, hashes)

    def _put_tile(self, level: int | str, index: int, width: int, data: bytes) -> None:
        key = tile_path(level, index, width)
        if not self._anchor.put_once(key, data):
            raise LogConflictError("FORK", f"{key} is anchored with other content")
        if width == WIDTH:
            self._anchor.drop_partials(level, index)
