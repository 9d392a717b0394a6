"""What this host says of itself: /proc, netlink, routes and addresses; and how a socket or a file is handled on Linux.
Asks and changes nothing of the network.
"""
