"""Benchmarks: what a message costs, in time, instructions and processors. `tools/bench` is the way in."""
