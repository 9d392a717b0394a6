"""What keepalived and the gateway agree on: a file, an interface, and the weights in the file."""

TRACK_FILE = "ha"

DEAD, UNWELL, YIELDING = -150, -100, -50
"""Weights. Whoever yields to one that is unwell or dead stays; whoever is unwell gives way to all but the dead."""

LIFELINE = "nfqlb-alive"
