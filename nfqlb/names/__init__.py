"""Names of hosts and what DNS says of them: for backends, and for where backends send to by themselves (P20)."""
