-- What the local server needs in a database: roles, the schema `realtime`, publications. See docs/protocol.md.
--
-- It can be run repeatedly. Existing objects are not changed: `prepare` in preflight.py does not run it when there is a
-- schema `realtime` that this library did not create.

-- Roles. They cannot log in: the server switches to the role of a token. Roles belong to the whole cluster, so the
-- preparation of another database may create them at the same time.

do $$
declare
  wanted constant text[] := array['anon', 'authenticated', 'service_role'];
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
    -- the server can switch only to roles of which its own role is a member
    if not pg_has_role(current_user, role, 'member') then
      execute format('grant %I to current_user', role);
    end if;
  end loop;
  -- only a superuser can grant this
  if (select rolsuper from pg_roles where rolname = current_user) then
    alter role service_role bypassrls;
  end if;
end
$$;

grant usage on schema public to anon, authenticated, service_role;

-- Messages sent by the database functions, with one partition for each day.

create schema if not exists realtime;
comment on schema realtime is 'supawire';
grant usage on schema realtime to anon, authenticated, service_role;

create table if not exists realtime.messages (
  id uuid not null default gen_random_uuid(),
  topic text not null,
  extension text not null,
  event text,
  payload jsonb,
  binary_payload bytea,
  private boolean not null default false,
  inserted_at timestamp not null default (now() at time zone 'utc'),
  updated_at timestamp not null default (now() at time zone 'utc'),
  skip_broadcast boolean not null default false,
  expires_at timestamp,
  primary key (id, inserted_at)
) partition by range (inserted_at);

-- For broadcasts that clients asked to store; a schema that was made before has neither column.
alter table realtime.messages
  add column if not exists skip_broadcast boolean not null default false,
  add column if not exists expires_at timestamp;

create index if not exists messages_replay on realtime.messages (topic, inserted_at desc)
  where private and extension = 'broadcast';

alter table realtime.messages enable row level security;
grant select, insert, update on realtime.messages to anon, authenticated, service_role;

-- Create partitions from yesterday to the day after tomorrow; drop those that ended three days ago.
create or replace function realtime.keep_partitions() returns void
language plpgsql set search_path = '' as $$
declare
  today constant date := (now() at time zone 'utc')::date;
  made record;
  day date;
begin
  perform pg_advisory_xact_lock(hashtext('supawire partitions'));
  for day in select generate_series(today - 1, today + 2, interval '1 day')::date loop
    execute format(
      'create table if not exists realtime.%I partition of realtime.messages for values from (%L) to (%L)',
      'messages_' || to_char(day, 'YYYY_MM_DD'), day, day + 1);
  end loop;
  for made in
    select child.oid::regclass as part, to_date(right(child.relname, 10), 'YYYY_MM_DD') as day
    from pg_inherits join pg_class child on child.oid = inhrelid
    where inhparent = 'realtime.messages'::regclass and child.relname ~ '^messages_\d{4}_\d\d_\d\d$'
  loop
    if made.day < today - 3 then
      execute format('drop table %s', made.part);
    end if;
  end loop;
end
$$;
revoke execute on function realtime.keep_partitions() from public;

select realtime.keep_partitions();

-- The topic for which a policy on realtime.messages is evaluated.
create or replace function realtime.topic() returns text
language sql stable as $$
  select nullif(current_setting('realtime.topic', true), '')
$$;

-- Sending. Errors become warnings, so the transaction that sends continues.

create or replace function realtime.send(payload jsonb, event text, topic text, private boolean default true)
returns void language plpgsql as $$
declare
  message uuid := gen_random_uuid();
begin
  if jsonb_typeof(payload) is distinct from 'object' then
    raise exception 'the payload must be a JSON object';
  end if;
  perform set_config('realtime.topic', topic, true);
  insert into realtime.messages (id, topic, extension, event, payload, private)
    values (message, topic, 'broadcast', event, jsonb_build_object('id', message) || payload, private);
exception when others then
  raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
end
$$;

create or replace function realtime.send_binary(payload bytea, event text, topic text, private boolean default true)
returns void language plpgsql as $$
begin
  if payload is null then
    raise exception 'the payload must not be null';
  end if;
  perform set_config('realtime.topic', topic, true);
  insert into realtime.messages (topic, extension, event, binary_payload, private)
    values (topic, 'broadcast', event, payload, private);
exception when others then
  raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
end
$$;

-- For row triggers: the change as a private message.
create or replace function realtime.broadcast_changes(
  topic_name text, event_name text, operation text, table_name text, table_schema text,
  new record, old record, level text default 'ROW')
returns void language plpgsql as $$
begin
  if level <> 'ROW' then
    raise exception 'realtime.broadcast_changes needs a trigger for each row, not for each %', lower(level);
  end if;
  perform realtime.send(
    jsonb_build_object(
      'operation', operation, 'schema', table_schema, 'table', table_name,
      'record', to_jsonb(new), 'old_record', to_jsonb(old)),
    event_name, topic_name, true);
end
$$;

grant execute on all functions in schema realtime to anon, authenticated, service_role;
revoke execute on function realtime.keep_partitions() from anon, authenticated, service_role;

-- The claims of the token, for policies. A project may have its own functions.

create schema if not exists auth;
grant usage on schema auth to anon, authenticated, service_role;

do $$
begin
  if to_regprocedure('auth.jwt()') is null then
    create function auth.jwt() returns jsonb language sql stable as
      'select nullif(current_setting(''request.jwt.claims'', true), '''')::jsonb';
  end if;
  if to_regprocedure('auth.uid()') is null then
    create function auth.uid() returns uuid language sql stable as
      'select nullif(auth.jwt() ->> ''sub'', '''')::uuid';
  end if;
  if to_regprocedure('auth.role()') is null then
    create function auth.role() returns text language sql stable as 'select auth.jwt() ->> ''role''';
  end if;
  if to_regprocedure('auth.email()') is null then
    create function auth.email() returns text language sql stable as 'select auth.jwt() ->> ''email''';
  end if;
end
$$;

-- Publications: one for the tables that users add, and one for the messages.

do $$
begin
  if not exists (select from pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
  end if;
  if not exists (select from pg_publication where pubname = 'supabase_realtime_messages_publication') then
    create publication supabase_realtime_messages_publication for table realtime.messages
      with (publish = 'insert', publish_via_partition_root = true);
  end if;
end
$$;
