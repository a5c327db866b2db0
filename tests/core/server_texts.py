"""Refusals and errors that servers send, and the expected reaction.

The tables follow docs/protocol.md and not the code, so that a row that is lost or changed in the code fails a test.
"""

from typing import Literal

Class = Literal["retry", "slow", "refresh", "refresh once", "give up"]

REASONS: dict[str, Class] = {  # docs/protocol.md, Join errors
    "TopicNameRequired: You must provide a topic name": "give up",
    "InvalidJWTToken: Token has expired 5 seconds ago": "refresh",
    "InvalidJWTToken: Fields `role` and `exp` are required in JWT": "give up",
    "InvalidJWTToken: Token expiration time is invalid": "refresh",
    "InvalidJWTExpiration: Token has expired": "refresh",
    "MalformedJWT: The token provided is not a valid JWT": "give up",
    "JwtSignatureError: Failed to validate JWT signature": "refresh once",
    "JwtSignerError: Failed to generate JWT signer, check your JWT secret": "refresh once",
    "Unauthorized: You do not have permissions to read from this Channel topic: room": "give up",
    "PrivateOnly: This project only allows private channels": "give up",
    "TenantNotFound: Tenant with the given ID does not exist": "give up",
    "RealtimeDisabledForTenant: Realtime disabled for this tenant": "give up",
    "RealtimeDisabledForConfiguration: The configuration will not provide any Postgres Changes": "give up",
    "PostgresChangesSubscribeTimeout: Timed out subscribing to Postgres Changes": "retry",
    "ChannelRateLimitReached: Too many channels": "give up",
    "ConnectionRateLimitReached: Too many connected users": "slow",
    "ClientJoinRateLimitReached: Too many joins per second": "slow",
    "IncreaseConnectionPool: Please increase your connection pool size": "retry",
    "DatabaseLackOfConnections: Database can't accept more connections, Realtime won't connect": "retry",
    "DatabaseConnectionRateLimitReached: Too many database connections attempts per second": "slow",
    "UnableToConnectToProject: Realtime was unable to connect to the project database": "retry",
    "InitializingProjectConnection: Connecting to the project database": "retry",
    "InitializingProjectConnection: Realtime is initializing the project connection": "retry",
    "Realtime was unable to connect to the project database": "retry",
    "QueryCanceled: canceling statement due to user request": "retry",
    "MissingPartition: Realtime was unable to find the expected messages partition": "retry",
    "TimeoutOnRpcCall: Node request timeout": "retry",
    "ErrorOnRpcCall: RPC call error: :noproc": "retry",
    "MusterJoinError: no": "retry",
    "RealtimeRestarting: Realtime is restarting, please standby": "retry",
    "UnableToReplayMessages: Replay is not allowed for public channels": "give up",
    "UnableToReplayMessages: Replay params are not valid": "give up",
    "UnableToReplayMessages: Realtime was unable to replay messages": "retry",
    "Unknown Error on Channel": "retry",
    "UnknownErrorOnChannel: boom": "retry",
    "join crashed": "retry",
    "too many channels joined": "give up",
    "unmatched topic": "give up",
    # an unknown code is retried; "expired" is matched in the text, without a code
    "SomethingNew: of a newer server": "retry",
    "no code at all": "retry",
    "": "retry",
    '%{reason: :token_expired, message: "expired"}': "refresh",
}

SYSTEMS: dict[str, Class] = {  # docs/protocol.md, System messages: extension "system"; each is followed by phx_close
    "Replication connection was not established in time": "retry",
    "Token has expired 7 seconds ago": "refresh",
    "Fields `role` and `exp` are required in JWT": "give up",
    "The token provided is not a valid JWT": "give up",
    ":signature_error": "refresh once",
    ":error_generating_signer": "refresh once",
    'Failed to generate JWT signer for key ID (kid) "x", check your JWT secret': "refresh once",
    "You do not have permissions to read from this Channel topic: room": "give up",
    "You no longer have permission to read from this Channel topic: room": "give up",
    "Realtime was unable to connect to the project database": "retry",
    "Query was cancelled, please try again": "retry",
    "Node request timeout": "retry",
    "RPC call error: :noproc": "retry",
    ":increase_connection_pool": "retry",
    "Too many messages per second": "slow",
    "Too many presence messages per second": "slow",
    "Client presence rate limit exceeded": "slow",
    "Track message size exceeded": "give up",
    "something new": "retry",
}

CHANGES: dict[str, Literal["passes", "never"]] = {  # extension "postgres_changes": the channel stays
    'Error parsing `filter` params: ["foo", "hey"]': "never",
    "Error parsing `select` params: expected a list of column name strings, got: 1": "never",
    "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name.": "never",
    "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: %{}": "never",
    "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect "
    "parameters: []": "never",
    "Unable to subscribe to changes with given parameters. An exception happened so please check your connect "
    "parameters: []. Exception: ERROR 42703": "never",
    '{:error, "Too many database timeouts"}': "passes",
    "something new": "passes",
}

HANDSHAKES: list[tuple[int, bytes, Class]] = [  # docs/protocol.md, Refused handshakes
    (403, b"", "refresh once"),
    (404, b'{"error":"Tenant not found"}', "give up"),
    (403, b'{"error":"Realtime was disabled for this tenant"}', "give up"),
    (401, b'{"error":"API key is missing"}', "give up"),
    (401, b'{"error":"Token has expired"}', "refresh once"),
    (401, b'{"error":"Fields `role` and `exp` are required in JWT"}', "give up"),
    (401, b'{"error":"The token provided is not a valid JWT"}', "give up"),
    (401, b'{"error":"Failed to validate JWT signature"}', "refresh once"),
    (401, b'{"error":"Failed to generate JWT signer, check your JWT secret or JWKS configuration"}', "give up"),
    (401, b'{"error":"Failed to generate JWT signer for key ID (kid) \\"k\\", check your JWT"}', "refresh once"),
    (429, b'{"error":"Too many connected users"}', "slow"),
    (429, b'{"error":"Too many joins per second"}', "slow"),
    (500, b'{"error":"Error connecting to Realtime"}', "retry"),
    # gateways, proxies and old servers
    (401, b"", "refresh once"),
    (401, b'{"message":"Invalid API key"}', "refresh once"),
    (403, b'{"message":"forbidden"}', "give up"),
    (403, b'{"message":"Token has expired"}', "refresh once"),
    (404, b"<html>not found</html>", "give up"),
    (414, b"", "give up"),
    (431, b"", "give up"),
    (429, b"", "slow"),
    (500, b"", "retry"),
    (502, b"<html>bad gateway</html>", "retry"),
    (503, b"", "retry"),
    (504, b"\xff\xfe", "retry"),
    (200, b"hello", "retry"),
    (302, b"", "retry"),
    (418, b"[" * 5000, "retry"),
]

SOON, SLOWLY, LONGEST = 1.0, 15.0, 30.0
"""Seconds of the default rejoin backoff: its first step, half its longest step, and its longest step."""
