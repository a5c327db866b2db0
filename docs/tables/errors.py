"""Tables of the page of errors, from the error classes and the table of the server's error answers."""

import inspect
from collections.abc import Iterator

from docs.tables import rows, table
from supawire import _server_errors as codes
from supawire._server_errors import Action, Known
from supawire.errors import TREE, RealtimeError

_FOLLOWS = {
    Action.RETRY: "retried",
    Action.SLOW_RETRY: "retried after a longer delay",
    Action.REFRESH: "retried with a fresh token",
    Action.GIVE_UP: "not retried",
}

_SOURCES = (
    ("join refused", codes.JOIN_REASONS, (codes.EXPIRED_JOIN, codes.UNKNOWN_JOIN)),
    ("connection refused", codes.HANDSHAKE, (codes.OLD_REFUSAL, codes.NOT_REALTIME)),
    ("system message", codes.SYSTEM_MESSAGES, (codes.EXPIRED_CHANNEL, codes.CHANNEL_ENDED)),
    ("send refused", codes.PUSH_REPLIES, (codes.REFUSED_PUSH,)),
    ("send answered with ok", (), (codes.NOT_STORED,)),
    ("connection closed", codes.CLOSE_CODES, (codes.CLOSED,)),
    ("HTTP answer", codes.HTTP_ANSWERS, (codes.HTTP_REFUSED, codes.HTTP_BROKEN)),
)


def _known() -> Iterator[tuple[str, Known, bool]]:
    """Yield where each row occurs, the row, and whether it applies when no other row matches."""
    for where, listed, others in _SOURCES:
        yield from ((where, row, False) for row in listed)
        yield from ((where, row, True) for row in others)


def _said(row: Known, is_rest: bool) -> str:
    code = "" if row.code is None else f"`{row.code}`"
    text = f"“{row.starts} …”" if row.starts else ""
    return " ".join(part for part in (code, text) if part) or ("anything else" if is_rest else "nothing")


def _follows(row: Known) -> str:
    return _FOLLOWS[row.action] + (", once" if row.once else "")


def _first_sentence(kind: type[RealtimeError]) -> str:
    return inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].replace("\n", " ").replace("|", "/")


@table("error-classes")
def error_classes() -> str:
    """Return the table of error classes with their base classes and the first sentence of their docstrings."""
    lines: list[list[str]] = []
    for kind in TREE:
        parents = [parent.__name__ for parent in kind.__bases__ if parent is not Exception]
        lines.append([f"`{kind.__name__}`", ", ".join(f"`{name}`" for name in parents), _first_sentence(kind)])
    return rows(["error", "is a", "when"], lines)


@table("server-errors")
def server_errors() -> str:
    """Return a section for each anchor that `error.docs` names, with hints and the server's answers."""
    sections: dict[str, list[tuple[str, Known, bool]]] = {}
    for where, row, is_rest in _known():
        sections.setdefault(row.slug, []).append((where, row, is_rest))
    return "\n".join(_section(slug, sections[slug]) for slug in sorted(sections))


def _section(slug: str, known: list[tuple[str, Known, bool]]) -> str:
    hints = dict.fromkeys(row.hint for _, row, _ in known)
    lines = [[where, _said(row, is_rest), f"`{row.error.__name__}`", _follows(row)] for where, row, is_rest in known]
    return f"### {slug}\n\n{' '.join(hints)}\n\n{rows(['where', 'the server says', 'error', 'what the client does'], lines)}"


@table("close-codes")
def close_codes() -> str:
    """Return the table of close codes with the delay before the next connection."""
    waits = {Action.RETRY: "by `backoff`", Action.SLOW_RETRY: "the longest step of `backoff`"}
    lines = [[f"`{row.code}`", waits[row.action], row.hint] for row in codes.CLOSE_CODES]
    return rows(
        ["close code", "delay before the next connection", "hint"],
        [*lines, ["any other, or none (1006)", waits[codes.CLOSED.action], codes.CLOSED.hint]],
    )
