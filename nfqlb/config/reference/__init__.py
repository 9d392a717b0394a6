"""The configuration written out for people and editors: reference, example, JSON Schema, what is in effect."""
