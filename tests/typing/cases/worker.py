"""Jobs: the record has the type of the annotation, and decorators keep the type of the function."""

from dataclasses import dataclass
from typing import Any, Never, assert_type

from supawire import col
from supawire.worker import NOW, Health, Job, Worker

app = Worker("http://127.0.0.1", "key", database="postgresql://127.0.0.1/postgres")


@dataclass
class Order:
    """A row."""

    id: int
    note: str


@app.job("orders", where=col("status") == "pending", claim={"status": "running", "at": NOW})
async def fulfil(job: Job[Order]) -> None:
    """The record is an object of the class, the row a dict."""
    assert_type(job.record, Order)
    assert_type(job.row, dict[str, Any])
    assert_type(job.lost, bool)
    assert_type(job.attempt, int)
    job.write(note=job.record.note.upper())


@app.job("lines", where=col("status") == "pending")
def plain(job: Job) -> None:
    """Without a parameter, the record is a dict."""
    assert_type(job.record, dict[str, Any])
    assert_type(job.fail("no"), Never)


def looks() -> None:
    """Health is an object of its class."""
    assert_type(app.health(), Health)


def mistakes() -> None:
    """Wrong arguments are errors."""
    app.job("orders", where="status = 1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    app.job("orders", where=col("status") == 1, concurency=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
