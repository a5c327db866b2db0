"""Changes and broadcasts handed on to Redis streams, NATS JetStream, Kafka and webhooks. Needs the extra `bridge`.

    bridge = Bridge(url, key, to="redis://localhost", checkpoint=SqliteCheckpoint("bridge.db"), database=DATABASE_URL)
    bridge.table("orders")
    bridge.topic("room:1")
    bridge.run()

See docs/bridge.md for what is guaranteed.
"""

from typing import TYPE_CHECKING, Final

from supawire._lazy import lazy_names

if TYPE_CHECKING:
    from supawire.bridge.app import Bridge, BridgeStats
    from supawire.bridge.brokers import make_broker
    from supawire.bridge.checkpoints import SqliteCheckpoint
    from supawire.bridge.jetstream import JetStream
    from supawire.bridge.kafka import Kafka
    from supawire.bridge.messages import (
        BridgeMessage,
        Broker,
        Checkpoint,
        Draft,
        Failure,
        LeaderLostError,
        Result,
        SourceState,
    )
    from supawire.bridge.postgres import PostgresCheckpoint
    from supawire.bridge.redis import RedisStreams
    from supawire.bridge.webhook import Webhook

__all__ = [
    "Bridge",
    "BridgeMessage",
    "BridgeStats",
    "Broker",
    "Checkpoint",
    "Draft",
    "Failure",
    "JetStream",
    "Kafka",
    "LeaderLostError",
    "PostgresCheckpoint",
    "RedisStreams",
    "Result",
    "SourceState",
    "SqliteCheckpoint",
    "Webhook",
    "make_broker",
]

_HOMES: Final = {
    "Bridge": "app",
    "BridgeMessage": "messages",
    "BridgeStats": "app",
    "Broker": "messages",
    "Checkpoint": "messages",
    "Draft": "messages",
    "Failure": "messages",
    "JetStream": "jetstream",
    "Kafka": "kafka",
    "LeaderLostError": "messages",
    "PostgresCheckpoint": "postgres",
    "RedisStreams": "redis",
    "Result": "messages",
    "SourceState": "messages",
    "SqliteCheckpoint": "checkpoints",
    "Webhook": "webhook",
    "make_broker": "brokers",
}
_PACKAGES: Final = {
    "aiokafka": "aiokafka",
    "nats": "nats-py",
    "psycopg": "psycopg[binary]",
    "redis": "redis",
    "standardwebhooks": "standardwebhooks",
}
"""Modules of the extra, and the packages that have them."""

if not TYPE_CHECKING:  # hidden from type checkers, which would otherwise accept every misspelt name

    def _needs(module: str) -> str | None:
        package = _PACKAGES.get(module)
        return package and f"the package {package}: pip install '{package}', or 'supawire[bridge]' for all"

    __getattr__ = lazy_names(__name__, _HOMES, _needs)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
