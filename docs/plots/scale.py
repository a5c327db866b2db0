"""The plots of the page of scale, from the recorded simulation in benchmarks/storms.json."""

from collections.abc import Sequence
from typing import Any

from benchmarks.storms import kept
from docs.plots import Panel, Plot


def restart() -> Plot:
    """Return the plot of a restart: attempts per second, and the share of joined clients, by the way to reconnect."""
    results: dict[str, Any] = kept()["restart"]
    attempts = [_panel(name, "s; attempts per second", one["connects"]) for name, one in results.items()]
    joined = [_panel(name, "s; % of clients joined", _percent(one["joined"])) for name, one in results.items()]
    alt = "Attempts to connect and joined clients after a restart. " + "; ".join(
        f"First wait {name}: {max(one['connects']):,} attempts in the worst second, {sum(one['connects']):,} in all, "
        f"{_all(one)}"
        for name, one in results.items()
    )
    return Plot("times", "A restart with 10,000 clients", alt + ".", (*attempts, *joined))


def joins() -> Plot:
    """Return the plot of a restart with many channels per client: joined channels by the limit of joins."""
    results: dict[str, Any] = kept()["joins"]
    sent = [_panel(name, "s; joins sent per second", one["joins"]) for name, one in results.items()]
    joined = [_panel(name, "s; % of channels joined", _percent(one["joined"])) for name, one in results.items()]
    alt = "Joins and joined channels after a restart. " + "; ".join(
        f"{name[0].upper()}{name[1:]}: {max(one['joins']):,} joins in the worst second, {_all(one)}"
        for name, one in results.items()
    )
    return Plot("times", "A restart with 10,000 channels of 100 clients", alt + ".", (*sent, *joined))


def tokens() -> Plot:
    """Return the plot of the calls of token providers when all tokens were issued together."""
    found: dict[str, list[int]] = kept()["tokens"]
    names = {"together": "without a random part", "spread": "as supawire does"}
    panels = tuple(_panel(names[name], "minute; calls per minute", calls) for name, calls in found.items())
    alt = "Calls of token providers per minute. " + "; ".join(
        f"{names[name][0].upper()}{names[name][1:]}: at most {max(calls):,}" for name, calls in found.items()
    )
    return Plot("times", "Refreshing 10,000 tokens that were issued together", alt + ".", panels)


def _panel(title: str, along: str, values: Sequence[float]) -> Panel:
    return Panel(title, along, tuple(enumerate(values)))


def _percent(shares: Sequence[float]) -> list[float]:
    return [round(100 * share, 2) for share in shares]


def _all(one: dict[str, Any]) -> str:
    return f"all joined after {one['all']} s" if one["all"] else f"{100 * one['joined'][-1]:.0f} % joined at the end"
