"""The same faults for the official Python client and for ours, side by side; `python -m tests.faults.matrix`."""
