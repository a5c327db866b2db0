"""`supawire demo`: a short tour that is also a test, against a local server of its own or one that runs already."""

import asyncio
import os
import secrets
import time
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from supawire.cli import settings
from supawire.cli.banner import complain, console_of
from supawire.cli.demo.backend import DemoBackend, OtherBackend, OwnBackend
from supawire.cli.demo.checks import Checks
from supawire.cli.demo.screen import Screen
from supawire.errors import InvalidArgumentError, RealtimeError

STEP_TIMEOUT: Final = 5.0


def demo(
    *,
    url: Annotated[
        str | None,
        Parameter(help="A server that runs already, such as supawire serve; left out, the tour starts one of its own."),
    ] = None,
    key: Annotated[
        str | None,
        Parameter(
            env_var=(settings.SERVICE_KEY, settings.KEY),
            help="Key for --url. With the service key of supawire serve the tour includes changes of rows; with an "
            "anon key it leaves them out.",
        ),
    ] = None,
    env_file: Annotated[
        Path | None, Parameter(help="Read URL and key from a file that supawire serve --env-file wrote.")
    ] = None,
    speed: Annotated[
        float | None,
        Parameter(help="1 is about 13 seconds, 2 is twice as fast; left out, 1 in a terminal, and no pauses if plain."),
    ] = None,
    plain: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Whole lines and no colours, as when piped.")
    ] = False,
    patience: Annotated[float, Parameter(help="Seconds to wait for what does not arrive, in all.")] = STEP_TIMEOUT,
) -> int:
    """Show broadcasts, presence and changes of rows arriving, with the code that each step takes.

    Everything that is sent is compared with what arrives. The exit code is 0 only if all of it came, and nothing else.
    """
    for name, value in (("--speed", speed), ("--patience", patience)):
        if value is not None and not 0 < value < 1e6:
            raise InvalidArgumentError(f"{name} must be above 0, not {value:g}")
    if not plain:
        terminal = console_of()
        plain = not terminal.is_terminal or terminal.is_dumb_terminal
    ledger = Checks(patience)
    screen = Screen(console_of(plain=plain), ledger, plain=plain)
    return asyncio.run(_play(_stage(url, key, env_file), screen, ledger, speed or (None if plain else 1.0)))


def _stage(url: str | None, key: str | None, env_file: Path | None) -> DemoBackend:
    if env_file is not None:
        if url is not None:
            raise InvalidArgumentError("--env-file says the URL already; leave out --url")
        values = settings.read(env_file)
        return OtherBackend(values[settings.URL], values.get(settings.SERVICE_KEY) or values[settings.KEY])
    if url is None:
        return OwnBackend()
    key = key or os.environ.get(settings.KEY)
    if not key:
        raise InvalidArgumentError(
            f"--url needs a key: --key, {settings.SERVICE_KEY} or {settings.KEY} in the environment, or --env-file"
        )
    return OtherBackend(url, key)


async def _play(stage: DemoBackend, screen: Screen, ledger: Checks, speed: float | None) -> int:
    """Run the tour and return the exit code."""

    async def pause(seconds: float) -> None:
        if speed is not None:
            await asyncio.sleep(seconds / speed)

    from supawire.cli.demo.tour import Tour  # importing the clients is slow, and only the tour needs them

    started = time.perf_counter()
    suffix = "" if isinstance(stage, OwnBackend) else f"-{secrets.token_hex(2)}"
    problems: list[str] = []
    try:
        async with stage:
            tour = Tour(stage, screen, ledger, suffix=suffix, pause=pause, problems=problems)
            with screen.live():
                await tour.run()
    except RealtimeError as error:
        if not any(ledger.sent.values()):
            complain(str(error))
            return 1
        problems.append(f"the tour ended early: {error}")
    return 0 if screen.result(problems, time.perf_counter() - started) else 1
