"""Answer questions with a language model, and show the answer while it grows: `supawire worker run llm_answer:app`.

Needs the table of `TABLES` and SUPAWIRE_URL, SUPAWIRE_KEY, SUPAWIRE_DATABASE_URL. `generate` stands for the streaming
call of a model. The page that asked listens to changes of its row.
"""

import asyncio
import os
from collections.abc import AsyncIterator

import psycopg

from supawire import col
from supawire.worker import Job, Worker

TABLES = """
create table questions (
  id bigint primary key generated always as identity,
  question text not null,
  answer text,
  status text not null default 'pending'
);
alter publication supabase_realtime add table questions;
"""
DATABASE = os.environ["SUPAWIRE_DATABASE_URL"]
WRITE_INTERVAL = float(os.environ.get("WRITE_INTERVAL", "0.5"))
"""Seconds between two writes of the growing answer: each is a change that Realtime sends."""

app = Worker(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"], database=DATABASE)


@app.job("questions", where=col("status") == "pending", claim={"status": "running"}, concurrency=4, timeout=30)
async def answer(job: Job) -> None:
    """Stream the answer into the row. `timeout` is the time without a word, since each word starts it again."""
    text = ""
    written_at = 0.0
    now = asyncio.get_running_loop().time
    async with await psycopg.AsyncConnection.connect(DATABASE, autocommit=True) as connection:
        async for word in generate(job.row["question"]):
            text += word
            job.keep_alive()
            if now() - written_at >= WRITE_INTERVAL:
                await connection.execute("update questions set answer = %s where id = %s", [text, job.key])
                written_at = now()
    job.write(answer=text.strip())


async def generate(question: str) -> AsyncIterator[str]:
    """Yield the words of an answer, as a model does."""
    for word in ("You", "asked:", *question.split(), "I", "do", "not", "know."):
        await asyncio.sleep(0.01)
        yield f"{word} "


if __name__ == "__main__":
    app.run()
