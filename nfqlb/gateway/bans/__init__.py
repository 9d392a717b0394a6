"""Bans for offences and relief in overload: the process that does both, and how the supervisor has it."""
