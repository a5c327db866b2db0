"""Random schedules over a linked client and hub, and what must hold after each.

See `play.py` and `python -m tests.linked.simulation`.
"""
