"""Run passes over a file store until everything due is gone, storing the cursor at each checkpoint.

Started as a process of its own by the kill test: ``python sweeper_process.py BASE CURSOR_FILE``.
Says ``ready`` once it is about to begin, so that a kill hits the work and not the start-up.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bubu_storage.backend.file import FileBackend
from bubu_storage.retention import Cursor, PassReport, PassSpec, RetentionRule, run_pass

SPEC = PassSpec(
    scopes=("outputs/a/",),
    rules=(RetentionRule("outputs/a/", 3600),),
    min_age_seconds=300,
    max_scan=120,
    max_delete=25,
    dry_run=False,
)


def save(path: Path, cursor: Cursor) -> None:
    """Replace the cursor file in one step."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(cursor.to_dict()))
    fresh.replace(path)


def main(base: str, cursor_file: str) -> None:
    """Run passes until a whole cycle has deleted nothing."""
    path = Path(cursor_file)
    backend = FileBackend(base, fsync=False)
    print("ready", flush=True)
    cursor = Cursor.from_dict(json.loads(path.read_text())) if path.exists() else Cursor()

    def checkpoint(report: PassReport) -> None:
        save(path, report.cursor)

    deleted_in_cycle = 1 if not cursor.is_start else 0
    while True:
        report = run_pass(backend, SPEC, cursor, on_checkpoint=checkpoint)
        cursor = report.cursor
        save(path, cursor)
        deleted_in_cycle += report.attempted
        if report.complete_cycle:
            if deleted_in_cycle == 0:
                break
            deleted_in_cycle = 0
    backend.close()
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
