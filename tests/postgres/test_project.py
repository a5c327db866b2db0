"""A Supabase project on the local server: migrations, seed, settings, and what migrations refer to."""

import hmac
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from supawire.errors import InvalidArgumentError, StateError
from supawire.server import LocalServer
from supawire.server.postgres import preflight
from supawire.server.postgres.project import read_project

pytestmark = pytest.mark.slow

Files = dict[str, str]
Make = Callable[[Files], Path]
SECRET = "a-secret-of-a-project-with-more-than-32-bytes"


@pytest.fixture
def project(tmp_path: Path) -> Make:
    """Writes the files of a project; returns the path of its folder."""

    def make(files: Files) -> Path:
        (tmp_path / "supabase" / "migrations").mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (tmp_path / "supabase" / name).write_text(text, encoding="utf-8")
        return tmp_path

    return make


FIRST = """
create extension if not exists "uuid-ossp" with schema extensions;
create extension if not exists "pg_net" with schema extensions;
create extension if not exists citext with schema extensions;
comment on extension "pg_net" is 'requests';
create table public.profiles (
  id uuid primary key references auth.users on delete cascade,
  token uuid default uuid_generate_v4(),
  name citext not null
);
alter table public.profiles enable row level security;
create policy "own profile" on public.profiles for select to authenticated using ((select auth.uid()) = id);

create function public.handle_new_user() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into public.profiles (id, name) values (new.id, new.raw_user_meta_data ->> 'name');
  return new;
end;
$$;
create trigger on_auth_user_created after insert on auth.users
  for each row execute procedure public.handle_new_user();
alter table public.profiles owner to supabase_admin;
grant all on public.profiles to authenticator;
"""
SECOND = """
begin;
drop publication if exists supabase_realtime;
create publication supabase_realtime;
commit;
alter publication supabase_realtime add table public.profiles;
insert into storage.buckets (id, name, public) values ('avatars', 'avatars', true);
create policy "own avatars" on storage.objects for insert to authenticated
  with check (bucket_id = 'avatars' and (storage.foldername(name))[1] = auth.uid()::text);
select pg_catalog.set_config('search_path', '', false);
"""
SEED = """
insert into auth.users (id, email, encrypted_password, raw_user_meta_data, email_confirmed_at)
values ('00000000-0000-0000-0000-00000000000a', 'ada@example.com', crypt('hunter2', gen_salt('bf')),
        '{"name": "Ada; the first"}', now());
insert into auth.identities (provider_id, user_id, identity_data, provider)
select id::text, id, jsonb_build_object('sub', id, 'email', email), 'email' from auth.users;
"""
CONFIG = f"""
project_id = "demo"
[api]
schemas = ["public", "graphql_public"]
[db]
major_version = 17
[realtime]
enabled = true
[auth]
jwt_expiry = 60
jwt_secret = "{SECRET}"
"""


def test_migrations_and_seeds_run_in_order(project: Make, caplog: pytest.LogCaptureFixture):
    """An extension that is missing is skipped with a warning that names it."""
    path = project({
        "migrations/20240102000000_second.sql": SECOND,
        "migrations/20240101000000_first.sql": FIRST,
        "migrations/notes.sql": "this is never run",
        "seed.sql": SEED,
        "config.toml": CONFIG,
    })  # fmt: skip
    with caplog.at_level(logging.WARNING), LocalServer(project=path) as server:
        assert server.secret == SECRET
        ((name, confirmed, right),) = server.sql(
            "select name::text, confirmed_at is not null, crypt('hunter2', encrypted_password) = encrypted_password "
            "from profiles join auth.users using (id)"
        )
        assert (name, confirmed, right) == ("Ada; the first", True, True)
        assert server.sql("select tablename from pg_publication_tables where pubname = 'supabase_realtime'") == [
            ("profiles",)
        ]
        assert server.sql("select count(*) from auth.identities where email = 'ada@example.com'") == [(1,)]
    logged = [record.getMessage() for record in caplog.records]
    assert any("20240101000000_first.sql, line 3: the extension pg_net is not available" in text for text in logged)
    assert sum("pg_net" in text for text in logged) == 1
    assert any("migrations/notes.sql is not run" in text for text in logged)
    assert any("db.major_version is 17" in text for text in logged)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"migrations/1_a.sql": "select 1;\n\nselect\n  no_such_column;"},
         'supabase/migrations/1_a.sql, line 4: column "no_such_column" does not exist (in: select …)'),
        ({"migrations/1_a.sql": "create table t (a int);\ninsert into t values ('secret-value');"},
         "supabase/migrations/1_a.sql, line 2: invalid input syntax for type integer"),
        ({"seed.sql": "select 1;\nselec 2;"}, 'supabase/seed.sql, line 2: syntax error at or near "selec"'),
        ({"migrations/1_a.sql": "\\connect other\nselect 1;"}, "line 1: a command of psql"),
        ({"seed.sql": "\n\nCOPY public.t (a) FROM stdin;\n1\n\\.\n"}, "seed.sql, line 3: COPY … FROM stdin"),
        ({"migrations/1_a.sql": "select 1;\nvacuum"}, "line 2: VACUUM cannot run inside a transaction block"),
        ({"migrations/1_a.sql": "create extension no_such_extension;"}, 'extension "no_such_extension" is not'),
    ],
)  # fmt: skip
def test_a_failed_statement_is_named_by_file_and_line(project: Make, files: Files, says: str):
    """The error also has the first words of the statement."""
    with pytest.raises(StateError) as caught:
        LocalServer(project=project(files)).start()
    assert says in str(caught.value)


def test_a_missing_function_of_an_extension_is_explained(project: Make):
    """The hint names the skipped extension."""
    text = "create extension pg_cron;\nselect cron.schedule('a', '* * * * *', 'select 1');"
    with pytest.raises(StateError, match=r"line 2: schema \"cron\" does not exist") as caught:
        LocalServer(project=project({"migrations/1_a.sql": text})).start()
    assert "pg_cron" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("[realtime]\nenabled = false", "realtime.enabled is false"),
        ("[realtime]\nenabled = 1", "realtime.enabled must be true or false"),
        ("realtime = 1", "realtime must be a table"),
        ("[auth]\njwt_expiry = '1'", "auth.jwt_expiry must be a positive whole number"),
        ("[auth]\njwt_secret = 'short'", "auth.jwt_secret must have at least 32 bytes"),
        ("[auth]\njwt_secret = 'env(SUPAWIRE_TEST_NOT_SET)'", "SUPAWIRE_TEST_NOT_SET, which is not set"),
        ("[api]\nschemas = 'public'", "api.schemas must be a list of texts"),
        ("[db.seed]\nsql_paths = ['./nothing.sql']", "db.seed.sql_paths names './nothing.sql'"),
        ("[", "supabase/config.toml cannot be read"),
    ],
)
def test_an_invalid_configuration_is_refused_by_the_constructor(project: Make, config: str, says: str):
    """The error names the setting in `config.toml`, and never its value."""
    with pytest.raises(StateError) as caught:
        LocalServer(project=project({"config.toml": config}))
    assert says in str(caught.value)


def test_settings_of_a_project_are_read(project: Make, monkeypatch: pytest.MonkeyPatch):
    """Seeds by pattern, switches, environment variables, and lifetimes of tokens."""
    monkeypatch.setenv("SUPAWIRE_TEST_SECRET", SECRET)
    path = project({
        "config.toml": "[db.migrations]\nenabled = false\n[db.seed]\nsql_paths = ['./b.sql', 'a*.sql']\n"
        "[auth]\njwt_secret = 'env(SUPAWIRE_TEST_SECRET)'\njwt_expiry = 60",
        "b.sql": "", "a2.sql": "", "a1.sql": "", "migrations/1_a.sql": "select 1",
    })  # fmt: skip
    found = read_project(path)
    assert found == read_project(path / "supabase")
    assert [file.name for file in found.seeds] == ["b.sql", "a1.sql", "a2.sql"]
    assert (found.migrations, found.jwt_secret, found.jwt_expiry) == ((), SECRET, 60)
    assert SECRET not in repr(found)
    assert read_project(project({"config.toml": "[db.seed]\nenabled = false"})).seeds == ()


def test_an_invalid_project_is_refused(project: Make, tmp_path: Path):
    """A folder without `supabase`, two migrations with one version, another database, a wrong type."""
    with pytest.raises(StateError, match="there is no folder supabase"):
        LocalServer(project=tmp_path)
    path = project({"migrations/1_a.sql": "", "migrations/1_b.sql": ""})
    with pytest.raises(StateError, match=r"two files of version 1: 1_a\.sql and 1_b\.sql"):
        LocalServer(project=path)
    with pytest.raises(InvalidArgumentError, match="give one of them"):
        LocalServer(project=path, database="postgresql://127.0.0.1/x")
    with pytest.raises(InvalidArgumentError, match="must be the path of a folder, not int"):
        LocalServer(project=1)  # pyright: ignore[reportArgumentType]
    (path / "supabase" / "seed.sql").write_bytes(b"select 1;\n\xff")
    (path / "supabase" / "migrations" / "1_b.sql").unlink()
    with pytest.raises(StateError, match=r"supabase/seed.sql, line 2: the file is not UTF-8"):
        LocalServer(project=path).start()


@pytest.fixture
def furnished(database: str) -> str:
    """A database with the schemas and functions that migrations refer to."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(preflight.text("supabase.sql"))
        connection.execute(preflight.text("supabase.sql"))  # it may run again
    return database


def one(sql: "psycopg.Connection[Any]", text: str) -> Any:
    """Return the only value of the only row."""
    row = sql.execute(text.encode()).fetchone()
    assert row is not None
    return row[0]


def test_replacements_of_extension_functions_return_the_same(furnished: str):
    """digest and hmac as in RFC 6234 and RFC 4231; random values are random and long enough."""
    with psycopg.connect(furnished, autocommit=True) as sql:
        assert one(sql, "select encode(extensions.digest('abc', 'sha256'), 'hex')") == (
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        )
        assert one(sql, "select encode(extensions.hmac('what do ya want for nothing?', 'Jefe', 'sha256'), 'hex')") == (
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        )
        assert one(sql, "select encode(extensions.hmac('data', repeat('k', 200), 'sha512'), 'hex')") == (
            hmac.new(b"k" * 200, b"data", "sha512").hexdigest()
        )
        assert one(sql, "select length(extensions.gen_random_bytes(1024))") == 1024
        assert one(sql, "select extensions.uuid_generate_v4() <> extensions.uuid_generate_v4()") is True
        with pytest.raises(psycopg.Error, match="digest whirlpool is not available"):
            sql.execute("select extensions.digest('a', 'whirlpool')")
        with pytest.raises(psycopg.Error, match="only salts that gen_salt"):
            sql.execute("select extensions.crypt('a', '$2a$06$abc')")


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_client_roles_cannot_read_the_auth_schema(furnished: str, role: str):
    """The roles of clients have no privileges on its tables."""
    with psycopg.connect(furnished, autocommit=True) as sql:
        sql.execute(f"set role {role}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            sql.execute("select from auth.users")
