"""Extensions of Supabase that the PostgreSQL of the local server does not have, and what to do instead.

A module of its own, as the pages about them are made without the extra `postgres`.
"""

from typing import Final

LACKING: Final = {
    "http": "requests from SQL",
    "hypopg": "hypothetical indexes",
    "index_advisor": "advice on indexes",
    "pg_cron": "jobs by the clock (schema cron)",
    "pg_graphql": "GraphQL (schema graphql)",
    "pg_hashids": "short ids",
    "pg_jsonschema": "checks of JSON schemas",
    "pg_net": "requests from SQL (schema net)",
    "pg_partman": "kept partitions",
    "pg_plan_filter": "refused plans",
    "pg_repack": "tables made anew",
    "pg_tle": "extensions from packages",
    "pgaudit": "an audit log",
    "pgcrypto": "pgp_* and encrypt*; digest, hmac, gen_random_bytes, crypt and gen_salt are there, see the page",
    "pgjwt": "tokens made in SQL",
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
    "uuid-ossp": "uuid_generate_v1, v3 and v5; uuid_generate_v4 and uuid_nil are there",
    "wrappers": "foreign data",
}
"""Supabase extensions that the local server's PostgreSQL lacks, and the feature each provides."""
