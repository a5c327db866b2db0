-- What a Supabase project has besides Realtime, so that its migrations run: roles, the schemas `extensions`, `auth` and
-- `storage` with the tables that migrations refer to, and replacements for functions of two extensions. Only for embedded
-- clusters. It can be run repeatedly.

do $$
declare
  wanted constant text[] := array[
    'authenticator', 'dashboard_user', 'pgbouncer', 'supabase_admin', 'supabase_auth_admin', 'supabase_etl_admin',
    'supabase_read_only_user', 'supabase_realtime_admin', 'supabase_replication_admin', 'supabase_storage_admin'];
  role text;
begin
  foreach role in array wanted loop
    if not exists (select from pg_roles where rolname = role) then
      begin
        execute format('create role %I nologin noinherit', role);
      exception when duplicate_object or unique_violation then
        null;
      end;
    end if;
  end loop;
  -- roles belong to the whole cluster, and two databases may be prepared at the same time
  perform pg_advisory_xact_lock(7320118);
  grant anon, authenticated, service_role to authenticator;
end
$$;

create schema if not exists extensions;
grant usage on schema extensions to public;

do $$
begin
  execute format('alter database %I set search_path = "$user", public, extensions', current_database());
end
$$;

-- Functions of uuid-ossp and pgcrypto, which the wheel does not contain. crypt() returns a format of its own, which other
-- programs cannot read; crypt(password, stored) = stored is true, as with the real one.

create or replace function extensions.uuid_generate_v4() returns uuid
language sql volatile parallel safe as 'select gen_random_uuid()';

create or replace function extensions.uuid_nil() returns uuid
language sql immutable parallel safe as $$select '00000000-0000-0000-0000-000000000000'::uuid$$;

create or replace function extensions.gen_random_uuid() returns uuid
language sql volatile parallel safe as 'select pg_catalog.gen_random_uuid()';

create or replace function extensions.gen_random_bytes(size integer) returns bytea
language plpgsql volatile parallel safe as $$
declare
  made bytea := '';
begin
  if size not between 1 and 1024 then
    raise exception 'Length not in range';
  end if;
  -- the first six bytes of a random uuid have no fixed bits
  while length(made) < size loop
    made := made || substr(uuid_send(pg_catalog.gen_random_uuid()), 1, 6);
  end loop;
  return substr(made, 1, size);
end
$$;

create or replace function extensions.digest(data bytea, type text) returns bytea
language plpgsql immutable strict parallel safe as $$
begin
  case lower(type)
    when 'md5' then return decode(md5(data), 'hex');
    when 'sha224' then return sha224(data);
    when 'sha256' then return sha256(data);
    when 'sha384' then return sha384(data);
    when 'sha512' then return sha512(data);
    else raise exception 'digest % is not available in the local server, which has md5, sha224, sha256, sha384 and sha512', type;
  end case;
end
$$;

create or replace function extensions.digest(data text, type text) returns bytea
language sql immutable strict parallel safe as $$select extensions.digest(convert_to(data, 'UTF8'), type)$$;

create or replace function extensions.hmac(data bytea, key bytea, type text) returns bytea
language plpgsql immutable strict parallel safe as $$
declare
  block constant integer := case when lower(type) in ('sha384', 'sha512') then 128 else 64 end;
  padded bytea := case when length(key) > block then extensions.digest(key, type) else key end;
  inner_key bytea := '';
  outer_key bytea := '';
  byte integer;
begin
  for place in 0 .. block - 1 loop
    byte := case when place < length(padded) then get_byte(padded, place) else 0 end;
    inner_key := inner_key || set_byte('\x00'::bytea, 0, byte # 54);
    outer_key := outer_key || set_byte('\x00'::bytea, 0, byte # 92);
  end loop;
  return extensions.digest(outer_key || extensions.digest(inner_key || data, type), type);
end
$$;

create or replace function extensions.hmac(data text, key text, type text) returns bytea
language sql immutable strict parallel safe as
$$select extensions.hmac(convert_to(data, 'UTF8'), convert_to(key, 'UTF8'), type)$$;

create or replace function extensions.gen_salt(type text, rounds integer default null) returns text
language sql volatile parallel safe as
$$select '$supawire$' || encode(extensions.gen_random_bytes(12), 'hex') || '$'$$;

create or replace function extensions.crypt(password text, salt text) returns text
language plpgsql immutable strict parallel safe as $$
declare
  head constant text := substring(salt from '^\$supawire\$[0-9a-f]{24}\$');
begin
  if head is null then
    raise exception 'crypt() of the local server accepts only salts that gen_salt() created here';
  end if;
  return head || encode(sha256(convert_to(head || password, 'UTF8')), 'hex');
end
$$;

grant execute on all functions in schema extensions to public;

-- Users. schema.sql creates auth.jwt(), auth.uid(), auth.role() and auth.email().

create table if not exists auth.users (
  instance_id uuid,
  id uuid primary key,
  aud varchar(255),
  role varchar(255),
  email varchar(255),
  encrypted_password varchar(255),
  email_confirmed_at timestamptz,
  invited_at timestamptz,
  confirmation_token varchar(255),
  confirmation_sent_at timestamptz,
  recovery_token varchar(255),
  recovery_sent_at timestamptz,
  email_change_token_new varchar(255),
  email_change varchar(255),
  email_change_sent_at timestamptz,
  last_sign_in_at timestamptz,
  raw_app_meta_data jsonb,
  raw_user_meta_data jsonb,
  is_super_admin boolean,
  created_at timestamptz,
  updated_at timestamptz,
  phone text unique default null,
  phone_confirmed_at timestamptz,
  phone_change text default '',
  phone_change_token varchar(255) default '',
  phone_change_sent_at timestamptz,
  confirmed_at timestamptz generated always as (least(email_confirmed_at, phone_confirmed_at)) stored,
  email_change_token_current varchar(255) default '',
  email_change_confirm_status smallint default 0 check (email_change_confirm_status between 0 and 2),
  banned_until timestamptz,
  reauthentication_token varchar(255) default '',
  reauthentication_sent_at timestamptz,
  is_sso_user boolean not null default false,
  deleted_at timestamptz,
  is_anonymous boolean not null default false
);
create unique index if not exists users_email_partial_key on auth.users (email) where not is_sso_user;

create table if not exists auth.identities (
  provider_id text not null,
  user_id uuid not null references auth.users on delete cascade,
  identity_data jsonb not null,
  provider text not null,
  last_sign_in_at timestamptz,
  created_at timestamptz,
  updated_at timestamptz,
  email text generated always as (lower(identity_data ->> 'email')) stored,
  id uuid primary key default gen_random_uuid(),
  unique (provider_id, provider)
);

create table if not exists auth.sessions (
  id uuid primary key,
  user_id uuid not null references auth.users on delete cascade,
  created_at timestamptz,
  updated_at timestamptz,
  factor_id uuid,
  not_after timestamptz,
  refreshed_at timestamp,
  user_agent text,
  ip inet,
  tag text
);

alter table auth.users enable row level security;
alter table auth.identities enable row level security;
alter table auth.sessions enable row level security;
grant all on auth.users, auth.identities, auth.sessions to supabase_auth_admin, dashboard_user;
grant usage on schema auth to supabase_auth_admin, dashboard_user;

-- Files: the tables that policies and seeds refer to. No service delivers files.

create schema if not exists storage;
grant usage on schema storage to anon, authenticated, service_role, supabase_storage_admin;

create table if not exists storage.buckets (
  id text primary key,
  name text not null unique,
  owner uuid,
  created_at timestamptz default now(),
  updated_at timestamptz default now(),
  public boolean default false,
  avif_autodetection boolean default false,
  file_size_limit bigint,
  allowed_mime_types text[],
  owner_id text
);

create table if not exists storage.objects (
  id uuid primary key default gen_random_uuid(),
  bucket_id text references storage.buckets,
  name text,
  owner uuid,
  created_at timestamptz default now(),
  updated_at timestamptz default now(),
  last_accessed_at timestamptz default now(),
  metadata jsonb,
  path_tokens text[] generated always as (string_to_array(name, '/')) stored,
  version text,
  owner_id text,
  user_metadata jsonb,
  unique (bucket_id, name)
);

create or replace function storage.foldername(name text) returns text[]
language sql immutable as $$
  select parts[1 : cardinality(parts) - 1] from (select string_to_array(name, '/') as parts) as split
$$;
create or replace function storage.filename(name text) returns text
language sql immutable as $$select parts[cardinality(parts)] from (select string_to_array(name, '/') as parts) as split$$;
create or replace function storage.extension(name text) returns text
language sql immutable as $$select nullif(substring(storage.filename(name) from '\.([^.]*)$'), '')$$;

alter table storage.buckets enable row level security;
alter table storage.objects enable row level security;
grant all on storage.buckets, storage.objects to anon, authenticated, service_role, supabase_storage_admin;
