"""nfqlb: a SIP load balancer in the packet path of a Linux gateway."""

__version__ = "0.1.0"
