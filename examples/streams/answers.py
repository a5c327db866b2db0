"""Stream the answers of agents to browsers: Pydantic AI, LangGraph, OpenAI Agents, Anthropic, and events of AG-UI.

    python answers.py pydantic-ai|langgraph|openai-agents|anthropic|ag-ui

Each function takes a joined channel and a prompt. Here the models are local stand-ins; put yours in their place.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from supawire import AsyncChannel, LocalServer, StreamResult, connect_async

ANSWER = "Realtime is Phoenix over one WebSocket."


async def pydantic_ai(room: AsyncChannel, prompt: str) -> StreamResult:
    """Stream the text of an agent of Pydantic AI."""
    from pydantic_ai import Agent
    from pydantic_ai.models.test import TestModel

    agent = Agent(TestModel(custom_output_text=ANSWER))  # Agent("anthropic:…")
    async with agent.run_stream(prompt) as run:
        return await room.stream(run.stream_text(delta=True), info={"by": "pydantic-ai"})


async def langgraph(room: AsyncChannel, prompt: str) -> StreamResult:
    """Stream the tokens of the model in a graph of LangGraph."""
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage
    from langgraph.graph import END, START, MessagesState, StateGraph

    model = GenericFakeChatModel(messages=iter([AIMessage(ANSWER)]))  # init_chat_model("…")

    async def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("model", call).add_edge(START, "model").add_edge("model", END).compile()
    chunks = graph.astream({"messages": [("user", prompt)]}, stream_mode="messages")
    return await room.stream((chunk.text async for chunk, _ in chunks), info={"by": "langgraph"})


async def openai_agents(room: AsyncChannel, prompt: str) -> StreamResult:
    """Stream the text of an agent of the OpenAI Agents SDK."""
    from agents import Agent, Runner
    from openai.types.responses import ResponseTextDeltaEvent

    run = Runner.run_streamed(Agent("assistant", model=stand_in_for_openai()), prompt)  # Agent("assistant", model="…")

    async def text() -> AsyncIterator[str]:
        async for event in run.stream_events():
            if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
                yield event.data.delta

    return await room.stream(text(), info={"by": "openai-agents"})


async def anthropic(room: AsyncChannel, prompt: str) -> StreamResult:
    """Stream the text of a message of the Anthropic SDK."""
    client = stand_in_for_anthropic()  # AsyncAnthropic()
    messages: Any = [{"role": "user", "content": prompt}]
    async with client.messages.stream(model="claude-haiku-4-5", max_tokens=1024, messages=messages) as stream:
        return await room.stream(stream.text_stream, info={"by": "anthropic"})


async def ag_ui(room: AsyncChannel, prompt: str) -> StreamResult:
    """Stream the events of AG-UI, each as one JSON value."""
    from ag_ui.core import (
        EventType,
        RunFinishedEvent,
        RunStartedEvent,
        TextMessageContentEvent,
        TextMessageEndEvent,
        TextMessageStartEvent,
    )

    async def events() -> AsyncIterator[Any]:
        yield RunStartedEvent(type=EventType.RUN_STARTED, thread_id="t", run_id="r")
        yield TextMessageStartEvent(type=EventType.TEXT_MESSAGE_START, message_id="m", role="assistant")
        for word in ANSWER.split(" "):
            yield TextMessageContentEvent(type=EventType.TEXT_MESSAGE_CONTENT, message_id="m", delta=word)
        yield TextMessageEndEvent(type=EventType.TEXT_MESSAGE_END, message_id="m")
        yield RunFinishedEvent(type=EventType.RUN_FINISHED, thread_id="t", run_id="r")

    values = (event.model_dump(mode="json", by_alias=True, exclude_none=True) async for event in events())
    return await room.stream(values, kind="json", info={"by": "ag-ui", "prompt": prompt})


# --- local stand-ins for models


def stand_in_for_openai() -> Any:
    """Return a model of the OpenAI Agents SDK that answers without a network."""
    from agents.models.interface import Model
    from openai.types.responses import (
        Response,
        ResponseCompletedEvent,
        ResponseOutputMessage,
        ResponseOutputText,
        ResponseTextDeltaEvent,
    )

    class LocalModel(Model):
        async def get_response(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError("only streaming is used here")

        async def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
            place: Any = {"item_id": "m", "content_index": 0, "output_index": 0, "logprobs": []}
            for number, word in enumerate(ANSWER.split(" ")):
                delta = word if number == 0 else f" {word}"
                yield ResponseTextDeltaEvent(
                    type="response.output_text.delta", delta=delta, sequence_number=number, **place
                )
            text = ResponseOutputText(type="output_text", text=ANSWER, annotations=[])
            message = ResponseOutputMessage(
                id="m", type="message", role="assistant", status="completed", content=[text]
            )
            response = Response(
                id="r", created_at=0, model="local", object="response", output=[message], tool_choice="none", tools=[],
                parallel_tool_calls=False,
            )  # fmt: skip
            yield ResponseCompletedEvent(type="response.completed", response=response, sequence_number=99)

    return LocalModel()


def stand_in_for_anthropic() -> Any:
    """Return a client of the Anthropic SDK whose requests are answered here."""
    import json

    import httpx2
    from anthropic import AsyncAnthropic

    def answer(_: httpx2.Request) -> httpx2.Response:
        usage = {"input_tokens": 1, "output_tokens": 1}
        message: Any = {"id": "m", "type": "message", "role": "assistant", "model": "local", "content": [],
                        "stop_reason": None, "stop_sequence": None, "usage": usage}  # fmt: skip
        events: list[Any] = [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            *(
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": part}}
                for part in (ANSWER[:10], ANSWER[10:])
            ),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
            {"type": "message_stop"},
        ]
        body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
        return httpx2.Response(200, text=body, headers={"content-type": "text/event-stream"})

    http_client = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    return AsyncAnthropic(api_key="local", http_client=http_client)


RECIPES: dict[str, Callable[[AsyncChannel, str], Awaitable[StreamResult]]] = {
    "pydantic-ai": pydantic_ai,
    "langgraph": langgraph,
    "openai-agents": openai_agents,
    "anthropic": anthropic,
    "ag-ui": ag_ui,
}


async def main(name: str) -> None:
    """Run one recipe on a local server, and print what a reader gets."""
    async with (
        LocalServer() as server,
        connect_async(server.url, server.anon_key) as one,
        connect_async(server.url, server.anon_key) as two,
        one.channel("room", ack=True) as sends,
        two.channel("room") as reads,
    ):
        streams = reads.streams()
        await RECIPES[name](sends, "What is Realtime?")
        print(await (await anext(streams)).read())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
