"""Names in DNS: the process that looks them up, what the configuration wants of it, and how the supervisor has it."""
