"""`supawire token make` and `supawire token explain`."""

import asyncio
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from cyclopts import App, Parameter
from rich.table import Table

from supawire.cli.arguments import check_signing_secret, parse_duration
from supawire.cli.connection import Connect
from supawire.cli.key_kinds import MAX_TOKEN, decode_jwt, kind_of_key
from supawire.cli.output import JsonFlag, Output, shown
from supawire.errors import InvalidArgumentError
from supawire.options import check_text

app: Final = App("token", help="Make a token for the local server, or explain a key or token.", help_format="plaintext")

STDIN: Final = "-"
_UNITS: Final = (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))


@app.command
def make(
    *,
    role: Annotated[str, Parameter(help="The role in the database, such as authenticated, anon or service_role.")] = (
        "authenticated"
    ),
    sub: Annotated[str | None, Parameter(help="The id of the user, which auth.uid() returns in policies.")] = None,
    claim: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(), show_default=False, help="A further claim as NAME=VALUE, VALUE as JSON or text. Repeatable."
        ),
    ] = (),
    expires: Annotated[
        str,
        Parameter(
            allow_leading_hyphen=True,
            help="Time until it expires, such as 1h or 30m; with a minus in front it has expired already.",
        ),
    ] = "1h",
    secret: Annotated[
        str | None,
        Parameter(
            env_var="SUPAWIRE_SECRET",
            help="Sign with this secret (HS256), without a server. Otherwise a running supawire serve signs.",
        ),
    ] = None,
    json: JsonFlag = False,
    connect: Connect = Connect(),
) -> int:
    """Make a token for the local server and print it.

    A running `supawire serve` signs it, which needs its service key; or give its secret.
    """
    check_text("--role", role)
    claims = dict(map(_claim, claim)) | ({} if sub is None else {"sub": sub})
    seconds = -parse_duration(expires[1:]) if expires.startswith("-") else parse_duration(expires)
    if secret:
        check_signing_secret(secret)
        from supawire.server.tokens import sign

        token = sign({"role": role, "exp": int(time.time() + seconds), **claims}, secret)
    else:
        from supawire.cli.dev_api import post

        wanted = {"role": role, "expires_in": seconds, "claims": claims}
        token = asyncio.run(post(connect.target(service=True), "/dev/token", wanted))["token"]
    if json:
        Output(json=True).record({"token": token, **_explain(token, time.time())})
    else:
        print(token)
    return 0


def _claim(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidArgumentError(f"--claim must be NAME=VALUE, not {shown(text, 100)!r}")
    try:
        return name, msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return name, value


@app.command
def explain(
    token: Annotated[
        str,
        Parameter(
            allow_leading_hyphen=True, help="The key or token; - reads it from stdin, so that no history has it."
        ),
    ],
    /,
    *,
    json: JsonFlag = False,
) -> int:
    """Say what a key or token is: its kind, role, claims and expiry. Nothing is sent, and the token is not printed."""
    text = sys.stdin.read(MAX_TOKEN + 1).strip() if token == STDIN else token.strip()
    fields = _explain(text.removeprefix("Bearer "), time.time())
    output = Output(json=json)
    if json:
        output.record(fields)
        return 0
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    for name, value in _lines(fields):
        table.add_row(name, value)
    output.console.print(table)
    return 0


def _explain(text: str, now: float) -> dict[str, Any]:
    """Return what a key or token says. Raises: InvalidArgumentError: it is neither."""
    kind = kind_of_key(text)
    if kind in ("publishable key", "secret key"):
        role = "anon" if kind == "publishable key" else "service_role"
        return {"kind": kind, "role": role, "remarks": _remarks_on_key(kind)}
    decoded = decode_jwt(text)
    if decoded is None:
        raise InvalidArgumentError(
            "this is neither a JWT (three parts with dots between them) nor a key that begins with sb_",
            hint="Copy it completely, without quotation marks.",
        )
    header, claims = decoded
    expires = claims.get("exp")
    at = _instant(expires)
    return {
        "kind": kind,
        "role": claims.get("role"),
        "algorithm": header.get("alg"),
        "key_id": header.get("kid"),
        "issued_at": _instant(claims.get("iat")),
        "expires_at": at,
        "expired": None if at is None else at.timestamp() <= now,
        "expires": None if at is None else _in_words(at.timestamp() - now),
        "claims": claims,
        "remarks": _remarks(claims, header, at, now),
    }


def _instant(value: object) -> datetime | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def _in_words(seconds: float) -> str:
    amount = abs(int(seconds))
    name, size = next((pair for pair in _UNITS if amount >= 2 * pair[1]), _UNITS[-1])
    text = f"{amount // size} {name}{'' if amount // size == 1 else 's'}"
    return f"in {text}" if seconds > 0 else f"{text} ago"


def _remarks_on_key(kind: str) -> list[str]:
    if kind == "secret key":
        return ["It bypasses row level security; use it on servers only.", "It is an API key and not a user's token."]
    return [
        "It may be public; row level security decides what it can read.",
        "It is an API key and not a user's token.",
    ]


def _remarks(claims: dict[str, Any], header: dict[str, Any], expires_at: datetime | None, now: float) -> list[str]:
    """Return what a server will refuse, or what is dangerous."""
    remarks: list[str] = []
    if not isinstance(claims.get("role"), str):
        remarks.append("It has no role, so Realtime refuses it.")
    if expires_at is None:
        remarks.append("It has no valid exp, so Realtime refuses it.")
    elif expires_at.timestamp() <= now:
        remarks.append("It has expired, so Realtime refuses it.")
    issued_at = _instant(claims.get("iat"))
    if issued_at is not None and issued_at.timestamp() > now + 60:
        remarks.append("It was issued in the future: a clock is wrong, here or where it was made.")
    if claims.get("role") == "service_role":
        remarks.append("It bypasses row level security; use it on servers only.")
    if header.get("alg") == "none":
        remarks.append("It is not signed, so every server refuses it.")
    return remarks


def _lines(fields: dict[str, Any]) -> Sequence[tuple[str, str]]:
    lines = [("kind", fields["kind"]), ("role", shown(fields["role"]) if fields["role"] is not None else "none")]
    if "claims" in fields:
        algorithm = f"{shown(fields['algorithm'])}"
        lines.append(("signed with", f"{algorithm}, key {shown(fields['key_id'])}" if fields["key_id"] else algorithm))
        if fields["issued_at"] is not None:
            lines.append(("issued", f"{fields['issued_at']:%Y-%m-%d %H:%M:%S} UTC"))
        if fields["expires_at"] is not None:
            word = "expired" if fields["expired"] else "expires"
            lines.append((word, f"{fields['expires']} ({fields['expires_at']:%Y-%m-%d %H:%M:%S} UTC)"))
        known = ("role", "exp", "iat")
        lines += [
            (f"claim {shown(name, 60)}", shown(value)) for name, value in fields["claims"].items() if name not in known
        ]
    return [*lines, *(("remark", remark) for remark in fields["remarks"])]
