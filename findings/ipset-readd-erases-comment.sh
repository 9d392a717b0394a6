#!/usr/bin/env bash
# An entry of a set that is added again loses its comment and keeps its counters, or the other way round, by who adds it.
#
# Common guess: to add an entry that is there already prolongs its timeout and leaves the rest as it is. (The manual
# page of ipset says of -exist that it ignores such entries, and that timeout values are updated.)
# Seen: `ipset add -exist` without a comment erases the comment that is there, and keeps packets and bytes.
# `-j SET --add-set … --exist` keeps the comment, and counts anew, from the packet at hand. Both prolong the timeout. So a
# ban that two parties prolong, an operator's tool and a rule of the packet filter, has neither a reason nor a count.
#
# Needs root, apt, the Debian archive (bookworm) and a kernel with ip_set and xt_set.
# Usage: findings/ipset-readd-erases-comment.sh      exit 0: still so; 1: it has changed; 2: could not be tried
set -euo pipefail

PACKAGES=(ipset=7.17-1 libipset13=7.17-1 iptables=1.8.9-2)

cannot() { echo "$0: $*" >&2; exit 2; }

if [[ ${1:-} != --inside ]]; then
    ((EUID == 0)) || cannot "needs root, for a network namespace and for ipset"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    chmod 755 "$work"
    (cd "$work" && apt-get -q -o APT::Sandbox::User=root download "${PACKAGES[@]}" >/dev/null) || cannot "apt has no ${PACKAGES[*]}"
    for package in "$work"/*.deb; do dpkg -x "$package" "$work/root"; done
    status=0
    unshare --net --mount "$0" --inside "$work/root" || status=$?
    exit "$status"
fi

root=$2
LD_LIBRARY_PATH=$(echo "$root"/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH XTABLES_LIBDIR=$LD_LIBRARY_PATH/xtables
export XTABLES_LOCKFILE=/dev/null
PATH=$root/usr/sbin:$root/sbin:$PATH
mount -t tmpfs none /run # iptables keeps its lock there
ip link set lo up

# Prints the entry's "timeout packets comment".
entry() {
    ipset list banned | sed -nE 's/^127\.0\.0\.9 timeout ([0-9]+) packets ([0-9]+) bytes [0-9]+( comment "(.*)")?$/\1 \2 \4/p'
}

ipset -exist create banned hash:ip timeout 600 counters comment 2>/dev/null || cannot "the kernel has no such set"
ipset version
uname -sr
# The entry gets a reason and something to count.
ipset add banned 127.0.0.9 timeout 100 comment "scans" packets 5 bytes 500
echo "added with a comment:                $(entry)"
ipset add -exist banned 127.0.0.9 timeout 300
read -r again_timeout again_packets again_comment <<<"$(entry)"
echo "ipset add -exist, timeout 300:       $(entry)"

ipset add -exist banned 127.0.0.9 timeout 100 comment "scans" packets 5 bytes 500
iptables -t raw -A OUTPUT -p udp --dport 9 -s 127.0.0.9 -j SET --add-set banned src --timeout 400 --exist ||
    cannot "the kernel has no xt_set"
python3 - <<'PYTHON'
import socket

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.9", 0))
sock.sendto(b"x", ("127.0.0.1", 9))
PYTHON
read -r rule_timeout rule_packets rule_comment <<<"$(entry)"
echo "-j SET --add-set --exist, 400:       $(entry)"
echo "(timeout, packets, comment)"

if ((again_timeout > 200 && again_packets == 5 && rule_timeout > 300 && rule_packets == 1)) &&
    [[ -z $again_comment && $rule_comment == scans ]]; then
    echo "Still so: the one erases the comment, the other the count."
else
    echo "This has changed."
    exit 1
fi
