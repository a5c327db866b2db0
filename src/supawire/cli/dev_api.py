"""The routes of `supawire serve` by which commands emit row changes and get tokens."""

from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import msgspec

from supawire.cli.connection import Target
from supawire.cli.output import shown, to_json
from supawire.errors import ConnectError, HttpError
from supawire.options import ClientOptions

TIMEOUT: Final = 10.0
MAX_BODY: Final = 1_000_000


async def post(target: Target, route: str, body: Mapping[str, Any]) -> Any:
    """Post to a route such as /dev/emit with the key of the target, and return the decoded answer, or None if empty.

    Raises: ConnectError: no server answers. HttpError: it has no such route, or refuses the request.
    """
    url = ClientOptions().endpoint(target.url, target.key).rest_url.removesuffix("/api").removesuffix("/realtime/v1")
    headers = {"Authorization": f"Bearer {target.key.reveal()}", "Content-Type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.post(f"{url}{route}", data=to_json(body), headers=headers, allow_redirects=False) as response,
        ):
            status, data = response.status, await response.content.read(MAX_BODY)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ConnectError(f"{target.url} does not answer", hint="Is supawire serve running there?") from error
    if status in (200, 202):
        try:
            return msgspec.json.decode(data) if data else None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            status = 404  # something else than a local server, which answers each path with a page
    if status == 404:
        raise HttpError(
            f"{target.url} has no route {route}", hint="Only supawire serve has it, on an address of this machine."
        )
    raise HttpError(f"{route} answered {status}: {_message(data)}", status=status)


def _message(data: bytes) -> str:
    try:
        return shown(msgspec.json.decode(data)["message"])
    except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError):
        return shown(data.decode(errors="replace"), 200)
