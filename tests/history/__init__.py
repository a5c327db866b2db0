"""A reader of stored messages that is killed again and again: `python -m tests.history.restarts`."""
