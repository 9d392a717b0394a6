"""The configuration of one half of a pair, in pieces: four listeners of both IP versions, and two groups of them."""

LISTENERS = """
[gateway]
run_dir = "/run/nfqlb-test"
[[listener]]
name = "a"
external = "203.0.113.5:5060"
internal = "192.168.1.5:5060"
[[listener]]
name = "a2"
external = "203.0.113.5:5070"
internal = "192.168.1.5:5070"
[[listener]]
name = "b"
external = "203.0.113.6:5060"
internal = "192.168.1.6:5060"
[[listener]]
name = "six"
external = "[2001:db8:5::5]:5060"
internal = "[2001:db8:1::5]:5060"
[[pool]]
name = "p"
[[pool.backend]]
name = "one"
address = "192.168.1.11:5060"
[[pool.backend]]
name = "one6"
address = "[2001:db8:1::11]:5060"
[[route]]
pool = "p"
"""
NODES = """
[ha]
address = "192.168.1.2"
peer = "192.168.1.3"
interface = "eth1"
outside = "eth7"
"""
GROUPS = """
[[ha.group]]
name = "left"
listeners = ["a", "a2"]
router_id = 61
priority = 254
[[ha.group]]
name = "right"
listeners = ["b", "six"]
router_id = 62
priority = 249
"""
