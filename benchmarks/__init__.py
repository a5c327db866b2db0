"""Benchmarks: the client compared with the official clients and with a loop without a client."""
