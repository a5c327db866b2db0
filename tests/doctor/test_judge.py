"""The judgement of facts that no server on this machine can bring about, and of every finding there is."""

from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from supawire._server_errors import connect_error, join_error
from supawire.doctor.credentials import Credential, read_credential
from supawire.doctor.facts import (
    ActionFacts,
    ColumnFacts,
    DatabaseFacts,
    DnsFacts,
    Facts,
    HandshakeFacts,
    HttpFacts,
    MessagesFacts,
    PolicyFacts,
    RowsFacts,
    SlotFacts,
    TableFacts,
    Target,
    TcpFacts,
    TlsFacts,
)
from supawire.doctor.judge import JUDGES, judge
from supawire.doctor.problems import CHECKS, PROBLEMS
from supawire.doctor.report import Outcome, Report
from supawire.errors import ConnectError

NOW = datetime(2026, 3, 9, 8, 15, tzinfo=UTC).timestamp()
DAY = 86400.0
HOSTED = Target(
    scheme="https",
    host="abcdefghij.supabase.co",
    port=443,
    project="abcdefghij",
    key=Credential("jwt", {"role": "anon", "ref": "abcdefghij", "exp": NOW + DAY}),
)
OPENED = HandshakeFacts()
TABLE = TableFacts(
    quoted="public.orders",
    kind="r",
    persistence="p",
    identity="d",
    columns=(
        ColumnFacts("id", "bigint", readable=True, in_key=True),
        ColumnFacts("note", "text", readable=True, in_key=False),
    ),
    identity_columns=("id",),
    published=True,
)
DATABASE = DatabaseFacts(
    version="17.2",
    max_slots=5,
    publication=True,
    operations=frozenset({"insert", "update", "delete"}),
    table_read=True,
    table=TABLE,
    partitioned=True,
    partitions=("FOR VALUES FROM ('2026-03-09 00:00:00') TO ('2026-03-10 00:00:00')",),
)
WITH_TABLE = replace(HOSTED, table="orders", database=True)


def of(target: Target = HOSTED, **more: Any) -> Facts:
    return Facts(target=target, now=NOW, **more)


def database(**more: Any) -> Facts:
    return of(WITH_TABLE, database=replace(DATABASE, **more))


def key(**claims: Any) -> Target:
    return replace(HOSTED, key=Credential("jwt", claims))


def token(credential: Credential) -> Target:
    return replace(HOSTED, token=credential)


USER = {"role": "authenticated", "exp": NOW + DAY}

CASES: list[tuple[str, Facts, set[str]]] = [
    ("healthy", of(dns=DnsFacts(addresses=("1.2.3.4",)), tcp=TcpFacts(), tls=TlsFacts(version="TLSv1.3")), set()),
    ("healthy-database", database(), set()),
    (
        "unencrypted",
        of(replace(HOSTED, scheme="http")),
        {"url-not-encrypted"},
    ),
    ("private-address-unencrypted", of(replace(HOSTED, scheme="http", host="192.168.1.4")), set()),
    ("no-project", of(dns=DnsFacts(error="no such host")), {"dns-no-project"}),
    ("no-host", of(replace(HOSTED, project=None), dns=DnsFacts(error="no such host")), {"dns-unknown"}),
    ("no-name-server", of(dns=DnsFacts(no_answer=True, seconds=2)), {"dns-no-answer"}),
    ("port-filtered", of(tcp=TcpFacts(no_answer=True, seconds=2)), {"tcp-no-answer"}),
    ("no-route", of(tcp=TcpFacts(error="No route to host")), {"tcp-failed"}),
    ("certificate-of-tomorrow", of(tls=TlsFacts(problem="not-yet-valid")), {"tls-not-yet-valid"}),
    ("old-protocol", of(tls=TlsFacts(problem="failed", error="no shared cipher")), {"tls-failed"}),
    (
        "proxy-in-the-environment",
        of(replace(HOSTED, variable="HTTPS_PROXY"), tcp=TcpFacts(no_answer=True, seconds=2)),
        {"proxy-not-used", "tcp-no-answer"},
    ),
    ("proxy-that-is-not-needed", of(replace(HOSTED, variable="HTTPS_PROXY"), tcp=TcpFacts()), set()),
    ("old-server-without-ping", of(http=HttpFacts(status=404), handshake=OPENED), set()),
    ("unusual-key", of(replace(HOSTED, key=Credential("unknown")), handshake=OPENED), {"key-unusual"}),
    ("self-hosted-issuer", of(key(role="anon", exp=NOW + DAY, iss="supabase-demo")), set()),
    ("key-of-another-project", of(key(role="anon", exp=NOW + DAY, ref="zyxwvutsrq")), {"key-other-project"}),
    ("key-that-has-expired", of(key(role="anon", exp=NOW - 5)), {"key-expired"}),
    (
        "token-of-another-project",
        of(token(Credential("jwt", {**USER, "iss": "https://zyxwvutsrq.supabase.co/auth/v1"}))),
        {"token-other-project"},
    ),
    ("token-with-a-number-as-sub", of(token(Credential("jwt", {**USER, "sub": 5}))), {"token-subject"}),
    ("clock-ahead", of(http=HttpFacts(status=200, date=NOW - 100, at=NOW)), {"clock-skew"}),
    (
        "key-expired-only-for-a-wrong-clock",
        of(key(role="anon", exp=NOW - 5), http=HttpFacts(status=200, date=NOW - 100, at=NOW), handshake=OPENED),
        {"clock-skew"},
    ),
    ("publish-lost", of(publish=ActionFacts(seconds=4)), {"publish-not-delivered"}),
    ("publish-not-answered", of(publish=ActionFacts(seconds=4, no_answer=True)), {"publish-no-answer"}),
    (
        "database-of-another-project",
        of(replace(WITH_TABLE, database_project="zyxwvutsrq"), database=DATABASE),
        {"database-other-project"},
    ),
    ("read-replica", database(replica=True), {"database-replica"}),
    ("few-privileges", database(incomplete="permission denied"), {"database-incomplete"}),
    (
        "few-privileges-for-the-table",
        database(incomplete="permission denied", table=None, table_read=False),
        {"database-incomplete"},
    ),
    ("ipv6-only", database(problem="ipv6", version=""), {"database-ipv6"}),
    ("database-refuses", database(problem="refused", version=""), {"database-refused"}),
    ("no-connection-left", database(problem="crowded", version=""), {"database-crowded"}),
    ("database-not-answering", database(no_answer=True, version="", seconds=5), {"database-unreachable"}),
    ("wal-level", database(wal_level="replica"), {"wal-level"}),
    ("no-slot-left", database(max_slots=1, slots=(SlotFacts("mine", False, False, 0),)), {"slots-used"}),
    (
        "last-slot-is-the-servers",
        database(max_slots=1, slots=(SlotFacts("supabase_realtime_replication_slot", True, False, 0),)),
        set(),
    ),
    ("lost-slot", database(slots=(SlotFacts("mine", False, True, 0),)), {"slot-lost"}),
    ("unread-slot", database(slots=(SlotFacts("mine", False, False, 5_000_000_000),)), {"slot-behind"}),
    ("read-slot", database(slots=(SlotFacts("mine", True, False, 5_000_000_000),)), set()),
    (
        "yesterdays-partition",
        database(partitions=("FOR VALUES FROM ('2026-03-08 00:00:00') TO ('2026-03-09 00:00:00')",)),
        {"partition-missing"},
    ),
    ("default-partition", database(partitions=("DEFAULT",)), set()),
    ("identity-by-an-index", database(table=replace(TABLE, identity="i", identity_columns=("note",))), set()),
    (
        "role-bypasses-policies",
        database(table=replace(TABLE, row_security=True, bypass=True)),
        set(),
    ),
    (
        "policy-cannot-be-evaluated",
        database(
            table=replace(TABLE, row_security=True, policies=(PolicyFacts("p", True, "r"),)),
            rows=RowsFacts(skipped="not a member"),
        ),
        set(),
    ),
    (
        "restrictive-policies-only",
        database(table=replace(TABLE, row_security=True, policies=(PolicyFacts("p", False, "r"),))),
        {"rows-no-policy"},
    ),
    (
        "policies-of-messages-not-evaluated",
        of(
            replace(HOSTED, topic="room", database=True),
            database=replace(DATABASE, messages=MessagesFacts(skipped="no")),
        ),
        set(),
    ),
]


@pytest.mark.parametrize(("facts", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_facts_are_judged(facts: Facts, expected: set[str]):
    """The findings are exactly these."""
    report = Report("x", judge(facts), 0.0)
    assert {finding.name for finding in report.findings} == expected


def test_nothing_seen_is_nothing_wrong():
    """Without any facts, no step fails, and each step says why it was skipped."""
    steps = judge(of())
    assert not any(step.findings for step in steps)
    assert all(step.detail for step in steps)
    assert [step.name for step in steps] == [check.name for check in CHECKS] == list(JUDGES)


def test_each_problem_belongs_to_a_step():
    """Names are unique, steps exist, and each text says something on one line."""
    names = [problem.name for problem in PROBLEMS]
    assert len(names) == len(set(names))
    assert {problem.step for problem in PROBLEMS} <= {check.name for check in CHECKS}
    assert all(
        "\n" not in problem.says + problem.remedy and problem.says.endswith(".")
        for problem in PROBLEMS
        if problem.name != "url-invalid"
    )


def test_each_problem_is_brought_about_by_a_test():
    """Each row of the table is expected by a case of this file or by a set-up."""
    pytest.importorskip("psycopg")
    pytest.importorskip("trustme")
    from .setups import SET_UPS

    expected = set[str]().union(*(case[2] for case in CASES), *(setup.expected for setup in SET_UPS))
    assert sorted({problem.name for problem in PROBLEMS} - expected) == []


@pytest.mark.parametrize(
    "reason", ["InvalidJWTToken: Token has expired 5 seconds ago", "Unauthorized: no", "Unknown: x"]
)
def test_an_error_of_the_server_has_the_texts_of_the_error_table(reason: str):
    """The remedy of a refused join is the hint of the error."""
    error = join_error(reason)
    step = judge(of(public_join=ActionFacts(error=error)))[[check.name for check in CHECKS].index("public-join")]
    assert step.outcome is Outcome.FAIL
    assert [(finding.remedy, finding.docs) for finding in step.findings] == [(error.hint, error.docs)]


def test_a_refused_handshake_has_the_texts_of_the_error_table():
    """The remedy of a refused handshake is the hint of the error."""
    error = connect_error(404, b'{"error":"Tenant not found"}')
    found = Report("x", judge(of(handshake=HandshakeFacts(error=error, status=404))), 0.0).findings
    assert [finding.remedy for finding in found] == [error.hint]
    lost = HandshakeFacts(error=ConnectError("the peer closed the connection"))
    assert [finding.name for finding in Report("x", judge(of(handshake=lost)), 0.0).findings] == ["handshake-failed"]


@pytest.mark.parametrize(
    ("text", "kind", "cut"),
    [
        ("sb_publishable_ACJWlzQHlZjBrEguHvfOxg_3BJgxAaH", "publishable", False),
        ("sb_secret_ACJWlzQHlZjBrEguHv", "secret", True),
        ("eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9." + "x" * 43, "jwt", False),
        ("eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9." + "x" * 40, "jwt", True),
        ("eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9", "damaged", True),
        ("eyJhbGciOiJIUzI1NiJ9.!!!!.xxx", "damaged", False),
        ("super-secret-jwt-token-with-at-least-32-characters-long", "unknown", False),
        ("one.two.three", "unknown", False),
        ("", "unknown", False),
        (".." + "eyJ" * 5, "unknown", False),
        ("eyJ" + "[" * 70_000, "damaged", True),
    ],
)
def test_the_kind_of_a_key_is_recognized(text: str, kind: str, cut: bool):
    """Kinds are told apart by form, and a missing end is noticed."""
    credential = read_credential(text)
    assert (credential.kind, credential.cut) == (kind, cut)


def test_claims_of_any_type_are_accepted():
    """Claims of unexpected types have no role, no expiry and no project."""
    odd = Credential("jwt", {"role": 5, "exp": True, "ref": [], "iss": {}})
    assert (odd.role, odd.exp, odd.project) == (None, None, None)
    assert Credential("jwt", {"exp": 10**40}).exp is None


def test_a_report_is_text_and_json():
    """The text groups skipped steps and shows remedy and SQL; the dictionary has every step."""
    report = Report("abcdefghij.supabase.co:443", judge(database(wal_level="replica")), 0.25)
    text = str(report)
    assert "alter system set wal_level" in text
    assert "presence to" not in text and "HTTP to WebSocket" in text
    assert report.summary == "1 problem in 0.2 s"
    assert not report.healthy
    assert report.step("wal").outcome is Outcome.FAIL
    assert [step["name"] for step in report.to_dict()["steps"]] == [check.name for check in CHECKS]
    with pytest.raises(KeyError):
        report.step("nothing")
