"""Show live streams in a terminal with Textual, and in a notebook with anywidget.

    SUPAWIRE_URL=… SUPAWIRE_KEY=… python views.py

`StreamApp` is a Textual application that shows the streams of the channel "room" as Markdown. `StreamWidget` is a
widget for Jupyter: put `widget = StreamWidget()` in a cell, and `await widget.show(channel)` in another one.
"""

import os

import anywidget
import traitlets
from textual.app import App, ComposeResult
from textual.widgets import Markdown

from supawire import AsyncChannel, StreamError, connect_async


class StreamApp(App[None]):
    """Shows each stream of a channel as it grows."""

    def compose(self) -> ComposeResult:
        """Return the widgets."""
        yield Markdown()

    def on_mount(self) -> None:
        """Begin to read when the terminal is ready."""
        self.run_worker(self.read(), exclusive=True)

    async def read(self) -> None:
        """Read the streams of the channel, and show the newest."""
        async with (
            connect_async(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"]) as client,
            client.channel("room") as room,
        ):
            async for stream in room.streams():
                view = Markdown.get_stream(self.query_one(Markdown))  # merges what comes while it renders
                try:
                    async for part in stream:
                        await view.write(part)
                except StreamError as error:
                    await view.write(f"\n\n*{error.reason}*")
                await view.stop()


class StreamWidget(anywidget.AnyWidget):
    """A text in a notebook that grows."""

    _esm = """
    export default { render({ model, el }) {
        const show = () => { el.textContent = model.get("text") }
        model.on("change:text", show)
        show()
    } }
    """
    text = traitlets.Unicode("").tag(sync=True)

    async def show(self, room: AsyncChannel) -> None:
        """Show the next stream of a channel."""
        stream = await anext(room.streams())
        async for _ in stream:
            self.text = stream.received()


if __name__ == "__main__":
    StreamApp().run()
