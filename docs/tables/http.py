"""What follows an answer by HTTP, from `supawire.core.http_broadcast` and the table of what the server says."""

import json

from docs.tables import rows, table
from supawire._server_errors import HTTP_ANSWERS
from supawire.core.http_broadcast import HttpOutcome, judge

OTHERS = [("202", 202), ("200 or another success", 200), ("a redirect", 302), ("503", 503), ("500, 502, 504", 502)]
MIDWAY = b"upstream connect error or disconnect/reset before headers"

FOLLOWS = {
    HttpOutcome.ACCEPTED: "the call returns",
    HttpOutcome.NO_ROUTE: "the batch form is used from now on, until the next connection; for bytes, and from the batch form itself: raised",
    HttpOutcome.REFRESH: "the token provider is asked once, and the message sent once more if the token is a newer one; else raised",
    HttpOutcome.LATER: "tried again, until the timeout; then raised",
    HttpOutcome.UNSURE: "raised with `maybe_sent=True`; a message with an `id` is tried again",
    HttpOutcome.STRANGE: "raised with `maybe_sent=True`",
    HttpOutcome.REFUSED: "raised",
}


@table("http-answers")
def http_answers() -> str:
    """Each verdict, the answers that lead to it, and what follows."""
    answers: dict[HttpOutcome, list[str]] = {verdict: [] for verdict in HttpOutcome}
    for shown, status in OTHERS:
        answers[judge(status, b"")].append(shown)
    for row in HTTP_ANSWERS:
        status = int(row.code or 0)
        text = f"{status} “{row.starts} …”" if row.starts else str(status)
        answers[judge(status, json.dumps({"message": row.starts}).encode())].append(text)
    answers[judge(503, MIDWAY)].append("503 of a proxy that lost the server midway")
    answers[HttpOutcome.LATER].append("no connection")
    answers[HttpOutcome.UNSURE].append("the connection ends without an answer")
    return rows(
        ["answer", "that means", "what follows"],
        [[", ".join(answers[verdict]), verdict.value, FOLLOWS[verdict]] for verdict in HttpOutcome],
    )
