"""The pair: keepalived moves the addresses between two nodes; here its configuration is written, and the two nodes are
compared. What the running gateway does for it is in `gateway.keeper` and `gateway.lifeline`.
"""
