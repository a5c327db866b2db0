"""Send one message by HTTP and say what became of it: no channel, no join.

SUPAWIRE_URL=… SUPAWIRE_KEY=… python examples/say.py room:lobby hello '{"name": "alice"}'
"""

import asyncio
import json
import os
import sys

from supawire import ConnectError, HttpError, InvalidArgumentError, connect_async


async def say(topic: str, event: str, text: str) -> int:
    """Exit status 0 when the server took it, 1 when not, 2 when the question was wrong."""
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
    print("taken" if sent.acked else "accepted")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit("usage: say.py TOPIC EVENT JSON")
    raise SystemExit(asyncio.run(say(*sys.argv[1:])))
