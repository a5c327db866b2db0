"""`python -m docs.sync_docstrings` writes the docstrings of the sync client and prints the changed files.

They are made from those of the async client; edit only these. They are written into the source, not set at import time
by a decorator, because editors and language servers show what is in the source. A test compares all of them.

`DIFFERENCES` has the passages that differ between the clients in more than the names of classes.
"""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import supawire
from supawire.sync.channel import ThreadSubscription

CLASSES: Final[tuple[tuple[type, type], ...]] = (
    (supawire.Client, supawire.AsyncClient),
    (supawire.Channel, supawire.AsyncChannel),
    (supawire.Stream, supawire.AsyncStream),
    (supawire.QueuedSent, supawire.AsyncQueuedSent),
    (supawire.Mirror, supawire.AsyncMirror),
    (supawire.Outbox, supawire.AsyncOutbox),
    (supawire.StreamReader, supawire.AsyncStreamReader),
    (supawire.Streams, supawire.AsyncStreams),
    (supawire.StreamWriter, supawire.AsyncStreamWriter),
    (supawire.ThrottledSender, supawire.AsyncThrottledSender),
)

FUNCTIONS: Final = (
    (supawire.connect, supawire.connect_async),
    (supawire.from_supabase, supawire.from_supabase_async),
    (ThreadSubscription.cancel, supawire.Subscription.cancel),
    (ThreadSubscription.dropped, supawire.Subscription.dropped),
)

WORDS: Final = (("async with", "with"), ("async for", "for"), ("Async", ""))

DIFFERENCES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "AsyncClient": (
        (
            "`connect_async` and bound to the event loop in which it was opened.",
            "`connect`. Any thread may call it; a forked child process may not.",
        ),
    ),
    "AsyncStream": (
        ("`anext()`, or", "`next()`, `get(timeout=…)`, or"),
        ("a cancellation meanwhile", "Ctrl-C meanwhile"),
        ("one task at a time", "one thread at a time"),
    ),
    "AsyncClient.mirror": (
        (
            """\
        and the same rows as the filter. Plain (run on a thread, may block) or async, or a generator. It has to
        read from the primary, with the rights of the client's token. Exceptions go to `on_error`.
""",
            """\
        and the same rows as the filter. A plain function or generator; it runs on a thread of its own and may
        block. It has to read from the primary, with the rights of the client's token. Exceptions go to
        `on_error`.
""",
        ),
    ),
    "AsyncChannel.on": (
        (
            """\
    handler: plain or `async`, called with one event. A plain one runs on the event loop and must be quick; an
        async one is called one event after another, in a task of its own.
    thread: run a plain handler on the dispatch thread, where it may block.
    buffer, overflow: how many events may wait for an async or threaded handler, and what happens to further
        ones: "error" drops the newest and calls `on_error` once per episode, "drop_oldest", "drop_newest",
            "pause".
""",
            """\
    handler: plain or `async`, called on the client's dispatch thread, one event after another. A plain one that
        blocks delays only the other handlers of this client.
    thread: no effect here, because every handler runs on the dispatch thread; for parity with the async client.
    buffer, overflow: how many events may wait for the handler, and what happens to further ones: "error" drops
        the newest and calls `on_error` once per episode, "drop_oldest", "drop_newest", "pause".
""",
        ),
    ),
    "AsyncChannel.stream": (
        (
            "result = await channel.stream(answer)  # any iterable of parts, plain or async",
            "result = channel.stream(answer)  # any iterable of parts",
        ),
        ("await out.write", "out.write"),
        ("as a plain or async iterable", "as an iterable, read on the caller's thread"),
        ("a cancellation as", "Ctrl-C as"),
    ),
    "connect_async": (
        (
            "a Supabase Realtime client in this event loop; use as `async with connect_async(url, key)`, or `await` it",
            "a sync client of Supabase Realtime, which any thread may call; a context manager that closes it",
        ),
        (
            "refusal, which ends it.\n",
            """\
refusal, which ends it. It
has one I/O thread of its own, and from the first handler on a dispatch thread.
""",
        ),
        (
            "called on the event loop with every error that is not raised to a caller; if omitted, it is logged.",
            """\
called on the dispatch thread with every error that is not raised to a caller; if omitted, it is
        logged.""",
        ),
        ("must be quick.", "must be quick, and must not\n        call the client, because it runs on the I/O thread."),
        ("InvalidArgumentError, at once. Opening raises ConnectError", "InvalidArgumentError. ConnectError"),
    ),
    "from_supabase_async": (
        (
            "Make a Realtime client in this event loop that follows the session of a client of the package `supabase`.",
            "Open a sync Realtime client that follows the session of a sync client of the package `supabase`.",
        ),
        (
            """\
The given client may be sync or async. URL and key are those of that client, and the token is that of its signed-in
user, also""",
            """\
URL and key are those of the given client, and the token is that of its signed-in user,
also""",
        ),
        ("`create_client` or `acreate_client` of", "`create_client` of"),
        ("`connect_async`", "`connect`"),
        (
            "InvalidArgumentError, at once. Opening raises ConnectError, AuthError.",
            """\
InvalidArgumentError: also for an async client, whose session is available only in its own event loop.
    ConnectError, AuthError.""",
        ),
    ),
}
"""Passages of a docstring of the async client, by its qualified name, with those of the sync client."""

_SYNC: Final = {"__aenter__": "__enter__", "__aexit__": "__exit__", "__aiter__": "__iter__", "__anext__": "__next__"}


def pairs() -> Iterator[tuple[Any, Any]]:
    """Yield the classes, methods and functions of the sync client that have a docstring, with their async twins."""
    yield from FUNCTIONS
    for sync, twin in CLASSES:
        yield sync, twin
        for name, member in vars(twin).items():
            own = vars(sync).get(_SYNC.get(name, name))
            is_public = not name.startswith("_") and _function(member) is not None
            if own is not None and is_public and inspect.getdoc(member):
                yield own, member


def _function(member: Any) -> Any:
    """Return the function of a method or property, else None."""
    member = member.fget if isinstance(member, property) else member
    return member if inspect.isfunction(member) else None


def expected(twin: Any) -> str:
    """Return the docstring of the sync client for an object of the async client, without indentation."""
    text = inspect.getdoc(twin) or ""
    name = (twin if isinstance(twin, type) else _function(twin)).__qualname__
    for given, replacement in DIFFERENCES.get(name, ()):
        if given not in text:
            raise ValueError(f"the docstring of {name} no longer has the passage {given!r}: mend DIFFERENCES")
        text = text.replace(given, replacement)
    for given, replacement in WORDS:
        text = text.replace(given, replacement)
    return text


def rewritten(path: Path, docstrings: dict[str, str]) -> str:
    """Return the source of a module with these docstrings, by qualified name."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines(keepends=True)
    found: list[tuple[ast.expr, str]] = []

    def visit(nodes: list[ast.stmt], prefix: str) -> None:
        for node in nodes:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                name = f"{prefix}{node.name}"
                first = node.body[0]
                if name in docstrings and ast.get_docstring(node) is not None and isinstance(first, ast.Expr):
                    found.append((first.value, docstrings[name]))
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{name}.")

    visit(ast.parse(source).body, "")
    for literal, text in reversed(found):
        assert literal.end_lineno is not None
        indent = " " * literal.col_offset
        end = f"\n{indent}" if "\n" in text else ""
        body = "\n".join(indent + line if line else "" for line in text.split("\n"))
        lines[literal.lineno - 1 : literal.end_lineno] = [f'{indent}"""{body.lstrip()}{end}"""\n']
    return "".join(lines)


def main() -> None:
    """Rewrite the modules of the sync client whose docstrings are not those of the async client."""
    modules: dict[Path, dict[str, str]] = {}
    for own, twin in pairs():
        kind = own if isinstance(own, type) else _function(own)
        modules.setdefault(Path(inspect.getfile(kind)), {})[kind.__qualname__] = expected(twin)
    for path, docstrings in modules.items():
        text = rewritten(path, docstrings)
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
            print(path.name)


if __name__ == "__main__":
    main()
