"""Options, URLs, secrets and the checks of arguments."""

import copy
import enum
import json
import pickle
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import FrozenInstanceError, dataclass, fields
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supawire import options
from supawire.errors import InvalidArgumentError
from supawire.options import DEFAULT, Backoff, ChannelOptions, ClientOptions, Endpoint, Limits, Secret, SessionOptions

KEY = "anon-key"


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidArgumentError) as caught:
        call()
    return str(caught.value)


# --- URLs


HOSTED = ("wss://abc.supabase.co/realtime/v1/websocket", "https://abc.supabase.co/realtime/v1/api")
STACK = ("ws://127.0.0.1:8000/realtime/v1/websocket", "http://127.0.0.1:8000/realtime/v1/api")
DIRECT = ("ws://realtime-dev.localhost:4000/socket/websocket", "http://realtime-dev.localhost:4000/api")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://abc.supabase.co", HOSTED),
        ("https://abc.supabase.co/", HOSTED),
        ("https://ABC.supabase.co//", HOSTED),
        ("HTTPS://abc.supabase.co", HOSTED),
        ("wss://abc.supabase.co", HOSTED),
        ("https://abc.supabase.co/realtime", HOSTED),
        ("https://abc.supabase.co/realtime/v1", HOSTED),
        ("https://abc.supabase.co/realtime/v1/", HOSTED),
        ("wss://abc.supabase.co/realtime/v1/websocket", HOSTED),
        ("wss://abc.supabase.co/realtime/v1/websocket/", HOSTED),
        ("https://abc.supabase.co/realtime/v1/api", HOSTED),
        ("https://abc.supabase.co/realtime/v1/api/broadcast", HOSTED),
        ("https://abc.supabase.co#fragment", HOSTED),
        ("http://127.0.0.1:8000", STACK),
        ("ws://127.0.0.1:8000/realtime/v1", STACK),
        ("ws://realtime-dev.localhost:4000/socket/websocket", DIRECT),
        ("http://realtime-dev.localhost:4000/socket", DIRECT),
        ("http://realtime-dev.localhost:4000/socket/", DIRECT),
        (
            "https://gate.example/a/b/realtime/v1/websocket",
            ("wss://gate.example/a/b/realtime/v1/websocket", "https://gate.example/a/b/realtime/v1/api"),
        ),
        (
            "https://gate.example/a",
            ("wss://gate.example/a/realtime/v1/websocket", "https://gate.example/a/realtime/v1/api"),
        ),
        (
            "ws://[::1]:4000/x/socket/websocket",
            ("ws://[::1]:4000/x/socket/websocket", "http://[::1]:4000/x/api"),
        ),
        ("http://localhost", ("ws://localhost/realtime/v1/websocket", "http://localhost/realtime/v1/api")),
    ],
)
def test_every_form_of_url_is_accepted(url: str, expected: tuple[str, str]):
    """A project URL and each form copied from other places give the same two addresses."""
    endpoint = Endpoint.of(url, KEY)
    assert (endpoint.socket_url.partition("?")[0], endpoint.rest_url) == expected


def test_the_query_of_a_url_is_kept():
    """Parameters in the URL are kept, params= overrides them; key and version come from the arguments only."""
    url = "wss://h/socket/websocket?apikey=other&vsn=9&log_level=info&a=1"
    endpoint = Endpoint.of(url, KEY, protocol="1.0.0", params={"a": "2", "b": "x y&z"})
    query = parse_qs(urlsplit(endpoint.reveal()).query)
    assert query == {"log_level": ["info"], "a": ["2"], "b": ["x y&z"], "vsn": ["1.0.0"], "apikey": [KEY]}


def jwt(header: str = "eyJhbGciOiJIUzI1NiJ9", claims: str = "eyJyb2xlIjoiYW5vbiJ9") -> str:
    return f"{header}.{claims}.c2lnbmF0dXJl-_"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (f'"{jwt()}"', "begins or ends with a quotation mark"),
        (f"'{jwt()}", "begins or ends with a quotation mark"),
        ("'sb_publishable_abc'", "begins or ends with a quotation mark"),
        (f"Bearer {jwt()}", "without the prefix Bearer"),
        (f"bearer {jwt()}", "without the prefix Bearer"),
        (jwt()[1:], "its header must be a JSON object"),
        (jwt(header=""), "its header must be a JSON object"),
        (jwt(header="W10"), "its header must be a JSON object"),
        (jwt(claims="eyJyb2xlIjoi"), "its payload must be a JSON object"),
        (jwt(header="é"), "printable ASCII"),
        (jwt().rpartition(".")[0], "2 parts instead of three"),
        (f"{jwt()}.{jwt()}", "6 parts instead of three"),
        ("eyJhbGciOiJIUzI1NiJ9", "1 parts instead of three"),
        (jwt(claims="W1tb" * 100_000), "its payload must be a JSON object"),
    ],
    ids=lambda value: value[:20],
)
@pytest.mark.parametrize("name", ["key", "token", "token of a channel", "Secret"])
def test_damaged_jwts_are_refused(name: str, given: str, expected: str):
    """For these the server would send an error without a reason; the client's error states the flaw and what to do."""
    calls: dict[str, Callable[[], object]] = {
        "key": lambda: Endpoint.of("https://h", given),
        "token": lambda: ClientOptions(token=given),
        "token of a channel": lambda: ChannelOptions(token=given),
        "Secret": lambda: ClientOptions(token=Secret(given)),
    }
    if name == "Secret" and not expected.startswith(("begins", "its", "1", "2", "6")):
        return  # created from text that was checked
    with pytest.raises(InvalidArgumentError) as caught:
        calls[name]()
    assert expected in str(caught.value) and given[-12:] not in str(caught.value)


@pytest.mark.parametrize(
    "text", [jwt(), "sb_publishable_abc_def", "sb_secret_abc", "any-key-of-a-gateway", "a.b", "e.y.J.x"]
)
def test_jwts_and_keys_of_other_forms_pass(text: str):
    """Only text that looks like a JWT is checked; a gateway may have keys of its own."""
    assert Endpoint.of("https://h", text).key == Secret(text)
    assert ClientOptions(token=text).secret == Secret(text)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=".\"'`"), min_size=1))
def test_any_key_is_escaped(key: str):
    """The key reaches the server unchanged, whatever characters it has, and is only in reveal()."""
    endpoint = Endpoint.of("https://h", key)
    assert parse_qs(urlsplit(endpoint.reveal()).query)["apikey"] == [key]
    assert parse_qs(urlsplit(endpoint.socket_url).query) == {"vsn": ["2.0.0"]}
    assert repr(endpoint) == repr(Endpoint.of("https://h", "other"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("abc.supabase.co", "must begin with https://"),
        ("localhost:4000", "must begin with https://"),
        ("", "must not be empty"),
        ("ftp://abc.supabase.co", "must begin with https://"),
        ("https://", "must begin with https://"),
        ("https://h:99999", "cannot be parsed"),
        ("https://h:x", "cannot be parsed"),
        ("https://[::1", "cannot be parsed"),
        ("https://user:pass@h", "user name or password"),
        ("https://h\r\nx: y", "line break"),
        ("https://h\0", "control character"),
        ("https://h ", "blank"),
        ("https://h\\x", "blank or another character"),
        ("https://bücher.example", "xn--"),
        ("https://supabase.com/dashboard/project/abcdef", "https://abcdef.supabase.co"),
        ("https://abc.supabase.co/rest/v1/", "another service"),
        (None, "must be a string"),
        (b"https://h", "must be a string"),
    ],
)
def test_invalid_urls_are_refused(url: Any, expected: str):
    """A URL that is invalid or could inject into a request is refused, with the correct form."""
    assert expected in refused(lambda: Endpoint.of(url, KEY))


def test_a_refused_url_is_not_shown():
    """A URL may contain a key, so the error does not repeat it."""
    for url in (
        "https://h/?apikey=hush\n",
        "https://h/?apikey=hush ",
        "ftp://h/?apikey=hush",
        "https://h:x/?apikey=hush",
    ):
        assert "hush" not in refused(lambda url=url: Endpoint.of(url, KEY))


@pytest.mark.parametrize(("key", "expected"), [("", "empty"), ("a b", "blanks"), ("a\n", "line break"), ("ü", "ASCII")])
def test_invalid_keys_are_refused_without_showing_them(key: str, expected: str):
    """The error does not contain the key."""
    text = refused(lambda: Endpoint.of("https://h", key))
    assert expected in text
    assert not key or repr(key) not in text
    assert "must be a string, not NoneType" in refused(lambda: Endpoint.of("https://h", cast("str", None)))


def test_publishable_keys_are_accepted():
    """A key may be of the newer kind instead of a JWT."""
    assert Endpoint.of("https://h", "sb_publishable_abc").key.reveal() == "sb_publishable_abc"


@pytest.mark.parametrize("host", ["realtime-dev.localhost", "abc.supabase.co:443", "[::1]:80"])
def test_the_host_can_be_overridden(host: str):
    """Host header and TLS can use another name than the URL, as a self-hosted server needs."""
    assert Endpoint.of("https://10.0.0.1", KEY, host=host).host == host


@pytest.mark.parametrize("host", ["", "https://h", "h/x", "h\n", "h h"])
def test_invalid_hosts_are_refused(host: str):
    """A host with a scheme, a path or blanks is refused."""
    assert "host" in refused(lambda: Endpoint.of("https://h", KEY, host=host))


# --- secrets


def test_a_secret_never_shows_its_text():
    """repr, str, format, pickle and vars do not reveal the text."""
    secret = Secret("hush")
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>20}", repr([secret])]
    assert not [text for text in shown if "hush" in text]
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)
    assert not hasattr(secret, "__dict__")
    assert copy.deepcopy(secret) is copy.copy(secret) is secret
    assert secret.reveal() == "hush"


def test_secrets_are_compared_by_their_text():
    """Equal tokens are equal, so an unchanged token is recognized."""
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != cast("object", "a")
    assert len({Secret("a"), Secret("a")}) == 1


def test_no_option_shows_a_secret():
    """The repr of options shows neither token, headers, parameters nor proxy, which may contain secrets."""
    made = ClientOptions(
        token="hush", headers={"x-token": "hush"}, params={"t": "hush"}, proxy="http://u:hush@127.0.0.1:1"
    )
    assert "hush" not in repr(made)
    assert "hush" not in repr(ChannelOptions(token="hush"))
    assert made.secret == Secret("hush")


# --- the options of connect


def test_defaults_are_the_documented_ones():
    """Each omitted option has the documented value."""
    made = ClientOptions()
    assert (made.protocol, made.heartbeat, made.timeout, made.open_timeout) == ("2.0.0", 25, 10, 20)
    assert made.backoff == Backoff(initial=1.5, maximum=30, factor=2, jitter=1.0, max_attempts=None)
    assert made.rejoin_backoff == Backoff(initial=1, maximum=30)
    assert (made.offline, made.queue_size, made.idle_disconnect) == ("raise", 1000, None)
    assert made.limits == Limits()
    assert made.session() == SessionOptions()


def test_limits_are_the_documented_ones():
    """Limits() and the hosted plans have the documented numbers."""
    assert Limits() == Limits(
        channels=100,
        joins_per_second=50,
        messages_per_second=None,
        presence_calls=5,
        presence_window=30,
        payload_bytes=3_000_000,
        frame_bytes=5_000_000,
    )
    assert [plan.messages_per_second for plan in (Limits.free(), Limits.pro(), Limits.team())] == [100, 500, 2500]
    assert Limits.free().payload_bytes == 256_000
    assert [plan.presence_per_second for plan in (Limits.free(), Limits.pro(), Limits.team())] == [20, 50, 1000]
    assert {plan.presence_keys for plan in (Limits.free(), Limits.pro(), Limits.team())} == {10}
    off = Limits.off()
    assert {getattr(off, field.name) for field in fields(off) if field.name != "presence_window"} == {None}


@pytest.mark.parametrize(
    ("given_options", "expected"),
    [
        ({"heartbeat": 0}, "above 0 and below 60 seconds, not 0"),
        ({"heartbeat": 60}, "nearest allowed value is 59"),
        ({"heartbeat": 90.0}, "sends nothing for 60 s"),
        ({"heartbeat": True}, "a number"),
        ({"heartbeat": float("nan")}, "a number"),
        ({"heartbeat": "25"}, "not '25'"),
        ({"heartbeat": 10**400}, "a number"),
        ({"timeout": 0}, "above 0"),
        ({"timeout": None}, "a number"),
        ({"timeout": timedelta(seconds=3)}, "total_seconds()"),
        ({"open_timeout": -1}, "open_timeout"),
        ({"idle_disconnect": 0}, "idle_disconnect"),
        ({"max_retry_after": -1}, "max_retry_after"),
        ({"max_retry_after": float("nan")}, "max_retry_after"),
        ({"protocol": "3.0.0"}, "did you mean '2.0.0'"),
        ({"protocol": 2}, "'2.0.0', '1.0.0'"),
        ({"offline": "que"}, "did you mean 'queue'?"),
        ({"queue_size": 0}, "nearest allowed value is 1"),
        ({"queue_size": 1.0}, "a whole number"),
        ({"queue_size": True}, "a whole number"),
        ({"backoff": 3}, "backoff must be a Backoff or a function"),
        ({"rejoin_backoff": Backoff}, "rejoin_backoff must be a Backoff"),
        ({"limits": 5}, "Limits.free()"),
        ({"headers": [("a", "b")]}, "a mapping"),
        ({"headers": {"a b": "c"}}, "not a valid name of an HTTP header"),
        ({"headers": {"x": "a\r\nb: c"}}, "line break"),
        ({"headers": {"x\n": "a"}}, "line break"),
        ({"headers": {"x": 1}}, "must be a string, not int"),
        ({"headers": {"x": "\ud800"}}, "UTF-8"),
        ({"params": {"x": "\ud800"}}, "UTF-8"),
        ({"headers": {"Host": "h"}}, "host="),
        ({"headers": {"Sec-WebSocket-Key": "h"}}, "handshake"),
        ({"params": {"apikey": "h"}}, "the key argument"),
        ({"params": {"vsn": "1.0.0"}}, "protocol="),
        ({"params": {"a": "\0"}}, "control character"),
        ({"ssl": False}, "ssl.SSLContext"),
        ({"proxy": "127.0.0.1:8080"}, "http://"),
        ({"proxy": "http://h\n"}, "line break"),
        ({"host": "https://h"}, "not a host name"),
        ({"on_error": "print"}, "callable"),
        ({"on_frame": 1}, "callable"),
        ({"token": 5}, "must be a string, not int"),
        ({"token": "a b"}, "blanks"),
        ({"token": ""}, "must not be empty"),
    ],
)
def test_invalid_options_are_refused_at_once(given_options: dict[str, Any], expected: str):
    """The error states the given value, the allowed values and the closest one."""
    assert expected in refused(lambda: ClientOptions(**given_options))


def test_an_unknown_option_is_a_type_error():
    """Python raises the TypeError."""
    with pytest.raises(TypeError, match="heartbeet"):
        ClientOptions(**cast("Any", {"heartbeet": 1}))


def test_mutable_arguments_are_copied():
    """Headers and parameters are read-only copies, and the user's dict is not changed."""
    headers = {"x-a": "1"}
    made = ClientOptions(headers=headers, params={"p": ""})
    headers["x-a"] = "2"
    assert made.headers == {"x-a": "1"}
    assert made.params == {"p": ""}
    with pytest.raises(TypeError):
        cast("dict[str, str]", made.headers)["x-a"] = "3"
    with pytest.raises(FrozenInstanceError):
        made.timeout = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_session_options_have_no_callables():
    """A callable delay becomes None, so that the core requests it; of a callable token only its existence is passed."""
    made = ClientOptions(backoff=lambda attempt: 1.0 * attempt, token=lambda: "t", idle_disconnect=5, offline="http")
    session = made.session()
    assert session.backoff is None
    assert session.rejoin_backoff == Backoff(initial=1)
    assert session.has_token_provider
    assert (session.idle_disconnect, session.offline) == (5, "http")
    assert made.secret is None
    assert made.token_provider is not None
    assert not ClientOptions(token="t").session().has_token_provider


def test_a_context_and_a_proxy_are_accepted():
    """ssl= accepts a context, proxy= an HTTP or SOCKS URL."""
    context = ssl.create_default_context()
    made = ClientOptions(ssl=context, proxy="socks5h://127.0.0.1:1080")
    assert made.ssl is context
    assert made.proxy == Secret("socks5h://127.0.0.1:1080")


def test_options_create_the_endpoint():
    """The endpoint of a client has its version, parameters and host."""
    endpoint = ClientOptions(protocol="1.0.0", params={"a": "b"}, host="x.y").endpoint("http://h", "k")
    assert endpoint.reveal() == "ws://h/realtime/v1/websocket?a=b&vsn=1.0.0&apikey=k"
    assert endpoint.host == "x.y"


@pytest.mark.parametrize(
    ("given_options", "expected"),
    [
        ({"initial": -1}, "at least 0"),
        ({"initial": 40}, "maximum must be"),
        ({"factor": 0.5}, "become shorter"),
        ({"jitter": 2}, "nearest allowed value is 1"),
        ({"max_attempts": 0}, "None means no limit"),
        ({"max_attempts": 1.5}, "whole number"),
    ],
)
def test_invalid_backoffs_are_refused(given_options: dict[str, Any], expected: str):
    """A Backoff with values outside its bounds is refused."""
    assert expected in refused(lambda: Backoff(**given_options))


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
def test_invalid_limits_are_refused(name: str):
    """A limit of 0 is refused; None is no limit."""
    assert name in refused(lambda: Limits(**{name: 0}))


# --- the options of a channel


@pytest.mark.parametrize(
    ("given_options", "expected"),
    [
        ({"private": 1}, "private must be True or False, not 1; the nearest allowed value is True"),
        ({"echo": "false"}, "the nearest allowed value is False"),
        ({"ack": None}, "ack must be True or False"),
        ({"replication_ready": 0}, "replication_ready"),
        ({"presence_key": ""}, "must not be empty"),
        ({"presence_key": 5}, "must be a string"),
        ({"presence_key": "\ud800"}, "UTF-8"),
        ({"replay_since": 1.0}, "private=True"),
        ({"replay_since": "now", "private": True}, "Unix seconds"),
        ({"replay_since": datetime(2026, 1, 1), "private": True}, "no time zone"),  # noqa: DTZ001
        ({"replay_since": 1767225600000, "private": True}, "milliseconds"),
        ({"replay_limit": 5, "private": True}, "replay_since"),
        ({"replay_since": 1, "replay_limit": 26, "private": True}, "nearest allowed value is 25"),
        ({"replay_since": 1, "replay_limit": 0, "private": True}, "nearest allowed value is 1"),
        ({"token": lambda: "t"}, "pass a callable to connect()"),
        ({"token": "a\n"}, "line break"),
    ],
)
def test_invalid_channel_options_are_refused(given_options: dict[str, Any], expected: str):
    """Only real booleans are accepted, since a mistyped flag would silently join the public channel."""
    assert expected in refused(lambda: ChannelOptions(**given_options))


def test_equal_options_mean_the_same_channel():
    """Options are compared by value, including the token."""
    assert ChannelOptions(private=True, token="t") == ChannelOptions(private=True, token="t")
    assert ChannelOptions(token="t") != ChannelOptions(token="u")
    since = datetime(2026, 1, 1, tzinfo=UTC)
    by_time = ChannelOptions(private=True, replay_since=since)
    assert by_time == ChannelOptions(private=True, replay_since=since.timestamp())
    assert by_time == ChannelOptions(private=True, replay_since=since.astimezone(timezone(timedelta(hours=5))))


@given(st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)))  # noqa: DTZ001  seconds in a float have microseconds then
def test_replay_starts_no_later_than_requested(moment: datetime):
    """The milliseconds that are sent are never after the given time, and less than 2 ms before it."""
    since = moment.replace(tzinfo=UTC)
    sent = ChannelOptions(private=True, replay_since=since).replay_since_ms
    assert sent is not None
    requested = (since - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1)
    assert requested - 2 < sent <= requested + 0.001


# --- arguments of calls


@given(st.text())
def test_a_topic_gets_its_prefix_once(topic: str):
    """A topic with or without the prefix gives the full topic; an invalid one is refused."""
    bare = topic.removeprefix("realtime:")
    size = len(bare.encode("utf-8", "surrogatepass"))
    if not bare or "\0" in bare or size > 246 or not _is_utf8(bare):
        refused(lambda: options.check_topic(topic))
    else:
        assert options.check_topic(topic) == options.check_topic(f"realtime:{bare}") == f"realtime:{bare}"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def test_names_are_measured_in_bytes():
    """A topic and an event have at most 255 bytes of UTF-8, the topic including its prefix."""
    assert options.check_topic("é" * 123) == "realtime:" + "é" * 123
    assert "not 256" in refused(lambda: options.check_topic("é" * 123 + "x"))
    assert options.check_event("x" * 255) == "x" * 255
    assert "at most 255" in refused(lambda: options.check_event("é" * 128))
    assert "must not be empty" in refused(lambda: options.check_event(""))
    assert "empty name" in refused(lambda: options.check_topic("realtime:"))
    assert "must be a string" in refused(lambda: options.check_topic(5))
    assert "must be a string" in refused(lambda: options.check_event(None))


def test_a_timeout_is_seconds_none_or_omitted():
    """An omitted timeout is the default, None is no limit; other types than numbers are refused."""
    assert options.check_timeout(DEFAULT, 10) == 10
    assert options.check_timeout(None, 10) is None
    assert options.check_timeout(2.5, 10) == 2.5
    for wrong in (0, -1, True, "5", float("inf"), 10**400, timedelta(seconds=1)):
        refused(lambda wrong=wrong: options.check_timeout(wrong, 10))


def test_an_unknown_choice_is_refused_with_the_closest_one():
    """The error for an unknown choice lists all choices, and suggests the closest one."""
    allowed = ("error", "drop_oldest", "drop_newest", "latest", "pause")
    assert options.check_choice("overflow", "pause", allowed) == "pause"
    text = refused(lambda: options.check_choice("overflow", "drop_oldst", allowed))
    assert text.startswith("overflow must be one of 'error', 'drop_oldest', ")
    assert "not 'drop_oldst'; " in text
    assert "did you mean 'drop_oldest'?" in text
    assert "did you mean" not in refused(lambda: options.check_choice("overflow", "zzz", allowed))
    refused(lambda: options.check_choice("n", True, (1, 2)))


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(json_values)
def test_any_json_value_can_be_encoded(value: Any):
    """Every JSON value is encoded so that decoding gives an equal one, including integers of any size."""
    assert json.loads(options.check_json(value)) == value


@dataclass
class Point:
    x: float
    y: float


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (float("nan"), "payload cannot be encoded as JSON: nan"),
        ({"a": [1, {"b": float("inf")}]}, "payload['a'][1]['b'] cannot be encoded as JSON: inf"),
        ({"a": [None, 1.5, (float("-inf"),)]}, "payload['a'][2][0]"),
        ({"a": Point(1.0, float("nan"))}, "payload['a']['y'] cannot be encoded as JSON: nan"),
        ({"a": {"b": object()}}, "payload['a']['b'] cannot be encoded as JSON"),
        ({"a": [{(1, 2): 3}]}, "payload['a'][0] cannot be encoded"),
        ({"a": "\ud800"}, "payload['a'] cannot be encoded"),
        (object(), "payload cannot be encoded"),
    ],
)
def test_values_that_cannot_be_encoded_are_refused_with_their_path(payload: Any, expected: str):
    """NaN, Infinity, foreign objects and keys are refused, and the error contains their path."""
    assert expected in refused(lambda: options.check_json(payload))


def test_null_and_numbers_can_be_combined():
    """None is encoded as null and not mistaken for NaN."""
    assert options.check_json({"a": [None, Point(1, 2), {"x"}]}) == b'{"a":[null,{"x":1,"y":2},["x"]]}'
    assert options.check_json({"a": None, "b": [1.5, None], "c": "null"}) == b'{"a":null,"b":[1.5,null],"c":"null"}'


class Name(str):
    __slots__ = ()


class Number(int):
    pass


class Length(float):
    pass


class View(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        return {"a": 1}[key]

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


class PostgresBackend(enum.IntEnum):
    LOW = 1


def test_subclasses_of_plain_values_can_be_encoded():
    """Subclasses of text and numbers, enums and raw JSON can be combined with null."""
    payload = [
        None,
        Name("n"),
        Number(1),
        PostgresBackend.LOW,
        msgspec.Raw(b"1"),
        b"ab",
        Decimal("1.10"),
        UUID(int=0),
        View(),
    ]
    sent = b'[null,"n",1,1,1,"YWI=","1.10","00000000-0000-0000-0000-000000000000",{"a":1}]'
    assert options.check_json(payload) == sent
    assert "payload[0] cannot" in refused(lambda: options.check_json([Length("nan")]))


def test_too_deep_nesting_is_refused():
    """A payload that is nested too deeply raises InvalidArgumentError instead of RecursionError."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert "payload cannot be encoded" in refused(lambda: options.check_json(deep))
    while deep:
        deep = deep[0]


def test_deep_payloads_are_searched_for_nan():
    """NaN is found at any depth that can be encoded."""
    deep: list[Any] = [float("nan"), None]
    for _ in range(600):
        deep = [deep]
    assert "[0][0] cannot be encoded as JSON: nan" in refused(lambda: options.check_json(deep))


def test_every_check_is_exported():
    """Each name of __all__ exists."""
    assert [name for name in options.__all__ if not hasattr(options, name)] == []
