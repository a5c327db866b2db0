"""One module per measured client; each runs in its own process."""
