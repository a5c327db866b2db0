"""Table of HTTP answers and the client's reactions, from `core.http_broadcast` and the table of server errors."""

import json

from docs.tables import rows, table
from supawire._server_errors import HTTP_ANSWERS
from supawire.core.http_broadcast import HttpOutcome, classify

OTHERS = [("202", 202), ("200 or another success", 200), ("a redirect", 302), ("503", 503), ("500, 502, 504", 502)]
MIDWAY = b"upstream connect error or disconnect/reset before headers"

FOLLOWS = {
    HttpOutcome.ACCEPTED: "the call returns",
    HttpOutcome.NO_ROUTE: "the batch form is used from now on, until the next connection; for bytes, and from the batch form itself: raised",
    HttpOutcome.REFRESH: "the token provider is called once, and the message is sent again if the token is newer; otherwise raised",
    HttpOutcome.RETRY_LATER: "retried until the timeout, then raised",
    HttpOutcome.UNKNOWN: "raised with `maybe_sent=True`; a message with an `id` is retried",
    HttpOutcome.UNEXPECTED: "raised with `maybe_sent=True`",
    HttpOutcome.REFUSED: "raised",
}


@table("http-answers")
def http_answers() -> str:
    """Return the table of verdicts with the answers that lead to each, and the reaction."""
    answers: dict[HttpOutcome, list[str]] = {verdict: [] for verdict in HttpOutcome}
    for shown, status in OTHERS:
        answers[classify(status, b"")].append(shown)
    for row in HTTP_ANSWERS:
        status = int(row.code or 0)
        text = f"{status} “{row.starts} …”" if row.starts else str(status)
        answers[classify(status, json.dumps({"message": row.starts}).encode())].append(text)
    answers[classify(503, MIDWAY)].append("503 of a proxy that lost the connection to the server")
    answers[HttpOutcome.RETRY_LATER].append("no connection")
    answers[HttpOutcome.UNKNOWN].append("the connection ends without an answer")
    return rows(
        ["answer", "meaning", "what the client does"],
        [[", ".join(answers[verdict]), verdict.value, FOLLOWS[verdict]] for verdict in HttpOutcome],
    )
