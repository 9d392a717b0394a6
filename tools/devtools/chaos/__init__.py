"""Faults under load: a generator outside, receivers inside, the real gateway between, every message accounted for."""
