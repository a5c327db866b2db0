"""Access checks of the inspector."""

import pytest

from supawire.server.inspector.web import refusal

PAGE = {"host": "127.0.0.1:4000"}
SOCKET = PAGE | {"origin": "http://127.0.0.1:4000"}


@pytest.mark.parametrize("host", ["127.0.0.1:4000", "localhost:4000", "LOCALHOST", "[::1]:4000", "127.1.2.3"])
def test_the_page_is_served_to_this_machine(host: str) -> None:
    """Every name of this machine is accepted, by the page and by its WebSocket."""
    assert refusal("127.0.0.1", {"host": host}, live=False) is None
    assert refusal("::1", {"host": host, "origin": f"http://{host}"}, live=True) is None


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(
    ("address", "changed"),
    [
        ("192.168.1.7", {}),
        ("", {}),
        (None, {}),
        ("127.0.0.1", {"host": "attacker.example:4000", "origin": "http://attacker.example:4000"}),
        ("127.0.0.1", {"host": "127.0.0.1.attacker.example", "origin": "http://127.0.0.1.attacker.example"}),
        ("127.0.0.1", {"host": "localhost.attacker.example", "origin": "http://localhost.attacker.example"}),
        ("127.0.0.1", {"host": "", "origin": "http://"}),
        ("127.0.0.1", {"origin": "http://attacker.example"}),
        ("127.0.0.1", {"origin": "http://127.0.0.1:5000"}),
        ("127.0.0.1", {"origin": "http://localhost:4000"}),
        ("127.0.0.1", {"origin": "https://127.0.0.1:4000"}),
        ("127.0.0.1", {"origin": "null"}),
        ("127.0.0.1", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}),
        ("127.0.0.1", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}),
        ("127.0.0.1", {"sec-fetch-site": "same-site", "sec-fetch-mode": "websocket"}),
        ("127.0.0.1", {"x-forwarded-for": "203.0.113.5"}),
        ("127.0.0.1", {"forwarded": "for=203.0.113.5"}),
        ("127.0.0.1", {"cf-connecting-ip": "203.0.113.5"}),
    ],
    ids=str,
)
def test_other_requests_are_refused(address: str | None, changed: dict[str, str], live: bool) -> None:
    """Other machines, rebound names, other origins, frames and proxies are refused with a reason."""
    assert refusal(address, SOCKET | changed, live=live)


def test_the_websocket_needs_an_origin() -> None:
    """A program that sends no Origin is refused."""
    assert refusal("127.0.0.1", PAGE, live=True)


def test_a_link_from_another_site_opens_the_page() -> None:
    """A navigation to the page is accepted; the other site cannot read its content."""
    visit = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert refusal("127.0.0.1", PAGE | visit, live=False) is None
