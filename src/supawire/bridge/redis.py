"""Messages as entries of a Redis stream. Needs the package `redis`."""

from collections.abc import Sequence
from typing import Any, Final, cast

from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import DataError, RedisError

from supawire._display import printable
from supawire.bridge.messages import BridgeMessage, Failure, Result, subject_text
from supawire.errors import InvalidArgumentError
from supawire.options import Secret, check_count, check_number, check_text

ADD: Final = """
local added = {}
for number = 1, #KEYS - 1 do
  local guard, at = KEYS[number + 1], 3 + (number - 1) * 4
  if redis.call('EXISTS', guard) == 1 then
    added[number] = 0
  else
    local command = {'XADD', KEYS[1]}
    if ARGV[2] ~= '0' then
      command[3], command[4], command[5] = 'MAXLEN', '~', ARGV[2]
    end
    for _, part in ipairs({'*', 'id', ARGV[at], 'subject', ARGV[at + 1], 'key', ARGV[at + 2], 'data', ARGV[at + 3]}) do
      command[#command + 1] = part
    end
    local answer = redis.pcall(unpack(command))
    if type(answer) == 'table' and answer.err then
      added[number] = answer.err
      return added
    end
    redis.call('SET', guard, '', 'PX', ARGV[1])
    added[number] = 1
  end
end
return added
"""
"""Adds messages to a stream in order, each unless a key with its id exists; stops at the first error. Atomic."""
TIMEOUT: Final = 10.0
"""Seconds for one call."""


class RedisStreams:
    """Adds messages to one Redis stream, as entries with the fields `id`, `subject`, `key` and `data`.

    A script adds an entry and sets a key with the id of the message, which expires after `window` seconds; a message
    whose key exists is not added again. Redis 5 or newer.

    Args: url: such as `redis://user:password@host:6379/0`, or `rediss://` for TLS. stream: the key of the stream.
        window: seconds for which ids are kept. max_length: entries after which old ones are trimmed, about; None:
        never. options: further arguments of `redis.asyncio.Redis.from_url`.
    """

    ordered: bool = True

    def __init__(
        self,
        url: str | Secret,
        *,
        stream: str = "supawire",
        window: float = 600.0,
        max_length: int | None = None,
        wave: int = 100,
        **options: Any,
    ) -> None:
        self.name: str = f"the Redis stream {check_text('stream', stream)!r}"
        self.wave: int = check_count("wave", wave, maximum=1000)
        self._stream: Final = stream
        self._window: Final = int(check_number("window", window, above=0, unit="seconds") * 1000) or 1
        self._max_length: Final = 0 if max_length is None else check_count("max_length", max_length)
        settings: dict[str, Any] = {
            "socket_timeout": TIMEOUT,
            "socket_connect_timeout": TIMEOUT,
            "retry": Retry(NoBackoff(), 0),
        }
        secret = url.reveal() if isinstance(url, Secret) else url
        try:
            client = cast("Any", redis.Redis).from_url(secret, **{**settings, **options})
        except ValueError:  # its text, and so its traceback, may have a part of the password
            client = None
        if client is None:
            raise InvalidArgumentError(
                "the redis:// URL cannot be used: its host, port or a parameter is not valid",
                hint="Percent-encode characters such as / # ? @ [ ] in the user and the password.",
            )
        self._client: Final = cast("redis.Redis", client)
        self._script: Final = self._client.register_script(ADD)

    def __repr__(self) -> str:
        return f"<RedisStreams {self._stream!r}>"

    async def publish(self, messages: Sequence[BridgeMessage]) -> Sequence[Result]:
        """Add messages in one call of the script."""
        keys: list[str | bytes] = [self._stream]
        arguments: list[str | bytes | int] = [self._window, self._max_length]
        for message in messages:
            keys.append(_guard(self._stream, message.id))
            arguments += [message.id, subject_text(message), message.key, message.body]
        try:
            answers = cast("list[Any]", await self._script(keys=keys, args=arguments))
        except DataError as error:
            return [Failure(printable(str(error)), "rejected")]
        except (RedisError, OSError) as error:
            return [Failure(printable(f"{type(error).__name__}: {error}"))]
        return [_result(answer) for answer in answers]

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _result(answer: int | bytes | str) -> Result:
    if isinstance(answer, int):
        return "stored" if answer else "duplicate"
    text = answer.decode(errors="replace") if isinstance(answer, bytes) else answer
    return Failure(printable(text))


def _guard(stream: str, number: str) -> str:
    """Return the key of an id, which is in the same slot of a cluster as the stream."""
    opened = stream.find("{")
    closed = stream.find("}", opened + 1)
    tag = stream if opened >= 0 and closed > opened + 1 else f"{{{stream}}}"
    return f"{tag}:supawire:{number}"
