"""Tables of the page of scale, from the recorded simulation in benchmarks/storms.json."""

from typing import Any, Final

from benchmarks.storms import PLANS, ROOM, kept
from docs.tables import rows, table

_NEVER: Final = "not within the simulated time"


@table("scale-restart")
def restart() -> str:
    """Return the table of a restart by the first wait."""
    return rows(
        ["first wait", "attempts in the worst second", "attempts in all", "90 % joined after", "all joined after"],
        [
            (name, f"{max(one['connects']):,}", f"{sum(one['connects']):,}", *_times(one))
            for name, one in _of("restart")
        ],
    )


@table("scale-joins")
def joins() -> str:
    """Return the table of a restart of clients with many channels, by the limit of joins."""
    return rows(
        ["limit of each client", "joins in the worst second", "joins in all", "90 % joined after", "all joined after"],
        [(name, f"{max(one['joins']):,}", f"{sum(one['joins']):,}", *_times(one)) for name, one in _of("joins")],
    )


@table("scale-tokens")
def tokens() -> str:
    """Return the table of the calls of token providers."""
    found = kept()["tokens"]
    return rows(
        ["refresh", "calls in the worst minute", "minutes with calls"],
        [
            (name, f"{max(found[key]):,}", f"{sum(calls > 0 for calls in found[key])}")
            for name, key in (("all at 80 % of the lifetime", "together"), ("at random, as supawire does", "spread"))
        ],
    )


@table("scale-budgets")
def budgets() -> str:
    """Return the table of message budgets: what each client may send, and what happened when it sent more."""
    head = ["plan", "messages per second of the project", "clients", "share of each client", "at 0.9 of it", "at twice"]
    lines: list[tuple[str, ...]] = []
    for plan, found in _of("budgets"):
        least = {name: one["least"] for name, one in found["results"].items()}
        lines.append(
            (
                plan,
                f"{PLANS[plan][0].messages:g}",
                f"{found['clients']}, in rooms of {ROOM}",
                f"{found['share']:g} messages per second",
                *(f"{100 * least[times]:.0f} % of channels open at the worst" for times in ("0.9", "2")),
            )
        )
    return rows(head, lines)


def _of(name: str) -> list[tuple[str, dict[str, Any]]]:
    return list(kept()[name].items())


def _times(one: dict[str, Any]) -> tuple[str, str]:
    most, every = (_NEVER if one[name] is None else f"{one[name]} s" for name in ("most", "all"))
    return most, every
