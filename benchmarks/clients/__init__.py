"""One module per client that is measured, each run in a process of its own."""
