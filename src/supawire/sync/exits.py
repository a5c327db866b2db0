"""What becomes of open clients when the process forks, or ends.

A child of `fork()` has the memory of its parent, but none of its threads, and its sockets. Right after the fork the
child puts nothing over those (`dup2` of the null device): no word goes on the wire, the parent's event loop is not
touched, and whoever closes them later closes nothing of anybody else's.

At the exit of the interpreter clients that nobody closed say goodbye, all together within a bound.
"""

import atexit
import os
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from supawire.sync.portal import Portal

BOUND: Final = 2.0
"""Seconds that the exit of the interpreter waits for clients that nobody closed."""

_alive: "dict[Portal, None]" = {}


def watch(portal: "Portal") -> None:
    """This one has a thread."""
    _alive[portal] = None


def forget(portal: "Portal") -> None:
    """This one has none any more."""
    _alive.pop(portal, None)


def _forked() -> None:
    portals = list(_alive)
    _alive.clear()
    descriptors = {number for portal in portals for number in portal.inherit() if number >= 0}
    if descriptors:
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in descriptors:
            os.dup2(nothing, number, inheritable=False)
        os.close(nothing)


def _exiting() -> None:
    deadline = time.monotonic() + BOUND
    portals = list(_alive)
    for portal in portals:
        portal.end_soon()
    for portal in portals:
        portal.join(max(0.0, deadline - time.monotonic()))


atexit.register(_exiting)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
