"""Explain errors from their text: codes and texts of the server, HTTP statuses, close codes, classes of exceptions."""

import re
from collections.abc import Iterator
from typing import Any, Final

from supawire._server_errors import (
    CLOSE_CODES,
    HANDSHAKE,
    HTTP_ANSWERS,
    JOIN_REASONS,
    PUSH_REPLIES,
    SYSTEM_MESSAGES,
    Action,
    Known,
)
from supawire.errors import TREE, docs_of

MAX_TEXT: Final = 2_000
"""Characters of an error that are read."""
MAX_EXPLANATIONS: Final = 8
SOURCES: Final = (
    ("a refused join", JOIN_REASONS),
    ("a refused WebSocket handshake", HANDSHAKE),
    ("a system message of a channel", SYSTEM_MESSAGES),
    ("an error reply to a push", PUSH_REPLIES),
    ("a WebSocket close code", CLOSE_CODES),
    ("an HTTP answer", HTTP_ANSWERS),
)
REACTIONS: Final = {
    Action.RETRY: "The client retries by itself.",
    Action.SLOW_RETRY: "The client retries by itself, more slowly.",
    Action.REFRESH: "The client fetches a new token if token= is a callable, and retries.",
    Action.GIVE_UP: "The client does not retry.",
}


def explain(text: str) -> list[dict[str, Any]]:
    """Return what an error can mean, best match of each source first; an empty list if nothing is known about it."""
    text = text[:MAX_TEXT]
    words = frozenset(re.findall(r"\w+", text))
    found = [explanation for source, rows in SOURCES for explanation in _of_server(source, rows, text, words)]
    found.sort(key=lambda one: -one[0])
    return [explanation for _, explanation in found[:MAX_EXPLANATIONS]] + list(_of_classes(words))


def _of_server(
    source: str, rows: tuple[Known, ...], text: str, words: frozenset[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the best row of a table, with the number of characters that match."""
    best: tuple[int, Known] | None = None
    for row in rows:
        size = _match(row, text, words)
        if size and (best is None or size > best[0]):
            best = size, row
    if best is not None:
        size, row = best
        yield (
            size,
            {
                "meaning": source,
                "code": row.code,
                "text": row.starts or None,
                "exception": row.error.__name__,
                "retryable": row.retryable,
                "reaction": REACTIONS[row.action],
                "advice": row.hint,
                "docs": row.docs,
            },
        )


def _match(row: Known, text: str, words: frozenset[str]) -> int:
    """Return how many characters of the row are in the text, 0 if it does not match."""
    coded = row.code is not None and str(row.code) in words
    if row.starts:
        return len(row.starts) + 10 * coded if row.starts.lower() in text.lower() else 0
    named = isinstance(row.code, int) or (isinstance(row.code, str) and row.code[:1].isupper())
    return len(str(row.code)) if coded and named else 0


def _of_classes(words: frozenset[str]) -> Iterator[dict[str, Any]]:
    """Yield the exceptions of this library that are named."""
    for kind in TREE:
        if kind.__name__ in words:
            meaning = " ".join((kind.__doc__ or "").split())
            yield {
                "meaning": f"the exception {kind.__name__}: {meaning}",
                "exception": kind.__name__,
                "retryable": kind.default_retryable,
                "docs": docs_of(kind.__name__.lower()),
            }
