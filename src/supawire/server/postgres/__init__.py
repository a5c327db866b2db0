"""The levels of the local server that have a real PostgreSQL; they come with the extra `supawire[postgres]`."""
