"""nfqlb: a SIP load balancer in the packet path of a Linux gateway."""

__version__ = "0.1.0"

RUN_DIR = "/run/nfqlb"
"""[gateway] run_dir where a configuration does not tell."""

SERVICE_USER = "nfqlb"
"""User and group of the gateway as a service, where the host has them (`nfqlb install-units`). Who is in the group may
steer the gateway."""
