"""Answers questions with a (local, fake) model, and streams each answer.

SUPAWIRE_URL=… SUPAWIRE_KEY=… python worker.py
"""

import asyncio
import os
from collections.abc import AsyncIterator

from supawire import AsyncChannel, broadcast, connect_async


async def model(question: str) -> AsyncIterator[str]:
    """Answer word by word, as a model does."""
    for word in f"You asked: {question} The answer has some words, which come one after the other.".split(" "):
        yield f"{word} "
        await asyncio.sleep(0.05)


async def answer(answers: AsyncChannel, question: dict[str, str]) -> None:
    """Stream the answer to one question."""
    result = await answers.stream(model(question["text"]), id=question["id"], info={"question": question["text"]})
    print(f"{result.status}: {result.length} bytes in {result.messages} messages", flush=True)


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
            tasks.create_task(answer(answers, asked.payload))


if __name__ == "__main__":
    asyncio.run(main())
