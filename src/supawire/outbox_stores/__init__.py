"""Stores of outboxes: where messages wait until the server has accepted them. `base` has the interface of a store."""
