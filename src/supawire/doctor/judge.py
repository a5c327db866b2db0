"""Judge facts about the connection, key, token and channels: a pure function from `Facts` to the steps of a report."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from supawire.doctor.credentials import Credential, is_number
from supawire.doctor.facts import CLOCK_TOLERANCE, ActionFacts, Facts, server_time
from supawire.doctor.judge_database import DATABASE_JUDGES
from supawire.doctor.problems import CHECKS, found
from supawire.doctor.report import Finding, Outcome, Step
from supawire.doctor.verdict import Verdict, ok, skip
from supawire.errors import RealtimeError

EXPIRES_SOON: Final = 60.0
CERTIFICATE_EXPIRES_SOON: Final = 3 * 86400.0
LATEST: Final = 32_503_680_000.0
"""The year 3000 in Unix seconds; a later exp is in milliseconds."""
ADVICE: Final = "See the section of the documentation."


def judge(facts: Facts) -> tuple[Step, ...]:
    """Return the steps of the report, in order."""
    steps: list[Step] = []
    for check in CHECKS:
        verdict = JUDGES[check.name](facts)
        steps.append(Step(check.name, check.title, verdict.outcome, verdict.detail, verdict.seconds, verdict.findings))
    return tuple(steps)


# --- network


def _judge_url(facts: Facts) -> Verdict:
    target = facts.target
    if target.url_error is not None:
        error = target.url_error
        hint = error.hint or "Pass the project's URL, as in https://abc.supabase.co."
        return Verdict.of(found("url-invalid", reason=error.message.rstrip("."), hint=hint))
    if not target.secure and not _is_local(target.host):
        return Verdict.of(found("url-not-encrypted", scheme=target.scheme, host=target.host))
    return ok(target.address)


def _is_local(host: str) -> bool:
    """Return whether a host is on this machine or in a private network, by its name."""
    return (
        "." not in host
        or host.endswith((".localhost", ".local", ".internal", ".test"))
        or host.startswith(("127.", "10.", "192.168.", *(f"172.{number}." for number in range(16, 32))))
    )


def _judge_dns(facts: Facts) -> Verdict:
    dns, target = facts.dns, facts.target
    if dns is None:
        return skip("a proxy resolves the name" if target.proxy and target.url_error is None else "not reached")
    if dns.no_answer:
        return Verdict.of(found("dns-no-answer", seconds=dns.seconds), timed=dns)
    if not dns.addresses:
        name = "dns-unknown" if target.project is None else "dns-no-project"
        return Verdict.of(found(name, host=target.host), timed=dns)
    return ok(", ".join(dns.addresses[:3]), dns)


def _judge_tcp(facts: Facts) -> Verdict:
    tcp, address = facts.tcp, facts.target.address
    if tcp is None:
        return _unreached(facts)
    if tcp.no_answer:
        return Verdict.of(found("tcp-no-answer", address=address, seconds=tcp.seconds), timed=tcp)
    if tcp.refused:
        return Verdict.of(found("tcp-refused", address=address), timed=tcp)
    if tcp.error is not None:
        return Verdict.of(found("tcp-failed", address=address, reason=tcp.error), timed=tcp)
    return ok("connected", tcp)


def _unreached(facts: Facts) -> Verdict:
    return skip("through the proxy" if facts.target.proxy and facts.target.url_error is None else "not reached")


def _judge_tls(facts: Facts) -> Verdict:
    tls, target = facts.tls, facts.target
    if not target.secure:
        return skip("the URL is one without TLS" if target.url_error is None else "not reached")
    if tls is None:
        return _unreached(facts)
    values = {"host": target.host, "address": target.address, "reason": tls.error, "seconds": tls.seconds}
    if tls.no_answer:
        return Verdict.of(found("tls-no-answer", **values), timed=tls)
    if tls.problem is not None:
        return Verdict.of(found(f"tls-{tls.problem}", **values), timed=tls)
    left = None if tls.not_after is None else tls.not_after - facts.now
    if left is not None and left < CERTIFICATE_EXPIRES_SOON:
        return Verdict.of(found("tls-expires-soon", host=target.host, days=left / 86400), timed=tls)
    return ok(tls.version + ("" if tls.not_after is None else f", valid until {_day(tls.not_after)}"), tls)


def _judge_proxy(facts: Facts) -> Verdict:
    target = facts.target
    direct = (facts.dns, facts.tcp, facts.tls)
    failed = any(
        one is not None and (one.no_answer or getattr(one, "error", None) or getattr(one, "refused", False))
        for one in direct
    )
    if target.variable is not None and not target.proxy and failed:
        return Verdict.of(found("proxy-not-used", variable=target.variable))
    if target.proxy:
        return ok("connections are opened through the given proxy")
    if target.variable is not None:
        return ok(f"{target.variable} is not needed: the direct connection works")
    return ok("none")


def _judge_http(facts: Facts) -> Verdict:
    http, target = facts.http, facts.target
    if http is None:
        return skip("not reached")
    values = {"address": target.address, "status": http.status, "location": http.location, "seconds": http.seconds}
    if http.no_answer:
        return Verdict.of(found("http-no-answer", **values), timed=http)
    if http.status is None:
        return Verdict.of(found("http-failed", address=target.address, reason=http.error), timed=http)
    name = _http_problem(facts, http.status, http.content_type)
    if name is not None:
        return Verdict.of(found(name, **values), timed=http)
    return ok(f"answers with status {http.status}", http)


def _http_problem(facts: Facts, status: int, content_type: str) -> str | None:
    if status == 540:
        return "http-paused"
    if status == 402:
        return "http-restricted"
    opened = facts.handshake is not None and facts.handshake.error is None
    if opened and status < 500:
        return None  # an old server, or a gateway with a route for WebSockets only
    if status in (301, 302, 303, 307, 308):
        return "http-redirect"
    if status >= 500:
        return "http-broken"
    return "http-web-page" if "html" in content_type.lower() and status < 400 else None


def _judge_handshake(facts: Facts) -> Verdict:
    handshake = facts.handshake
    if handshake is None:
        return skip("the key cannot be used" if facts.http is not None else "not reached")
    error, status = handshake.error, handshake.status
    if handshake.polling_works:
        reason = "no answer in time" if error is None else f"status {status}" if status is not None else error.message
        return Verdict.of(found("websockets-blocked", reason=reason), timed=handshake)
    if handshake.no_answer:
        return Verdict.of(found("handshake-no-answer", seconds=handshake.seconds), timed=handshake)
    if error is None:
        return ok("accepted", handshake)
    if status in (301, 302, 303, 307, 308):
        return Verdict.of(found("handshake-redirect", status=status), timed=handshake)
    if status in (200, 400, 426):
        return Verdict.of(found("upgrade-removed", status=status), timed=handshake)
    if status is None:
        return Verdict.of(found("handshake-failed", reason=error.message), timed=handshake)
    return Verdict.of(_server(error, "handshake-refused"), timed=handshake)


# --- key, token, clock


def _judge_key(facts: Facts) -> Verdict:
    key, target = facts.target.key, facts.target
    accepted = facts.handshake is not None and facts.handshake.error is None
    findings: list[Finding] = []
    if key.cut and not accepted:
        findings.append(found("key-cut"))
    elif target.key_error is not None:
        findings.append(found("key-damaged", reason=target.key_error))
    elif key.kind == "unknown":
        findings.append(found("key-unusual" if accepted else "key-not-a-key"))
    if key.kind == "jwt":
        findings += _claims("key", key, facts)
    if target.project is not None and key.project not in (None, target.project) and "supabase" not in str(key.project):
        findings.append(found("key-other-project", other=key.project, project=target.project))
    return Verdict.of(*findings) if findings else ok(_described(key))


def _judge_token(facts: Facts) -> Verdict:
    token, target = facts.target.token, facts.target
    if token is None:
        return skip("none given: the server uses the key")
    if token.kind in ("publishable", "secret"):
        return Verdict.of(found("token-is-a-key"))
    if token.cut:
        return Verdict.of(found("token-cut"))
    if target.token_error is not None:
        return Verdict.of(found("token-damaged", reason=target.token_error))
    if token.kind != "jwt":
        return Verdict.of(found("token-not-a-jwt"))
    findings = _claims("token", token, facts)
    if target.project is not None and token.project not in (None, target.project):
        findings.append(found("token-other-project", other=token.project, project=target.project))
    subject = token.claims.get("sub")
    if subject is not None and not isinstance(subject, str):
        findings.append(found("token-subject"))
    return Verdict.of(*findings) if findings else ok(_described(token))


def _claims(what: str, credential: Credential, facts: Facts) -> list[Finding]:
    """Return what is wrong with the role and the expiry of a JWT, by the clock of the server."""
    missing = [
        name
        for name, there in (("role", credential.role is not None), ("exp", is_number(credential.claims.get("exp"))))
        if not there
    ]
    if missing:
        return [found(f"{what}-claims", missing=" and no ".join(missing))]
    exp = credential.exp
    assert exp is not None  # listed as missing otherwise
    left = exp - server_time(facts.now, facts.http)
    if left <= 0:
        return [found(f"{what}-expired", at=_moment(exp), ago=_duration(-left))]
    if what == "token" and exp > LATEST:
        return [found("token-milliseconds", year=_year(exp))]
    if what == "token" and left < EXPIRES_SOON:
        return [found("token-expires-soon", seconds=left)]
    return []


def _described(credential: Credential) -> str:
    kinds = {"jwt": "JWT", "publishable": "publishable key", "secret": "secret key"}
    role = credential.role
    notes = [kinds.get(credential.kind, "")] + ([f"role {role}"] if role else [])
    if role == "service_role":
        notes.append("which bypasses row level security")
    if credential.exp is not None:
        notes.append(f"valid until {_day(credential.exp)}")
    return ", ".join(notes)


def _judge_clock(facts: Facts) -> Verdict:
    offset = None if facts.http is None else facts.http.clock_offset
    if offset is None:
        return skip("the server's time is not known")
    seconds, direction = abs(offset), "behind" if offset > 0 else "ahead of"
    if seconds < CLOCK_TOLERANCE:
        return ok("agrees with the server's")
    for what, credential in (("token", facts.target.token), ("key", facts.target.key)):
        exp = None if credential is None else credential.exp
        if exp is not None and facts.now < exp <= facts.now + offset:
            return Verdict.of(found("clock-expiry", seconds=seconds, direction=direction, what=what))
    return Verdict.of(found("clock-skew", seconds=seconds, direction=direction))


# --- channels


def _judge_public_join(facts: Facts) -> Verdict:
    join = facts.public_join
    if join is None:
        return skip("not reached")
    if join.no_answer:
        return Verdict.of(found("join-no-answer", seconds=join.seconds), timed=join)
    if join.error is not None and join.error.code == "PrivateOnly":
        return Verdict.of(found("public-refused"), timed=join)
    return _judged(join, "joined", "public-refused-join")


def _judge_presence(facts: Facts) -> Verdict:
    presence = facts.presence
    if presence is None:
        return skip("not reached")
    if presence.no_answer or (presence.error is None and not presence.arrived):
        return Verdict.of(found("presence-no-entry", seconds=presence.seconds), timed=presence)
    return _judged(presence, "the entry came back", "presence-refused")


def _judge_broadcast(facts: Facts) -> Verdict:
    broadcast = facts.broadcast
    if broadcast is None:
        return skip("not reached")
    if broadcast.error is None and not broadcast.arrived:
        name = "broadcast-not-confirmed" if broadcast.no_answer else "broadcast-not-delivered"
        return Verdict.of(found(name, seconds=broadcast.seconds), timed=broadcast)
    return _judged(broadcast, f"round trip {broadcast.seconds * 1000:.0f} ms", "broadcast-refused")


def _judge_publish(facts: Facts) -> Verdict:
    publish = facts.publish
    if publish is None:
        return skip("not reached")
    if publish.error is None and not publish.arrived:
        name = "publish-no-answer" if publish.no_answer else "publish-not-delivered"
        return Verdict.of(found(name, seconds=publish.seconds), timed=publish)
    return _judged(publish, f"arrived after {publish.seconds * 1000:.0f} ms", "publish-refused")


def _judge_private_join(facts: Facts) -> Verdict:
    join, target = facts.private_join, facts.target
    if target.topic is None:
        return skip("no topic given")
    if join is None:
        return skip(facts.unusable_token or "not reached")
    if join.no_answer:
        return Verdict.of(found("private-no-answer", seconds=join.seconds), timed=join)
    return _judged(join, f"joined as {target.role}", "private-refused")


def _judge_changes(facts: Facts) -> Verdict:
    changes, target = facts.changes, facts.target
    if target.table is None:
        return skip("no table given")
    if target.filter_error is not None:
        return skip("the filter is not valid")
    if changes is None:
        return skip(facts.unusable_token or "not reached")
    if changes.no_answer:
        return Verdict.of(
            found("changes-not-ready", seconds=changes.seconds, table=f"{target.schema}.{target.table}"), timed=changes
        )
    unseen = "" if target.database else "; which rows the role may read is checked with a database URL"
    return _judged(changes, f"live{unseen}", "changes-refused")


def _judged(action: ActionFacts, detail: str, name: str) -> Verdict:
    if action.error is None:
        return ok(detail, action)
    return Verdict.of(_server(action.error, name), timed=action)


def _server(error: RealtimeError, name: str) -> Finding:
    """Return the finding for an error of the server, with the texts of the error table."""
    return Finding(name, Outcome.FAIL, _sentence(error.message), error.hint or ADVICE, docs=error.docs)


def _sentence(text: str) -> str:
    text = text.strip() or "unknown error"
    return text[0].upper() + text[1:].rstrip(".") + "."


# --- texts


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(min(max(seconds, 0.0), LATEST), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(min(max(seconds, 0.0), LATEST), UTC).strftime("%Y-%m-%d")


def _year(seconds: float) -> int:
    return int(1970 + seconds / 31_556_952)


def _duration(seconds: float) -> str:
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds / size)
            return f"{count} {name}{'' if count == 1 else 's'}"
    return f"{seconds:.0f} seconds"


JUDGES: Final[dict[str, Callable[[Facts], Verdict]]] = {
    "url": _judge_url,
    "dns": _judge_dns,
    "tcp": _judge_tcp,
    "tls": _judge_tls,
    "proxy": _judge_proxy,
    "http": _judge_http,
    "handshake": _judge_handshake,
    "key": _judge_key,
    "token": _judge_token,
    "clock": _judge_clock,
    "public-join": _judge_public_join,
    "presence": _judge_presence,
    "broadcast": _judge_broadcast,
    "publish": _judge_publish,
    "private-join": _judge_private_join,
    "changes": _judge_changes,
    **DATABASE_JUDGES,
}
