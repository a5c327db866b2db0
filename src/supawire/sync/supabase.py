"""The blocking door beside a client of the package `supabase`."""

from typing import Unpack

from supawire.aio.driver import Driver
from supawire.aio.supabase import Account, Passed, Supabase
from supawire.errors import InvalidArgumentError
from supawire.sync.client import Client
from supawire.sync.portal import Portal


def from_supabase(client: Supabase, *, close_on_sign_out: bool = False, **options: Unpack[Passed]) -> Client:
    """A client of Realtime for code that blocks, for a sync client of the package `supabase`.

    URL and key are the other client's, and the token is that of the user who is signed in there: also after a refresh,
    after somebody else has signed in, and when nobody is signed in any more; then it is the key. A client that was made
    with an `Authorization` header sends that one until somebody signs in. Closing this client lets go of the other one,
    and does not close it. Everything else as with `connect`.

    Args: client: what `create_client` of `supabase` gives. close_on_sign_out: end this client with `AuthError` when the
        session is lost, by a sign-out or because it cannot be refreshed; left out, it goes on with the key. options:
        those of `connect`, but `token`.
    Raises: InvalidArgumentError: also for an async client, whose session can only be asked in its own event loop.
        ConnectError, AuthError.
    """
    account = Account(client, "from_supabase", close_on_sign_out)
    if account.waits:
        raise InvalidArgumentError(
            "from_supabase wants a sync client of the package supabase, and this one is async",
            hint="In its event loop: async with from_supabase_async(client) as realtime. Or create_client(url, key).",
        )
    chosen, endpoint = account.read(options)

    async def start() -> Driver:
        driver = Driver(endpoint, chosen, blocking=True)
        await account.open(driver)
        return driver

    portal = Portal()
    return Client(portal, portal.open(start))
