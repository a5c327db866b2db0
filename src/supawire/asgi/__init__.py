"""Passes on events of Realtime to browsers: an ASGI application, and parts for handlers of web frameworks.

    relay = Relay(lambda: connect_async(url, key), authorize)
    app = Starlette(routes=[Mount("/live", relay)], lifespan=relay.lifespan)

Needs starlette: `pip install 'supawire[asgi]'`.
"""

try:
    import starlette as starlette
except ImportError as _error:
    raise ImportError(
        "supawire.asgi needs the extra `asgi`: pip install 'supawire[asgi]'", name="starlette"
    ) from _error

from supawire.asgi.relay import Relay, RelayStats
from supawire.asgi.view import Incoming, View

__all__ = ["Incoming", "Relay", "RelayStats", "View"]
