-- What a project of Supabase begins with, and a database of your own does not: the roles of clients may use every table
-- that the owner makes in `public`, and row level security is what keeps rows apart. Only for a cluster of ours.
grant all on all tables in schema public to anon, authenticated, service_role;
grant all on all routines in schema public to anon, authenticated, service_role;
grant all on all sequences in schema public to anon, authenticated, service_role;
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on routines to anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
