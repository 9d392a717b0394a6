"""Counters of rules that stop packets, as iptables-save prints them."""

from nfqlb.gateway.netfilter.counters import counted

SAVED = """\
*raw
:PREROUTING ACCEPT [99:9999]
:NFQLB-GUARD - [0:0]
[7:700] -A PREROUTING -j NFQLB-IN
[1:1] -A NFQLB-GUARD -m set --match-set NFQLB-allow4 src -j NFQLB-QUEUE
[2:2] -A NFQLB-GUARD -m set --match-set NFQLB-deny4 src -j DROP
[30:3] -A NFQLB-GUARD -m set --match-set NFQLB-ban4 src -j DROP
[42:4] -A NFQLB-GUARD -m hashlimit --hashlimit-above 2000/sec --hashlimit-name b -j NFQLB-OVER
[8:5] -A NFQLB-GUARD -m length --length 4096:65535 -m hashlimit --hashlimit-above 512kb/s --hashlimit-name c -j DROP
[4:4] -A NFQLB-OVER -m hashlimit --hashlimit-above 6024/sec --hashlimit-name a -j NFQLB-BAN-FLOOD
[42:4] -A NFQLB-OVER -j DROP
[4:4] -A NFQLB-JUNK -m hashlimit --hashlimit-above 1/sec --hashlimit-name c -j NFQLB-BAN-JUNK
[700:7] -A NFQLB-JUNK -j DROP
[90:8] -A NFQLB-SHED -j DROP
[60:6] -A ADMIN -m set --match-set NFQLB-ban4 src -j DROP
[1000:9] -A NFQLB-GUARD -m set --match-set NFQLB-ban6 src -j DROP
COMMIT
"""


def test_what_our_rules_have_dropped_is_summed_by_its_cause() -> None:
    assert counted(SAVED) == {"banned": 1030, "denied": 2, "limited": 50, "junk": 700, "shed": 90}
    assert counted("") == {"banned": 0, "denied": 0, "limited": 0, "junk": 0, "shed": 0}
