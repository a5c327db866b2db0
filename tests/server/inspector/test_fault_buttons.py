"""The table of faults that the page offers."""

import inspect
from random import Random

import pytest

from supawire.events import Instant
from supawire.server.faults import Faults
from supawire.server.hub import Hub
from supawire.server.hub_options import HubOptions
from supawire.server.inspector.fault_buttons import FAULTS, FaultButton, cause
from tests.server.world import SECRET

NOW = Instant(1.0, 1_764_000_000.5)
METHODS = {name: method for name, method in inspect.getmembers(Faults, inspect.isfunction) if not name.startswith("_")}


def test_each_fault_of_the_server_has_a_button():
    """Each public method of `Faults` is in the table, with all its arguments."""
    offered = {button.name: {field.name for field in button.fields} for button in FAULTS}
    for name in METHODS.keys() - {"apply_faults"}:
        arguments = set(inspect.signature(METHODS[name]).parameters) - {"self"}
        assert arguments - offered[name] <= {"seconds", "binary", "extension"}, name
        assert offered[name] <= arguments, name
    assert offered.keys() - METHODS.keys() == {"request_disconnect"}


@pytest.mark.parametrize("button", FAULTS, ids=lambda button: button.name)
def test_each_fault_works_with_the_values_that_the_page_offers(button: FaultButton):
    """A click on each button, without changing a field, is accepted."""
    hub = Hub(HubOptions(secret=SECRET), Random(1))
    cause(button.name, {field.name: field.value for field in button.fields}, hub, NOW)
