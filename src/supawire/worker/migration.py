"""The migration that `supawire worker init` writes: the side table for jobs, and an index for each table of jobs.

Every statement can be run again. `REQUIRED` is what the worker needs; a later version adds columns with a default.
"""

from collections.abc import Iterable
from typing import Final

REQUIRED: Final = (
    "id", "source", "key", "group_key", "state", "attempts", "claims", "claimed", "visible_at", "holder", "last_error",
    "created_at", "claimed_at", "finished_at",
)  # fmt: skip

_JOBS: Final = """create schema if not exists {schema};

-- one row for each job in hand, done or dead; see docs/worker.md
create table if not exists {schema}.jobs (
  id bigint generated always as identity primary key,
  source text not null,
  key text[] not null,
  group_key text,
  state text not null check (state in ('running', 'waiting', 'done', 'dead')),
  attempts integer not null default 1,
  claims integer not null default 1,
  claimed jsonb not null default '{{}}',
  visible_at timestamptz not null,
  holder text,
  last_error text,
  created_at timestamptz not null default now(),
  claimed_at timestamptz not null default now(),
  finished_at timestamptz
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
create unique index if not exists jobs_in_hand on {schema}.jobs (source, key)
  where state in ('running', 'waiting');
create unique index if not exists jobs_ordered on {schema}.jobs (source, group_key)
  where state in ('running', 'waiting') and group_key is not null;
create index if not exists jobs_due on {schema}.jobs (source, visible_at)
  where state in ('running', 'waiting');
create index if not exists jobs_done on {schema}.jobs (source, finished_at) where state = 'done';
"""


def migration(schema: str | None, more: Iterable[str] = ()) -> str:
    """Return the migration as SQL.

    schema: of the side table, quoted; None: without it. more: statements of the sources.
    """
    side_table = [] if schema is None else [_JOBS.format(schema=schema)]
    parts = ["-- written by `supawire worker init`; it may be run again", *side_table, *more]
    return "\n".join(part.rstrip() for part in parts) + "\n"
