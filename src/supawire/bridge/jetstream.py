"""Messages in a stream of NATS JetStream. Needs the package `nats-py`."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, cast
from urllib.parse import quote, urlsplit

import nats
from nats.aio.client import Client
from nats.errors import Error, MaxPayloadError
from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from supawire._display import printable
from supawire.bridge.messages import BridgeMessage, Failure, Result
from supawire.errors import InvalidArgumentError
from supawire.options import Secret, check_bool, check_count, check_number, check_text

TIMEOUT: Final = 5.0
"""Seconds for a connection, and for one confirmation."""
TOO_LARGE: Final = 10054
"""Error code of JetStream: the message is larger than the stream allows."""
_ALLOWED: Final = "!$'()+,:;=@[]^`{|}&#\"/"
"""ASCII characters of a token besides letters, digits and `_.-~`; a dot separates tokens, and is replaced as well."""


class JetStream:
    """Publishes messages to a stream of NATS JetStream, with the id of each as `Nats-Msg-Id`.

    The subject is `PREFIX.changes.SCHEMA.TABLE` or `PREFIX.broadcasts.TOPIC`; characters that a subject cannot have
    are percent-encoded. The stream removes duplicates for the time of its `duplicate_window`.

    Args: url: such as `nats://user:password@host:4222`, or several separated by commas; `tls://` for TLS. stream: the
        name of the stream. prefix: the first token of subjects, by default the stream's name in small letters.
        create: create the stream if it does not exist, for all subjects with the prefix. window: seconds of its
        duplicate window, if it is created. options: further arguments of `nats.connect`.
    """

    ordered: bool = False

    def __init__(
        self,
        url: str | Secret,
        *,
        stream: str = "supawire",
        prefix: str | None = None,
        create: bool = True,
        window: float = 600.0,
        wave: int = 100,
        **options: Any,
    ) -> None:
        text = check_text("stream", stream)
        if any(letter in " .*>/\\\t\r\n" for letter in text):
            raise InvalidArgumentError(f"stream must not contain spaces or any of . * > / \\, and is {stream!r}")
        self.name: str = f"the JetStream stream {stream!r}"
        self.wave: int = check_count("wave", wave, maximum=1000)
        self._stream: Final = stream
        self._prefix: Final = stream.lower() if prefix is None else check_text("prefix", prefix)
        self._create: Final = check_bool("create", create)
        self._window: Final = check_number("window", window, above=0, unit="seconds")
        self._servers: Final = (url.reveal() if isinstance(url, Secret) else url).split(",")
        if not all(map(_is_usable, self._servers)):
            raise InvalidArgumentError(
                "url must be like nats://host:4222, or several of them separated by commas",
                hint="Percent-encode characters such as / # ? @ [ ] in the user and the password.",
            )
        self._options: Final = options
        self._client: Client | None = None
        self._context: JetStreamContext | None = None
        self._last_error: Exception | None = None

    def __repr__(self) -> str:
        return f"<JetStream {self._stream!r}>"

    async def publish(self, messages: Sequence[BridgeMessage]) -> Sequence[Result]:
        """Publish messages at the same time, and wait for all confirmations."""
        try:
            async with asyncio.timeout(2 * self._options.get("connect_timeout", TIMEOUT)):
                context = await self._open()
        except (Error, OSError, TimeoutError) as error:
            # the client tries again until the time is over, and tells only its callback why it could not connect
            return [_failure(self._last_error or error if isinstance(error, TimeoutError) else error)]
        if self._client is not None and not self._client.is_connected:  # the client would keep messages and send later
            return [Failure("not connected")]
        return await asyncio.gather(*(self._send(context, message) for message in messages))

    async def _send(self, context: JetStreamContext, message: BridgeMessage) -> Result:
        subject = ".".join([self._prefix, *map(subject_token, message.subject)])
        headers = {"Nats-Msg-Id": message.id, "supawire-key": quote(message.key, safe=_ALLOWED)}
        try:
            answer = await context.publish(subject, message.body, timeout=TIMEOUT, stream=self._stream, headers=headers)
        except (Error, OSError, TimeoutError) as error:
            return _failure(error)
        return "duplicate" if answer.duplicate else "stored"

    async def _keep_error(self, error: Exception) -> None:
        """Take an error of the client, which would log it; the call that fails because of it reports it."""
        self._last_error = error

    async def _open(self) -> JetStreamContext:
        if self._context is not None:
            if self._client is None or not self._client.is_closed:
                return self._context
            await self.close()
        self._last_error = None
        client: Client = await cast("Any", nats).connect(
            self._servers,
            **{
                "name": "supawire bridge", "connect_timeout": TIMEOUT, "max_reconnect_attempts": -1,
                "reconnect_time_wait": 0.5, "error_cb": self._keep_error, **self._options,
            },
        )  # fmt: skip
        context = cast("JetStreamContext", cast("Any", client).jetstream())
        try:
            await self._find(context)
        except BaseException:
            await client.close()
            raise
        self._client, self._context = client, context
        return context

    async def _find(self, context: JetStreamContext) -> None:
        try:
            await context.stream_info(self._stream)
        except NotFoundError:
            if not self._create:
                raise
            subjects = [f"{self._prefix}.>"]
            await cast("Any", context).add_stream(
                StreamConfig(name=self._stream, subjects=subjects, duplicate_window=self._window)
            )

    async def close(self) -> None:
        """Close the connection."""
        client, self._client, self._context = self._client, None, None
        if client is not None:
            await client.close()


def _is_usable(url: str) -> bool:
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        return bool(parts.hostname) and parts.port != 0 and "@" not in parts.path + parts.query + parts.fragment
    except ValueError:
        return False


def _failure(error: BaseException) -> Failure:
    text = printable(f"{type(error).__name__}: {error}")
    if isinstance(error, MaxPayloadError) or (isinstance(error, APIError) and error.err_code == TOO_LARGE):
        return Failure(text, "rejected")
    if isinstance(error, NoStreamResponseError):
        return Failure("no stream takes this subject, or JetStream is not available", "away")
    return Failure(text)


def subject_token(text: str) -> str:
    """Return a text as one token of a subject; empty text is `%`."""
    return quote(text, safe=_ALLOWED).replace(".", "%2E") or "%"
