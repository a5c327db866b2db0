"""Everything that doctor can find, as one table; and the steps, in order.

A row has what is wrong, what to do and, where there is one, the SQL to run. Names in braces are filled in from facts.
Errors that the server answers are not in this table: their texts are those of `_server_errors.py`.
"""

from typing import Final

from msgspec import Struct

from supawire.doctor.report import Finding, Outcome
from supawire.errors import DOCS_URL

FAIL, WARN = Outcome.FAIL, Outcome.WARN


class Check(Struct, frozen=True):
    """A step: its name, its title, and what it examines."""

    name: str
    title: str
    examines: str


class Problem(Struct, frozen=True):
    """One row: the step that finds it, its weight, and the texts. docs: the section in the hosted pages."""

    step: str
    name: str
    outcome: Outcome
    says: str
    remedy: str
    sql: str | None = None
    docs: str | None = None

    def found(self, **values: object) -> Finding:
        """Return the finding with these values in its texts."""
        return Finding(
            self.name,
            self.outcome,
            self.says.format(**values),
            self.remedy.format(**values),
            None if self.sql is None else self.sql.format(**values),
            None if self.docs is None else DOCS_URL + self.docs,
        )


CHECKS: Final = (
    Check("url", "URL", "The form of the URL."),
    Check("dns", "DNS", "The host name has an address."),
    Check("tcp", "TCP", "A connection to the port can be opened."),
    Check("tls", "TLS", "The certificate is trusted, is for this host, and has not expired."),
    Check("proxy", "proxy", "A proxy that the environment names, and the one given."),
    Check("http", "HTTP", "The HTTP interface answers."),
    Check("handshake", "WebSocket", "The server accepts a WebSocket with the key."),
    Check("key", "key", "The kind of the key, its project, role and expiry."),
    Check("token", "token", "The claims and the expiry of the token."),
    Check("clock", "clock", "The clock of this machine agrees with that of the server."),
    Check("public-join", "public channel", "A channel with a topic of its own can be joined."),
    Check("presence", "presence", "An entry that is tracked there comes back."),
    Check("broadcast", "broadcast", "A broadcast sent there is confirmed and comes back."),
    Check("publish", "HTTP publish", "A message sent by HTTP arrives there."),
    Check("private-join", "private channel", "The given topic can be joined as a private channel."),
    Check("changes", "changes", "The server confirms that changes of the given table are live."),
    Check("database", "database", "The database can be reached, and belongs to the same project."),
    Check("wal", "WAL and slots", "The WAL level, free replication slots, and slots that lag behind."),
    Check("schema", "schema realtime", "The migrations of the Realtime server have run, and today's partition exists."),
    Check("table", "table", "The table exists, can be published, and has a primary key."),
    Check("publication", "publication", "The publication exists and contains the table and its operations."),
    Check("identity", "replica identity", "What updates and deletes contain of the old row, for filters and keys."),
    Check("grants", "privileges", "The role of the token may read the schema, the table and its key."),
    Check("filter", "filter", "The server accepts the filter for the columns of the table."),
    Check("rows", "row security", "The policies of the table, evaluated as the role with its claims."),
    Check(
        "policies", "channel policies", "The policies on realtime.messages for the topic, by extension, read and write."
    ),
)
"""All steps in order."""

_PUBLISH: Final = "alter publication supabase_realtime add table {table};"
_SIGN_IN: Final = "Create a policy for this role, or pass the token of a signed-in user."

PROBLEMS: Final = (
    # --- network
    Problem(
        "url",
        "url-invalid",
        FAIL,
        "The URL cannot be used: {reason}.",
        "{hint}",
    ),
    Problem(
        "url",
        "url-not-encrypted",
        WARN,
        "The URL begins with {scheme}://, so key, token and messages are sent to {host} unencrypted.",
        "Write https:// instead.",
    ),
    Problem(
        "dns",
        "dns-unknown",
        FAIL,
        "The host name {host} has no address.",
        "Check the host name in the URL.",
    ),
    Problem(
        "dns",
        "dns-no-project",
        FAIL,
        "The host name {host} has no address, so there is no running project with this reference.",
        "Copy the project's URL from the dashboard; a project that was paused for long has to be restored there.",
    ),
    Problem(
        "dns",
        "dns-no-answer",
        FAIL,
        "The name server did not answer within {seconds:.1f} s.",
        "Check this machine's network connection and its name server.",
    ),
    Problem(
        "tcp",
        "tcp-refused",
        FAIL,
        "No program listens at {address}.",
        "Start the server, or correct host and port in the URL.",
    ),
    Problem(
        "tcp",
        "tcp-no-answer",
        FAIL,
        "{address} did not answer within {seconds:.1f} s.",
        "Check host and port, and whether a firewall blocks the connection.",
    ),
    Problem(
        "tcp",
        "tcp-failed",
        FAIL,
        "No connection to {address} could be opened: {reason}.",
        "Check this machine's network connection, and host and port in the URL.",
    ),
    Problem(
        "tls",
        "tls-expired",
        FAIL,
        "The certificate of {host} has expired.",
        "Renew the certificate; if it is valid elsewhere, correct the clock of this machine.",
    ),
    Problem(
        "tls",
        "tls-not-yet-valid",
        FAIL,
        "The certificate of {host} is not valid yet.",
        "Correct the clock of this machine, or the certificate.",
    ),
    Problem(
        "tls",
        "tls-other-name",
        FAIL,
        "The certificate is not for {host}.",
        "Use the host name that the certificate names, or pass it as host=.",
    ),
    Problem(
        "tls",
        "tls-untrusted",
        FAIL,
        "The certificate of {host} was issued by an authority that this machine does not trust: {reason}.",
        "Pass ssl=ssl.create_default_context(cafile=…) with the certificate of your authority (--ca-file here).",
    ),
    Problem(
        "tls",
        "tls-plain",
        FAIL,
        "{address} answers without TLS.",
        "Write http:// instead of https:// in the URL, or use the port for TLS.",
    ),
    Problem(
        "tls",
        "tls-failed",
        FAIL,
        "The TLS handshake with {address} failed: {reason}.",
        "Check that the port is one for TLS, and proxies in between.",
    ),
    Problem(
        "tls",
        "tls-no-answer",
        FAIL,
        "{address} did not answer the TLS handshake within {seconds:.1f} s.",
        "Check that the port is one for TLS, and proxies in between.",
    ),
    Problem(
        "tls",
        "tls-expires-soon",
        WARN,
        "The certificate of {host} expires in {days:.1f} days.",
        "Renew the certificate.",
    ),
    Problem(
        "proxy",
        "proxy-not-used",
        WARN,
        "The environment names a proxy ({variable}), which supawire does not read, and the direct connection failed.",
        "Pass the proxy: connect(…, proxy=os.environ['{variable}']), or --proxy here.",
    ),
    Problem(
        "http",
        "http-paused",
        FAIL,
        "The project is paused (status {status}).",
        "Restore the project in the dashboard.",
    ),
    Problem(
        "http",
        "http-restricted",
        FAIL,
        "The project is restricted (status 402), for example because a quota is used up.",
        "See the project's usage and billing in the dashboard.",
    ),
    Problem(
        "http",
        "http-redirect",
        FAIL,
        "{address} answers with a redirect (status {status}) to {location}, which is not followed.",
        "Write the URL to which it redirects.",
    ),
    Problem(
        "http",
        "http-web-page",
        FAIL,
        "{address} answers with a web page (status {status}), so it is not a Realtime server.",
        "Pass the URL of the project or of the gateway's API, as in https://abc.supabase.co, not that of a website.",
    ),
    Problem(
        "http",
        "http-broken",
        FAIL,
        "The gateway at {address} answers with status {status}, so the server behind it does not run or is overloaded.",
        "Check the server behind the gateway; on the hosted platform check the project's status in the dashboard.",
    ),
    Problem(
        "http",
        "http-no-answer",
        FAIL,
        "{address} accepted the connection and did not answer a request within {seconds:.1f} s.",
        "Check that the port is that of the gateway, and that the server behind it runs.",
    ),
    Problem(
        "http",
        "http-failed",
        FAIL,
        "The request to {address} failed: {reason}.",
        "Check that the port is that of an HTTP server, and proxies in between.",
    ),
    Problem(
        "handshake",
        "upgrade-removed",
        FAIL,
        "The answer to the WebSocket handshake has status {status}: the request arrived without its Upgrade header.",
        "Configure the proxy in between to pass WebSockets (nginx: proxy_http_version 1.1, and the headers Upgrade and "
        "Connection).",
    ),
    Problem(
        "handshake",
        "websockets-blocked",
        FAIL,
        "A WebSocket cannot be opened ({reason}), but long polling works: something in between blocks WebSockets.",
        "Let the proxy in between pass WebSockets, or use long polling: connect(…, fallback='longpoll').",
    ),
    Problem(
        "handshake",
        "handshake-redirect",
        FAIL,
        "The WebSocket handshake is answered with a redirect (status {status}), which is not followed.",
        "Write the URL to which it redirects, usually with https://.",
    ),
    Problem(
        "handshake",
        "handshake-failed",
        FAIL,
        "The WebSocket handshake failed: {reason}.",
        "Check proxies and gateways in between, and that the server runs.",
    ),
    Problem(
        "handshake",
        "handshake-no-answer",
        FAIL,
        "The WebSocket handshake was not answered within {seconds:.1f} s.",
        "Check proxies in between; a server holds refusals back for 2 s, so try a longer timeout.",
    ),
    # --- key and token
    Problem(
        "key",
        "key-cut",
        FAIL,
        "The key is incomplete: its end is missing.",
        "Copy the whole key from the project's settings.",
    ),
    Problem(
        "key",
        "key-damaged",
        FAIL,
        "The key cannot be used: {reason}.",
        "Copy the key from the project's settings again, completely and without blanks and quotation marks.",
    ),
    Problem(
        "key",
        "key-not-a-key",
        FAIL,
        "The key is neither a JWT nor an sb_ key; it looks like another secret, such as the JWT secret or a password.",
        "Pass the anon or publishable key; keep the JWT secret on the server, and replace it if it was published.",
    ),
    Problem(
        "key",
        "key-unusual",
        WARN,
        "The key is neither a JWT nor an sb_ key, although the server accepts it.",
        "Pass the anon or publishable key of the project if channels cannot be joined.",
    ),
    Problem(
        "key",
        "key-other-project",
        FAIL,
        "The key belongs to the project {other}, and the URL to the project {project}.",
        "Take URL and key from the same project.",
    ),
    Problem(
        "key",
        "key-expired",
        FAIL,
        "The key expired at {at}.",
        "Copy the project's current key.",
        docs="errors.html#token-expired",
    ),
    Problem(
        "key",
        "key-claims",
        FAIL,
        "The key has no {missing} claim, so it is not an API key.",
        "Pass the anon or publishable key; a JWT of your own needs both a role and an exp claim.",
        docs="errors.html#token-claims",
    ),
    Problem(
        "token",
        "token-not-a-jwt",
        FAIL,
        "The token is not a JWT.",
        "Pass the access token of a signed-in user (not the refresh token), or leave the token out to use the key.",
        docs="errors.html#token-malformed",
    ),
    Problem(
        "token",
        "token-is-a-key",
        FAIL,
        "The token is an sb_ key, which the server does not accept as a token; the client does not send it.",
        "Pass it as the key, and leave the token out or pass that of a signed-in user.",
        docs="errors.html#token-malformed",
    ),
    Problem(
        "token",
        "token-cut",
        FAIL,
        "The token is incomplete: its end is missing.",
        "Pass the whole access token.",
        docs="errors.html#token-malformed",
    ),
    Problem(
        "token",
        "token-damaged",
        FAIL,
        "The token cannot be used: {reason}.",
        "Pass the whole access token, without blanks, quotation marks and the prefix Bearer.",
        docs="errors.html#token-malformed",
    ),
    Problem(
        "token",
        "token-claims",
        FAIL,
        "The token has no {missing} claim.",
        "Sign the token with both a role and an exp claim.",
        docs="errors.html#token-claims",
    ),
    Problem(
        "token",
        "token-expired",
        FAIL,
        "The token expired at {at}, {ago} ago.",
        "Pass a callable as token=, which the client calls for a fresh token; here pass a token that is valid.",
        docs="errors.html#token-expired",
    ),
    Problem(
        "token",
        "token-other-project",
        FAIL,
        "The token was issued by the project {other}, and the URL belongs to the project {project}.",
        "Sign in at the project of the URL.",
        docs="errors.html#token-signature",
    ),
    Problem(
        "token",
        "token-milliseconds",
        WARN,
        "The token expires in the year {year}: its exp claim seems to be in milliseconds.",
        "Sign tokens with exp in seconds since 1970.",
    ),
    Problem(
        "token",
        "token-subject",
        WARN,
        "The sub claim of the token is not a string, so private channels cannot be joined with it.",
        "Sign the token with a sub claim that is a string.",
    ),
    Problem(
        "token",
        "token-expires-soon",
        WARN,
        "The token expires in {seconds:.0f} s.",
        "Pass a callable as token=, which the client calls for a fresh token in time.",
        docs="errors.html#token-expired",
    ),
    Problem(
        "clock",
        "clock-skew",
        WARN,
        "The clock of this machine is {seconds:.0f} s {direction} that of the server.",
        "Synchronize the clocks (NTP); tokens would be refreshed at wrong times.",
    ),
    Problem(
        "clock",
        "clock-expiry",
        FAIL,
        "The clock of this machine is {seconds:.0f} s {direction} the server's, for which the {what} has expired.",
        "Synchronize the clocks (NTP).",
        docs="errors.html#token-expired",
    ),
    # --- channels
    Problem(
        "public-join",
        "public-refused",
        WARN,
        "The project allows private channels only, so public channels, presence and broadcasts were not tried.",
        "Open channels with private=True; --topic checks one.",
        docs="errors.html#private-only",
    ),
    Problem(
        "public-join",
        "join-no-answer",
        FAIL,
        "The join was not answered within {seconds:.1f} s.",
        "Repeat with a longer timeout, such as 15 s: the server holds refused joins back for 5 s, and starts the "
        "services of a project when they are first used.",
    ),
    Problem(
        "presence",
        "presence-no-entry",
        FAIL,
        "Presence was tracked and the entry did not come back within {seconds:.1f} s.",
        "Check that presence is enabled in the project's Realtime settings.",
    ),
    Problem(
        "broadcast",
        "broadcast-not-confirmed",
        FAIL,
        "A broadcast was neither confirmed nor delivered within {seconds:.1f} s.",
        "Check the server's log; on a loaded server repeat with a longer timeout.",
    ),
    Problem(
        "broadcast",
        "broadcast-not-delivered",
        FAIL,
        "A broadcast was confirmed and did not come back within {seconds:.1f} s.",
        "Check the server's log and, with several servers, that they form one cluster.",
    ),
    Problem(
        "publish",
        "publish-not-delivered",
        FAIL,
        "A message sent by HTTP was accepted and did not arrive within {seconds:.1f} s.",
        "Check that the HTTP interface and the WebSocket lead to the same server or cluster.",
    ),
    Problem(
        "publish",
        "publish-no-answer",
        FAIL,
        "A message sent by HTTP was not answered within {seconds:.1f} s.",
        "Check that the gateway passes …/api/broadcast to the server.",
    ),
    Problem(
        "private-join",
        "private-no-answer",
        FAIL,
        "The private join was not answered within {seconds:.1f} s.",
        "Repeat with a longer timeout, such as 15 s: the server holds refused joins back for 5 s. With a database URL, "
        "doctor evaluates the policies itself.",
    ),
    Problem(
        "changes",
        "changes-not-ready",
        WARN,
        "The server did not confirm within {seconds:.1f} s that changes of {table} are live.",
        "Repeat with a longer timeout, such as 15 s; if it stays so, check WAL level and replication slots with "
        "a database URL.",
    ),
    # --- the database
    Problem(
        "database",
        "database-password",
        FAIL,
        "The database refused user and password: {reason}.",
        "Correct user and password in the database URL; characters such as @ or / in a password are percent-encoded.",
    ),
    Problem(
        "database",
        "database-name",
        FAIL,
        "The database refused: {reason}.",
        "Correct the name at the end of the database URL, usually /postgres.",
    ),
    Problem(
        "database",
        "database-crowded",
        FAIL,
        "The database has no free connection: {reason}.",
        "Close other connections, or raise max_connections; the Realtime server needs some too.",
    ),
    Problem(
        "database",
        "database-ipv6",
        FAIL,
        "The database's host has only an IPv6 address, which this machine cannot reach.",
        "Copy the URL of the session pooler from the dashboard (Connect), which has an IPv4 address.",
    ),
    Problem(
        "database",
        "database-unreachable",
        FAIL,
        "The database cannot be reached: {reason}.",
        "Check host and port of the database URL, and that the database runs.",
    ),
    Problem(
        "database",
        "database-refused",
        FAIL,
        "The database refused to be examined: {reason}.",
        "Use a role with more privileges, such as postgres.",
    ),
    Problem(
        "database",
        "database-other-project",
        FAIL,
        "The database URL belongs to the project {other}, and the URL to the project {project}.",
        "Take both URLs from the same project.",
    ),
    Problem(
        "database",
        "database-replica",
        WARN,
        "This database is a read replica; the Realtime server uses the primary.",
        "Pass the URL of the primary database.",
    ),
    Problem(
        "database",
        "database-incomplete",
        WARN,
        "Not everything could be read from the database: {reason}.",
        "Use a role with more privileges, such as postgres, or a longer timeout.",
    ),
    Problem(
        "wal",
        "wal-level",
        FAIL,
        "The database has wal_level = {level}, so the server cannot read changes of rows.",
        "Set it and restart PostgreSQL.",
        "alter system set wal_level = 'logical';",
    ),
    Problem(
        "wal",
        "slots-used",
        FAIL,
        "All {total} replication slots are in use, and none is the server's: {names}.",
        "Drop slots that nothing uses, or raise max_replication_slots and restart PostgreSQL.",
        "select pg_drop_replication_slot('{unused}');",
    ),
    Problem(
        "wal",
        "slot-lost",
        WARN,
        "The replication slot {slot} is lost: the server removed log that it needs.",
        "Drop it; what reads it has to start again.",
        "select pg_drop_replication_slot('{slot}');",
    ),
    Problem(
        "wal",
        "slot-behind",
        WARN,
        "Nothing reads the replication slot {slot}, and it keeps {megabytes:,.0f} MB of the database's log.",
        "Drop it if it is not needed: the disk fills up.",
        "select pg_drop_replication_slot('{slot}');",
    ),
    Problem(
        "schema",
        "schema-missing",
        FAIL,
        "The database lacks {missing}, so the migrations of the Realtime server have not run here.",
        "Enable Realtime in the project's settings and join a channel; for a local server: supawire serve --prepare.",
    ),
    Problem(
        "schema",
        "schema-old",
        WARN,
        "The database lacks {missing}: the Realtime server that migrated it is old, or a migration failed.",
        "Update the Realtime server, and look for failed migrations in its log.",
    ),
    Problem(
        "schema",
        "partition-missing",
        FAIL,
        "The table realtime.messages has no partition for today, {day} (UTC), so private joins and messages of the "
        "database fail.",
        "Join a channel: the server creates missing partitions when it connects; otherwise create it.",
        "create table realtime.\"messages_{name}\" partition of realtime.messages for values from ('{day}') to "
        "('{next}');",
        "errors.html#missing-partition",
    ),
    Problem(
        "table",
        "table-missing",
        FAIL,
        "There is no table {table}.",
        "Check schema and table{near}.",
        docs="errors.html#changes-table",
    ),
    Problem(
        "table",
        "table-view",
        FAIL,
        "{table} is a {kind}, which cannot be published, so it has no changes.",
        "Listen to the tables that it reads{bases}.",
    ),
    Problem(
        "table",
        "table-partitioned",
        FAIL,
        "{table} is partitioned: its changes are reported for its partitions, and not for the table itself.",
        "Publish and listen to the partitions{partitions}, or send changes with a trigger that calls "
        "realtime.broadcast_changes().",
    ),
    Problem(
        "table",
        "table-unlogged",
        FAIL,
        "{table} is {kind}, so its changes are not in the log that the server reads.",
        "Make it an ordinary table.",
        "alter table {table} set logged;",
    ),
    Problem(
        "table",
        "key-missing",
        FAIL,
        "{table} has no primary key, so its inserts and updates arrive without data (Error 400).",
        "Add a primary key.",
        "alter table {table} add primary key ({column});",
    ),
    Problem(
        "publication",
        "publication-missing",
        FAIL,
        "There is no publication supabase_realtime.",
        "Create it with the tables to listen to.",
        "create publication supabase_realtime{for_table};",
        "errors.html#changes-table",
    ),
    Problem(
        "publication",
        "table-unpublished",
        FAIL,
        "The table {table} is not in the publication supabase_realtime.",
        "Add it; the server notices within 60 s.",
        _PUBLISH,
        "errors.html#changes-table",
    ),
    Problem(
        "publication",
        "publication-operations",
        FAIL,
        "The publication supabase_realtime does not publish {missing}.",
        "Publish all operations.",
        "alter publication supabase_realtime set (publish = 'insert, update, delete, truncate');",
    ),
    Problem(
        "publication",
        "publication-narrowed",
        WARN,
        "The publication has a {what} for {table}, which the server ignores: it sends every row and column.",
        "Hide rows with row level security and columns with privileges.",
    ),
    Problem(
        "identity",
        "identity-nothing",
        FAIL,
        "{table} is published without a replica identity, so PostgreSQL refuses its updates and deletes.",
        "Set the identity: the primary key if it has one, otherwise the whole row.",
        "alter table {table} replica identity {identity};",
    ),
    Problem(
        "identity",
        "identity-filter",
        WARN,
        "Deletes never match a filter on {columns}: the server has only the key of a deleted row.",
        "Let the log contain whole old rows, or filter deletes by the key.",
        "alter table {table} replica identity full;",
        "troubleshooting.html",
    ),
    Problem(
        "identity",
        "identity-filter-security",
        WARN,
        "Deletes never match a filter on {columns}: of a table with row level security only the key is used.",
        "Listen to deletes with a separate selector, with a filter on the key or without one.",
    ),
    Problem(
        "grants",
        "role-missing",
        FAIL,
        "The role {role} of the {what} does not exist in the database.",
        "Sign tokens with a role of the database, usually authenticated, or create it.",
        "create role {quoted} nologin noinherit;",
    ),
    Problem(
        "grants",
        "grant-schema",
        FAIL,
        "The role {role} may not use the schema {schema}.",
        "Grant it.",
        "grant usage on schema {schema} to {quoted};",
    ),
    Problem(
        "grants",
        "grant-table",
        FAIL,
        "The role {role} may not read the table {table}.",
        "Grant it.",
        "grant select on {table} to {quoted};",
    ),
    Problem(
        "grants",
        "grant-key",
        FAIL,
        "The role {role} may not read the key of {table} ({columns}), so changes arrive without data (Error 401).",
        "Grant it.",
        "grant select ({columns}) on {table} to {quoted};",
    ),
    Problem(
        "grants",
        "grant-filter",
        FAIL,
        "The role {role} may not read {columns} of {table}, which the filter uses: the server refuses the filter.",
        "Grant it, or use another filter.",
        "grant select ({columns}) on {table} to {quoted};",
        "errors.html#changes-filter",
    ),
    Problem(
        "filter",
        "filter-invalid",
        FAIL,
        "The filter is not valid: {reason}.",
        "Write column=operator.value, as in status=eq.open; an in list has at most 100 values.",
        docs="errors.html#changes-filter",
    ),
    Problem(
        "filter",
        "filter-column",
        FAIL,
        "The table {table} has no column {column}, which the filter uses.",
        "Use one of its columns: {columns}.",
        docs="errors.html#changes-filter",
    ),
    Problem(
        "filter",
        "filter-value",
        FAIL,
        "The value in the filter on {column} does not fit its type {type}: {reason}.",
        "Write a value of the type.",
        docs="errors.html#changes-filter",
    ),
    Problem(
        "rows",
        "rows-no-policy",
        FAIL,
        "{table} has row level security and no SELECT policy for the role {role}, so it gets no inserts and updates.",
        f"{_SIGN_IN} The SQL editor shows the rows, because it bypasses policies.",
        "create policy {policy} on {table} for select to {quoted} using (<condition for its rows>);",
        "troubleshooting.html",
    ),
    Problem(
        "rows",
        "rows-policy-raises",
        FAIL,
        "A policy of {table} fails for the role {role} with these claims, and while such a subscriber listens, no "
        "subscriber of the project gets changes: {reason}.",
        "Correct the policy or the claims; a frequent cause is auth.uid() with a sub claim that is not a UUID.",
    ),
    Problem(
        "rows",
        "rows-all-hidden",
        WARN,
        "{table} has rows, and the policies hide all of them from the role {role} with these claims.",
        "Compare the claims of the token with the policies: {policies}.",
    ),
    Problem(
        "rows",
        "rows-slow",
        WARN,
        "The policies of {table} could not be evaluated within {seconds:.1f} s.",
        "Index the columns that they compare, and write (select auth.uid()) instead of auth.uid().",
    ),
    Problem(
        "policies",
        "policies-read",
        FAIL,
        "The role {role} may read neither broadcasts nor presence of the topic {topic}, so private joins are refused.",
        _SIGN_IN,
        "create policy {policy} on realtime.messages for select to {quoted} using (realtime.topic() = {literal});",
        "errors.html#unauthorized",
    ),
    Problem(
        "policies",
        "policies-read-one",
        WARN,
        "The role {role} may not read {word} of the topic {topic}: the join is accepted, and nothing of it arrives.",
        "If it should arrive, extend the SELECT policy to the extension.",
        "create policy {policy} on realtime.messages for select to {quoted} using "
        "(realtime.topic() = {literal} and extension = '{extension}');",
    ),
    Problem(
        "policies",
        "policies-write",
        WARN,
        "The role {role} may not send {words} to the topic {topic}: {consequence}.",
        "If it should, create an INSERT policy.",
        "create policy {policy} on realtime.messages for insert to {quoted} with check "
        "(realtime.topic() = {literal} and extension in ({extensions}));",
    ),
    Problem(
        "policies",
        "policies-raise",
        FAIL,
        "The policy {policy} on realtime.messages fails for this topic and these claims: {reason}.",
        "Correct the policy; the server treats the error as a refusal.",
        docs="errors.html#unauthorized",
    ),
    Problem(
        "policies",
        "policies-grant",
        FAIL,
        "The role {role} lacks privileges on realtime.messages ({missing}), so private channels do not work.",
        "Grant them.",
        "grant usage on schema realtime to {quoted}; grant select, insert on realtime.messages to {quoted};",
        "errors.html#unauthorized",
    ),
    Problem(
        "policies",
        "policies-open",
        WARN,
        "Row level security is off on realtime.messages, so everybody may read and write every private channel.",
        "Enable it.",
        "alter table realtime.messages enable row level security;",
    ),
)
"""Everything that is found here, by step."""

_BY_NAME: Final = {problem.name: problem for problem in PROBLEMS}


def found(name: str, /, **values: object) -> Finding:
    """Return the finding of this name with the values in its texts."""
    return _BY_NAME[name].found(**values)
