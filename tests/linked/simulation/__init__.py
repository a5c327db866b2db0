"""Random schedules over a linked client and hub, and what must hold after each (reliability: Simulation).

`play(seed)` runs one schedule and raises `Broken` with a trace that replays it. `python -m tests.linked.simulation`
plays many.
"""
