"""Everything of ours in the kernel's packet filter: iptables rules, sets of addresses, limits, the sysctls that go with
them; and what the rules of others do to our packets.
"""
