"""The output of the tour: a growing transcript and, in a terminal, a status line below it."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from supawire.cli.demo.checks import Checks, Kind

COLOURS: Final = {"Alice": "cyan", "Bob": "magenta", "Dashboard": "yellow", "Server": "green"}
KINDS: Final[tuple[Kind, ...]] = ("broadcast", "presence", "changes")
MAX_WIDTH: Final = 100
"""Maximum width in columns, for readability."""
MAX_LISTED: Final = 20
"""Maximum lines about missing deliveries; the rest is only counted."""
GLYPHS: Final = {"out": "→", "in": "←", "ok": "✓", "": " "}
ASCII: Final = {"out": "->", "in": "<-", "ok": "ok", "": "  "}


class Screen:
    """Prints a tour. `plain`: whole lines only, without a status line and colours."""

    def __init__(self, console: Console, checks: Checks, *, plain: bool) -> None:
        self._console = console
        self._checks = checks
        self._plain = plain
        self._glyphs = GLYPHS if not plain and console.encoding.startswith("utf") else ASCII
        self._step = ""
        self._held: list[RenderableType] | None = None
        self.here: Sequence[str] = ()
        """Who is present, for the status line."""

    @contextmanager
    def live(self) -> Generator[None]:
        """Keep the status line up to date inside the block."""
        if self._plain:
            yield
            return
        with Live(console=self._console, get_renderable=self._status_line, refresh_per_second=8, transient=True):
            yield

    @contextmanager
    def held(self) -> Generator[None]:
        """Buffer the output inside the block and print it afterwards: printing takes longer than a broadcast."""
        kept = self._held = []
        try:
            yield
        finally:
            self._held = None
            for line in kept:
                self._put(line)

    def _put(self, line: RenderableType) -> None:
        if self._held is None:
            width = None if self._plain else min(self._console.width, MAX_WIDTH)
            self._console.print(line, soft_wrap=self._plain, width=width)
        else:
            self._held.append(line)

    def _status_line(self) -> RenderableType:
        checks = self._checks
        parts = [
            self._step,
            f"sent {sum(checks.sent.values())}",
            f"arrived {checks.arrivals()} of {checks.expected_count()}",
        ]
        if checks.round_trips:
            parts.append(f"round trip {duration(checks.round_trips[-1])}")
        if self.here:
            parts.append(f"here: {', '.join(self.here)}")
        line = Text(f" {' | '.join(parts)}", style="bold", no_wrap=True, overflow="ellipsis")
        return Group(Rule(style="dim"), line)

    # --- the transcript

    def opening(self, where: str, who: Sequence[tuple[str, str]]) -> None:
        """Print the first lines: which server, and who takes part."""
        self._line(Text("supawire: a short tour of Realtime", style="bold"))
        self._line(Text(f"Server: {where}"))
        for name, part in who:
            self._line(Text.assemble("  ", (f"{name:<10}", COLOURS[name]), f" {part}"))

    def step(self, number: int, of: int, title: str, code: str) -> None:
        """Print the title of a step and the code that it takes."""
        self._step = f"{number}/{of} {title}"
        self._head(self._step)
        if self._console.color_system is None:
            for line in code.splitlines():
                self._line(Text(f"    {line}"))
        else:
            syntax = Syntax(code, "python", theme="ansi_dark", background_color="default", word_wrap=True)
            self._put(Padding(syntax, (0, 0, 0, 4)))
        self._line(Text())

    def _head(self, title: str) -> None:
        self._line(Text())
        if self._plain:
            self._line(Text(f"== {title} =="))
        else:
            self._put(Rule(Text(title, style="bold"), align="left", style="dim"))

    def sends(self, who: str, text: str) -> None:
        """Print that a participant sends something."""
        self._event(who, "out", text)

    def receives(self, who: str, text: str, seconds: float | None) -> None:
        """Print that something arrives; `seconds` is None if it was not sent."""
        self._event(who, "in", text, "unexpected" if seconds is None else f"after {duration(seconds)}")

    def succeeds(self, who: str, text: str, seconds: float | None = None) -> None:
        """Print that a call has returned."""
        self._event(who, "ok", text, "" if seconds is None else duration(seconds))

    def note(self, text: str) -> None:
        """Print a remark."""
        self._event("", "", text, style="dim")

    def _event(self, who: str, glyph: str, text: str, aside: str = "", style: str = "") -> None:
        mark = self._glyphs[glyph]
        if self._plain:
            self._line(Text(f"  {who:<9} {mark:<2} {text}{f' ({aside})' if aside else ''}"))
            return
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(width=11, no_wrap=True)
        grid.add_column(width=len(mark), no_wrap=True)
        grid.add_column(ratio=1, overflow="fold")
        grid.add_column(justify="right", no_wrap=True)
        colour = COLOURS.get(who, "")
        grid.add_row(Text(f"  {who}", style=colour), Text(mark, style=colour), Text(text, style), Text(aside, "dim"))
        self._put(grid)

    def _line(self, text: Text) -> None:
        self._put(text)

    # --- the result

    def result(self, problems: Sequence[str], seconds: float) -> bool:
        """Print how many items were sent and received, and what is missing; return whether all arrived."""
        checks = self._checks
        self._head("Result")
        for kind in KINDS:
            sent, expected, arrived = checks.sent[kind], checks.expected_count(kind), checks.arrivals(kind)
            self._line(Text(f"  {kind:<10} {sent:>2} sent, {arrived:>2} of {expected:>2} deliveries arrived"))
        if trips := checks.round_trips:
            times = f"median {duration(median(trips))}, slowest {duration(max(trips))}"
            self._line(Text(f"  round trip of confirmed broadcasts: {times}"))
        for head, lines in (
            ("Sent, but not arrived", checks.missing),
            ("Arrived, but not sent", checks.surplus),
            ("Errors", problems),
        ):
            self._list(head, [str(line) for line in lines])
        good = checks.complete and not problems
        count = f"{checks.arrivals()} of {checks.expected_count()}"
        if good:
            verdict = f"Everything that was sent arrived, and nothing else: {count}, in {duration(seconds)}."
            self._line(Text(verdict, style="bold green"))
        else:
            self._line(Text(f"FAILED: {count} arrived.", style="bold red"))
        return good

    def _list(self, head: str, lines: Sequence[str]) -> None:
        if not lines:
            return
        self._line(Text(f"{head} ({len(lines)}):", style="bold red"))
        for line in lines[:MAX_LISTED]:
            self._line(Text(f"  {line}"))
        if len(lines) > MAX_LISTED:
            self._line(Text(f"  and {len(lines) - MAX_LISTED} more"))


def duration(seconds: float) -> str:
    """Format seconds for display: `0.42 ms`, `12.3 ms`, `1.20 s`."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    milliseconds = seconds * 1000
    return f"{milliseconds:.2f} ms" if milliseconds < 10 else f"{milliseconds:.1f} ms"
