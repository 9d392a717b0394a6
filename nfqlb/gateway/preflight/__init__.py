"""Is this host ready, and do the backends answer? Asked before a start and by `nfqlb check --live`."""
