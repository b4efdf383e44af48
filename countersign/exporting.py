"""``countersign audit export``: a bundle of the live log, recorded in the log itself."""

from __future__ import annotations

from pathlib import Path

from countersign.settings import Settings
from db.pool import open_pool


async def export_bundle(settings: Settings, from_seq: int, to_seq: int, out: Path) -> str:
    """Write the bundle; a sentence that says what is in it. The export's record is durable when this returns."""
    from audit.export import export
    from audit.keys import Keys, public_path, read_vkeys
    from audit.record import service_actor
    from audit.writer import Writer

    writer = Writer(Keys.open(settings.keys_dir, create=False), origin=settings.audit_origin)
    async with (
        await open_pool(settings.dsn("cs_audit_reader"), size=2) as reader,
        await open_pool(settings.dsn("cs_app"), size=1) as app,
    ):
        done = await export(
            reader,
            out,
            actor=service_actor("CLI"),
            recorder=lambda record: writer.reads(app, [record]),
            vkeys=read_vkeys(public_path(settings.signer_path)),
            from_seq=from_seq,
            to_seq=to_seq,
        )
        await writer.close()
    return (
        f"Wrote records {done.from_seq}..{done.to_seq} under the checkpoint of size {done.size} to {out} (manifest {done.manifest_digest},"
        f" record {done.record_id})."
    )
