"""Read a Supabase project: `config.toml`, migrations and seeds. Needs no database and no extra."""

import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from supawire.errors import StateError

FOLDER: Final = "supabase"
MIGRATION: Final = re.compile(r"([0-9]{1,32})_[^/]*\.sql", re.ASCII)
DEFAULT_SEED: Final = ("./seed.sql",)
_ENVIRONMENT: Final = re.compile(r"env\(([A-Za-z_][A-Za-z0-9_]*)\)", re.ASCII)
_SHORTEST_SECRET: Final = 32
_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Project:
    """The parts of a Supabase project that the server uses.

    migrations and seeds: SQL files in execution order. ignored: files beside the migrations whose names do not match.
    schemas: the schemas exposed by the project's API. major: the requested major version of PostgreSQL.
    """

    root: Path
    migrations: tuple[Path, ...]
    seeds: tuple[Path, ...] = ()
    ignored: tuple[Path, ...] = ()
    schemas: tuple[str, ...] = ()
    major: int | None = None
    jwt_expiry: int | None = None
    jwt_secret: str | None = field(default=None, repr=False)

    def name_of(self, file: Path) -> str:
        """Return the path of a file relative to the project's folder, for error texts."""
        return file.relative_to(self.root).as_posix() if file.is_relative_to(self.root) else str(file)


def read_project(path: str | os.PathLike[str]) -> Project:
    """Read the project in this folder, which is `supabase` or contains it.

    Raises: StateError, naming the file, when there is no project or its settings are invalid.
    """
    folder = _folder_of(Path(path))
    config = _Config(folder / "config.toml")
    if not config.boolean("realtime", "enabled", default=True):
        raise StateError(
            f"{config.shown}: realtime.enabled is false, so this project has no Realtime server",
            hint="Set it to true, or leave it out.",
        )
    migrations, ignored = _migrations(folder) if config.boolean("db.migrations", "enabled", default=True) else ((), ())
    secret = config.text("auth", "jwt_secret")
    if secret is not None and len(secret.encode()) < _SHORTEST_SECRET:
        raise StateError(f"{config.shown}: auth.jwt_secret must have at least {_SHORTEST_SECRET} bytes")
    return Project(
        root=folder.parent,
        migrations=migrations,
        seeds=tuple(_seeds(folder, config)),
        ignored=ignored,
        schemas=config.texts("api", "schemas"),
        major=config.number("db", "major_version"),
        jwt_expiry=config.number("auth", "jwt_expiry"),
        jwt_secret=secret,
    )


def read_sql(project: Project, file: Path) -> str:
    """Return the text of an SQL file. Raises: StateError when it cannot be read as UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise StateError(f"{project.name_of(file)}, line {line}: the file is not UTF-8") from error
    except OSError as error:
        raise StateError(f"{project.name_of(file)} cannot be read: {error.strerror}") from error


def _folder_of(path: Path) -> Path:
    path = path.resolve()
    if (path / FOLDER).is_dir():
        return path / FOLDER
    if path.name == FOLDER and path.is_dir():
        return path
    raise StateError(
        f"there is no folder {FOLDER} in {path}",
        hint="Give the folder in which `supabase init` was run.",
    )


def _migrations(folder: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the migrations in order, and the files with other names, which the Supabase CLI ignores as well."""
    files = sorted((folder / "migrations").glob("*.sql"), key=lambda file: file.name)
    versions: dict[str, Path] = {}
    ignored: list[Path] = []
    for file in files:
        found = MIGRATION.fullmatch(file.name)
        if found is None:
            ignored.append(file)
        elif (other := versions.setdefault(found[1], file)) is not file:
            raise StateError(
                f"{FOLDER}/migrations has two files of version {found[1]}: {other.name} and {file.name}",
                hint="Give one of them another number.",
            )
    return tuple(versions.values()), tuple(ignored)


def _seeds(folder: Path, config: "_Config") -> Iterator[Path]:
    if not config.boolean("db.seed", "enabled", default=True):
        return
    named = config.texts("db.seed", "sql_paths", default=None)
    for pattern in DEFAULT_SEED if named is None else named:
        try:
            found = [Path(pattern)] if Path(pattern).is_absolute() else sorted(folder.glob(os.path.normpath(pattern)))
        except (ValueError, NotImplementedError) as error:
            raise StateError(
                f"{config.shown}: db.seed.sql_paths has {pattern!r}, which is not a path: {error}"
            ) from error
        files = [file for file in found if file.is_file()]
        if not files and named is not None:
            raise StateError(f"{config.shown}: db.seed.sql_paths names {pattern!r}, but there is no such file")
        yield from files


class _Config:
    """`config.toml`, read with type checks; a missing file is treated as empty."""

    def __init__(self, file: Path) -> None:
        self.shown: Final = f"{FOLDER}/{file.name}"
        try:
            self._values: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            self._values = {}
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise StateError(f"{self.shown} cannot be read: {error}") from error

    def boolean(self, table: str, name: str, *, default: bool) -> bool:
        """Return a boolean setting."""
        value = self._value(table, name)
        return default if value is _MISSING else self._checked(table, name, value, bool, "true or false")

    def number(self, table: str, name: str) -> int | None:
        """Return a positive integer setting, None when it is missing."""
        value = self._value(table, name)
        if value is _MISSING:
            return None
        if type(value) is not int or not 0 < value < 1 << 31:
            raise self._wrong(table, name, "a positive whole number")
        return value

    def text(self, table: str, name: str) -> str | None:
        """Return a string setting, None when it is missing or empty. `env(NAME)` reads an environment variable."""
        value = self._value(table, name)
        if value is _MISSING:
            return None
        text = self._checked(table, name, value, str, "a text")
        variable = _ENVIRONMENT.fullmatch(text)
        if variable is None:
            return text or None
        found = os.environ.get(variable[1])
        if not found:
            raise StateError(
                f"{self.shown}: {table}.{name} refers to the environment variable {variable[1]}, which is not set"
            )
        return found

    def texts(self, table: str, name: str, default: tuple[str, ...] | None = ()) -> Any:
        """Return a list of strings as a tuple."""
        value = self._value(table, name)
        if value is _MISSING:
            return default
        for item in self._checked(table, name, value, list, "a list of texts"):
            self._checked(table, name, item, str, "a list of texts")
        return tuple(value)

    def _value(self, table: str, name: str) -> Any:
        at = self._values
        for part in table.split("."):
            inner: Any = at.get(part, {})
            if not isinstance(inner, dict):
                raise StateError(f"{self.shown}: {table} must be a table, as [{table}]")
            at = cast("dict[str, Any]", inner)
        return at.get(name, _MISSING)

    def _checked(self, table: str, name: str, value: Any, kind: type, wanted: str) -> Any:
        if type(value) is not kind:
            raise self._wrong(table, name, wanted)
        return value

    def _wrong(self, table: str, name: str, wanted: str) -> StateError:
        return StateError(f"{self.shown}: {table}.{name} must be {wanted}")


MISSING_EXTENSIONS: Final = {
    "http": "requests from SQL",
    "hypopg": "hypothetical indexes",
    "index_advisor": "index recommendations",
    "pg_cron": "scheduled jobs (schema cron)",
    "pg_graphql": "GraphQL (schema graphql)",
    "pg_hashids": "short ids",
    "pg_jsonschema": "checks of JSON schemas",
    "pg_net": "requests from SQL (schema net)",
    "pg_partman": "managed partitions",
    "pg_plan_filter": "limits on query plans",
    "pg_repack": "rebuilding tables",
    "pg_tle": "trusted language extensions",
    "pgaudit": "an audit log",
    "pgcrypto": "pgp_* and encrypt*; digest, hmac, gen_random_bytes, crypt and gen_salt are available, see the page",
    "pgjwt": "signing tokens in SQL",
    "pgmq": "queues",
    "pgroonga": "full text search",
    "pgrouting": "routes",
    "pgsodium": "encryption (schema pgsodium)",
    "pgtap": "tests in SQL",
    "plcoffee": "functions in CoffeeScript",
    "plls": "functions in LiveScript",
    "plpgsql_check": "checks of functions",
    "plv8": "functions in JavaScript",
    "postgis": "geometry",
    "postgis_raster": "rasters",
    "postgis_sfcgal": "geometry in three dimensions",
    "postgis_tiger_geocoder": "addresses",
    "postgis_topology": "topology",
    "rum": "indexes of kind rum",
    "supabase_vault": "secrets (schema vault)",
    "timescaledb": "time series",
    "uuid-ossp": "uuid_generate_v1, v3 and v5; uuid_generate_v4 and uuid_nil are available",
    "wrappers": "foreign data",
}
"""Supabase extensions that the local server's PostgreSQL lacks, and the feature each provides."""
