"""Hostile bytes in great number, into the engine and into each reader, and what must hold whatever they are."""
