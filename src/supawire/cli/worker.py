"""`supawire worker`: prepare the database for a worker, and run it."""

import asyncio
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter

from supawire.cli.output import print_error
from supawire.errors import InvalidArgumentError, SetupError

if TYPE_CHECKING:
    from supawire.worker import Worker

app: Final = App("worker", help="Run jobs that must be done: prepare the database, start a worker.")

Target = Annotated[
    str, Parameter(help="The worker, as module and name: `jobs:app` is `app` of jobs.py in the current folder.")
]


@app.command(name="init")
def init(
    worker: Target,
    /,
    *,
    out: Annotated[Path | None, Parameter(help="Write the migration to this file, which must not exist.")] = None,
    apply: Annotated[bool, Parameter(negative=(), help="Run the migration in the database of the worker.")] = False,
    database: Annotated[
        str | None, Parameter(help="URL of the database, for a worker that has none, as with `rest=`.")
    ] = None,
    role: Annotated[str, Parameter(help="Who may call the functions that a worker over REST needs.")] = "service_role",
) -> int:
    """Print the migration for a worker: the side table of jobs, indexes, queues, functions for REST.

    It reads the tables from the database of the worker, and may be run again.
    """
    if out is not None and apply:
        raise InvalidArgumentError("--out and --apply exclude each other; a file is run by your migration tool")
    found = load(worker)
    text = asyncio.run((found.apply_migration if apply else found.migration)(database, role=role))
    if out is not None:
        try:
            with out.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise InvalidArgumentError(f"--out: {out} cannot be written: {error.strerror}") from error
    else:
        print(text, end="")
    return 0


@app.command(name="run")
def run(
    worker: Target,
    /,
    *,
    reload: Annotated[
        bool,
        Parameter(negative=(), help="For development: restart the worker when a Python file of this folder changes."),
    ] = False,
    until_idle: Annotated[bool, Parameter(negative=(), help="Stop when no job is left that can be done now.")] = False,
    log_level: Annotated[str, Parameter(help="The level of the log on stderr: debug, info, warning.")] = "info",
) -> int:
    """Run a worker until SIGTERM or Ctrl-C, which let running jobs end; a second signal gives them back at once."""
    import logging

    if log_level.lower() not in ("debug", "info", "warning", "error"):
        raise InvalidArgumentError(f"--log-level must be debug, info, warning or error, not {log_level!r}")
    if reload:
        if until_idle:
            raise InvalidArgumentError("--reload and --until-idle exclude each other")
        return _reload(worker, log_level)
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    found = load(worker)
    print_error(f"running {found!r}; Ctrl-C lets its jobs end")
    try:
        found.run(until_idle=until_idle)
    except SetupError as error:
        print_error(f"{error.message}. {error.hint or ''}".rstrip())
        if error.sql:
            print(error.sql)
        return 1
    return 0


def load(target: str) -> "Worker":
    """Import a worker. Raises: InvalidArgumentError when there is none."""
    from supawire.worker import Worker

    module_name, colon, name = target.partition(":")
    if not (module_name and colon and name) or module_name.startswith("."):
        raise InvalidArgumentError(f"the worker must be given as module:name, such as jobs:app, not {target!r}")
    sys.path.insert(0, os.getcwd())  # noqa: PTH109  as `python -m` does
    try:
        module: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.partition(".")[0] and error.name != module_name:
            raise
        raise InvalidArgumentError(
            f"there is no module {module_name!r} in this folder or among the installed packages"
        ) from error
    found = getattr(module, name, None)
    if not isinstance(found, Worker):
        raise InvalidArgumentError(f"{target} is not a supawire.worker.Worker, but {type(found).__name__}")
    return found


def _reload(target: str, log_level: str) -> int:
    """Run the worker in a process that is restarted after each change; SIGTERM lets its jobs end."""
    try:
        from watchfiles import PythonFilter, run_process
    except ModuleNotFoundError:
        raise InvalidArgumentError("--reload needs watchfiles", hint="pip install 'supawire[worker]'") from None
    if sys.platform == "win32":  # where the words of a command cannot be quoted
        run_process(
            Path.cwd(), target=run, args=(target,), kwargs={"log_level": log_level}, watch_filter=PythonFilter()
        )
        return 0
    command = [sys.executable, "-m", "supawire", "worker", "run", target, "--log-level", log_level]
    run_process(
        Path.cwd(),
        target=" ".join(map(_quoted, command)),
        target_type="command",
        watch_filter=PythonFilter(),
        sigint_timeout=60,
        sigkill_timeout=5,
    )
    return 0


def _quoted(word: str) -> str:
    from shlex import quote

    return quote(word)
