"""Send one message by HTTP, without a channel or a join, and print the outcome.

SUPAWIRE_URL=… SUPAWIRE_KEY=… python examples/publish.py room:lobby hello '{"name": "alice"}'
"""

import asyncio
import json
import os
import sys

from supawire import ConnectError, HttpError, InvalidArgumentError, connect_async


async def publish(topic: str, event: str, text: str) -> int:
    """Return the exit status: 0 if the server accepted the message, 1 if not, 2 for wrong arguments."""
    try:
        payload = json.loads(text)
        async with connect_async(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"]) as client:
            sent = await client.publish(topic, event, payload)
    except (json.JSONDecodeError, InvalidArgumentError) as error:
        print(error, file=sys.stderr)
        return 2
    except (ConnectError, HttpError) as error:
        print(error, file=sys.stderr)
        return 1
    print("confirmed" if sent.acked else "accepted")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit("usage: publish.py TOPIC EVENT JSON")
    raise SystemExit(asyncio.run(publish(*sys.argv[1:])))
