"""Which broker a URL names."""

from importlib import import_module
from typing import Any, Final
from urllib.parse import urlsplit

from supawire.bridge.messages import Broker
from supawire.errors import InvalidArgumentError

_BROKERS: Final = {
    "redis": "RedisStreams", "rediss": "RedisStreams", "unix": "RedisStreams", "nats": "JetStream", "tls": "JetStream",
    "ws": "JetStream", "wss": "JetStream", "kafka": "Kafka", "http": "Webhook", "https": "Webhook",
}  # fmt: skip
"""Classes by the scheme of the URL."""


def make_broker(url: str, *, stream: str | None = None, secret: str | None = None) -> Broker:
    """Return the broker with this URL: redis, rediss, nats, tls, kafka, http or https.

    Args: stream: the Redis stream, JetStream stream or Kafka topic, by default `supawire`. secret: of webhooks.
    Raises: InvalidArgumentError. ImportError: its package is not installed.
    """
    scheme = url.partition(":")[0].lower() if isinstance(url, str) else ""
    name = _BROKERS.get(scheme)
    if name is None:
        raise InvalidArgumentError(
            f"the URL of a broker begins with redis://, rediss://, nats://, tls://, kafka://, http:// or https://, "
            f"and not with {scheme + '://' if scheme else 'nothing'!r:.40}"
        )
    made: Any = getattr(import_module("supawire.bridge"), name)
    if name == "Webhook":
        if secret is None:
            raise InvalidArgumentError(
                "webhooks are signed, and no secret is given", hint="Use Webhook(url, secret=…)."
            )
        if stream is not None:
            raise InvalidArgumentError("stream is given, and a webhook has none")
        return made(url, secret=secret)
    if secret is not None:
        raise InvalidArgumentError("secret is given, and only webhooks are signed")
    if name == "Kafka":
        parts = urlsplit(url)
        topic = parts.path.strip("/") or stream or "supawire"
        if stream is not None and topic != stream:
            raise InvalidArgumentError(f"the URL has the topic {topic!r}, and stream is {stream!r}; give one of them")
        if "@" in parts.netloc:
            raise InvalidArgumentError(
                "a kafka:// URL has no password", hint="Use Kafka(…, security_protocol=…, sasl_plain_username=…)."
            )
        return made(parts.netloc, topic=topic)
    return made(url) if stream is None else made(url, stream=stream)
