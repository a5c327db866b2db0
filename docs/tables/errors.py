"""Tables of the page of errors, from the error classes and the table of the server's error answers."""

import inspect
from collections.abc import Iterator
from typing import Final

from docs.tables import rows, table
from supawire import _server_errors as codes
from supawire import errors
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


_ADVICE: Final[dict[type[RealtimeError], str]] = {
    errors.RealtimeError: "To handle all errors of the library in one place, catch this one.",
    errors.InvalidArgumentError: "Correct the call: the message has the argument, its value, and what is allowed.",
    errors.StateError: (
        "The message has the current state, and what to call first. Common cases: [troubleshooting](troubleshooting.md)."
    ),
    errors.ClosedError: (
        "Open a new client, or create the channel again with `client.channel`. If you did not close it yourself, "
        "`client.wait_closed()` raises the reason, and `channel.error` has that of a channel."
    ),
    errors.AuthError: (
        "Check what your `token` function returns or raises (`__cause__`): "
        "[where tokens come from](private-channels.md#where-tokens-come-from)."
    ),
    errors.ConnectError: "`status` and the message have the cause: [causes by status](troubleshooting.md#connecterror).",
    errors.ReconnectExhaustedError: (
        "Open a new client. To try longer, raise the limits of `backoff` or leave them out: "
        "[delays between attempts](connections.md#delays-between-attempts-backoff)."
    ),
    errors.ConnectionLostError: (
        "The client reconnects by itself. Repeat the call if `maybe_sent` is False, or if doing it twice does no harm."
    ),
    errors.OperationTimeout: (
        "`__cause__` has the last failure, if there was one. Repeat the call if doing it twice does no harm, or pass a "
        "longer `timeout`."
    ),
    errors.RateLimitedError: (
        "Call less often, or pass a longer `timeout`. If your project allows more, raise the "
        "[limits](options.md#limits)."
    ),
    errors.PayloadTooLargeError: (
        "Send less, for example the id of a row instead of the row: [limits of payloads](broadcast.md#payloads)."
    ),
    errors.ProtocolError: "See its two subclasses.",
    errors.LocalProtocolError: "Please report it, with the [log](observing.md#logs) at level DEBUG.",
    errors.RemoteProtocolError: (
        "Check that the URL leads to a Realtime server, and that no proxy changes what it sends."
    ),
    errors.HttpError: (
        "`maybe_sent` says whether the message may have been accepted: [failures and retries](http.md#failures-and-retries)."
    ),
    errors.StreamError: (
        "`status` and `reason` say how the stream has ended; what was received until then is in `received()`. The states: "
        "[read a stream](streams.md#read)."
    ),
    errors.SlowConsumerError: (
        "Read faster, enlarge `buffer`, or choose what is dropped with `overflow`: "
        "[more events than you can take](listening.md#more-events-than-you-can-take)."
    ),
    errors.RowError: "`row` has the row as a dict: [rows that do not fit](models.md#rows-that-do-not-fit).",
    errors.HandlerError: (
        "Correct the handler. Other handlers are not affected: [when a handler raises](listening.md#when-a-handler-raises)."
    ),
    errors.OutboxError: (
        "If `retryable` is True, call `add` again; an `id` of your own makes this safe: [stores](outbox.md#stores)."
    ),
    errors.OutboxFullError: (
        "Wait until messages are sent, or remove dead ones: [limits of a store](outbox.md#stores)."
    ),
    errors.BridgeError: (
        "The bridge goes on by itself, unless `retryable` is False: then a message was given up, see "
        "[when the broker refuses a message](bridge.md#when-the-broker-is-away-or-refuses-a-message)."
    ),
    errors.CacheError: (
        "Nothing, if the file was damaged: it was renamed. Otherwise check the path: "
        "[the snapshot file](mirror.md#start-with-the-rows-of-the-last-run)."
    ),
    errors.SetupError: "Run the SQL in `sql`; for a worker, `supawire worker init` does it: [preparing the database](worker.md#preparing-the-database).",
    errors.JobLostError: (
        "Stop what the handler does: another worker may have the job. See [what is guaranteed](worker.md#what-is-guaranteed)."
    ),
    errors.ServerError: "`code` is the server's code; its [answers](#answers-of-the-server) are listed below.",
    errors.JoinError: (
        "If `retryable` is True, the client joins again by itself. Otherwise correct what the message names, and call "
        "`subscribe` again."
    ),
    errors.JoinDeniedError: (
        "`code` and the message have the reason, most often a missing policy or a wrong token: "
        "[private channels](private-channels.md)."
    ),
    errors.PushError: "Check the policies for writing, and for presence the payload: [presence](presence.md).",
}
"""What a user can do about each class."""


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


def _first_paragraph(kind: type[RealtimeError]) -> str:
    return inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


@table("error-tree")
def error_tree() -> str:
    """Return the tree of error classes as a list of links to their sections."""
    return "".join(_branch(RealtimeError, 0))


def _branch(kind: type[RealtimeError], depth: int) -> Iterator[str]:
    yield f"{'  ' * depth}* [`{kind.__name__}`](#{kind.__name__.lower()})\n"
    for child in TREE:
        if child.__bases__[0] is kind:
            yield from _branch(child, depth + 1)


@table("error-classes")
def error_classes() -> str:
    """Return a section for each error class: when it is raised, what to do, its base classes."""
    return "\n".join(
        f"### {kind.__name__}\n\n{_first_paragraph(kind)}\n\n{_ADVICE[kind]}\n\n{_bases(kind)}\n" for kind in TREE
    )


def _bases(kind: type[RealtimeError]) -> str:
    parents = [f"`{parent.__name__}`" for parent in kind.__bases__]
    return f"A subclass of {' and '.join(parents)}."


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
