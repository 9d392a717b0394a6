"""Health checks of backends: what is asked and when, ICMP errors, the prober process, and how the supervisor has it."""
