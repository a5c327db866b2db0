"""Answers questions with a (local, fake) model, and streams each answer.

SUPAWIRE_URL=… SUPAWIRE_KEY=… python worker.py
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from supawire import AsyncChannel, Broadcast, RealtimeError, broadcast, connect_async


async def model(question: str) -> AsyncIterator[str]:
    """Answer word by word, as a model does."""
    for word in f"You asked: {question} The answer has some words, which come one after the other.".split(" "):
        yield f"{word} "
        await asyncio.sleep(0.05)


async def answer(answers: AsyncChannel, asked: Broadcast[Any]) -> None:
    """Stream the answer to one question. Anyone can send questions, so a wrong one must not end the worker."""
    try:
        match asked.payload:
            case {"id": str(id), "text": str(text)}:
                result = await answers.stream(model(text), id=id, info={"question": text})
                print(f"{result.status}: {result.length} bytes in {result.messages} messages", flush=True)
            case _:
                print("not a question", flush=True)
    except RealtimeError as error:
        print(f"not answered: {error}", flush=True)


async def main() -> None:
    """Answer until the program is stopped, several questions at once."""
    async with (
        connect_async(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"]) as client,
        client.channel("answers", ack=True) as answers,
        client.channel("questions") as questions,
        asyncio.TaskGroup() as tasks,
    ):
        print("waiting for questions", flush=True)
        async for asked in questions.listen(broadcast("asked")):
            tasks.create_task(answer(answers, asked))


if __name__ == "__main__":
    asyncio.run(main())
