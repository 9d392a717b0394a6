"""The pair: keepalived moves the addresses between two nodes. Its configuration, what it and the gateway agree on, the
comparison of the two nodes, and what the running gateway does for it.
"""
