"""The recorded figures, and their table for the page."""

import json
from pathlib import Path
from typing import Any, Final

KEPT: Final = Path(__file__).with_name("results.json")


def load() -> dict[str, Any]:
    """Return the recorded run."""
    return json.loads(KEPT.read_text(encoding="utf-8"))


def table(result: dict[str, Any]) -> list[list[str]]:
    """Return the table of the page, one row for each library and number of processes."""
    head = [
        *("queue", "processes × concurrent jobs", "jobs/s", "CPU per job", "of PostgreSQL"),
        *("commit to handler, median", "95 %", "idle statements/min"),
    ]
    rows = [
        [
            name,
            f"{line['processes']} × {line['concurrency']}",
            f"{line['jobs_per_second']:.0f}",
            f"{line['cpu']:.2f} ms",
            f"{line['postgres_cpu']:.2f} ms",
            f"{line['wake']:.1f} ms",
            f"{line['wake95']:.1f} ms",
            f"{line['idle']:.0f}",
        ]
        for name, line in result["figures"]
    ]
    return [head, *rows]
