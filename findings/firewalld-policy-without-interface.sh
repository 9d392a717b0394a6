#!/usr/bin/env bash
# firewalld 2.3 does not ask a policy from ANY to ANY about forwarded packets while no zone has an interface by name.
#
# Common guess: an interface that belongs to no zone by name is in the default zone, "firewall-cmd --get-active-zones"
# says "public (default)", and a policy that is "(active)" from ANY to ANY is asked about all that is forwarded.
# Seen: firewalld 2.3.1 (Debian 13) makes the chains of the policy and jumps to them from nowhere; everything is rejected
# as before. Once the interfaces are added to that same default zone by name, the policy works. With 1.3.3 (Debian 12) it
# works without.
#
# Needs root, apt and the Debian archive; takes some minutes. Nothing stays but what apt keeps.
# Usage: findings/firewalld-policy-without-interface.sh      exit 0: still so; 1: it has changed; 2: could not be tried
set -euo pipefail

SUITE=trixie PACKAGE=firewalld VERSION=2.3.1-1+deb13u1

cannot() { echo "$0: $*" >&2; exit 2; }

if [[ ${1:-} == --inside ]]; then # in namespaces of its own: network, mounts, processes
    root=$2
    mount --bind "$root" "$root" # a mount point, as "ip netns exec" wants it
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    mount -t tmpfs tmpfs "$root/run"
    mount -t tmpfs tmpfs "$root/etc/firewalld"
    mkdir -p "$root/run/dbus"
    in_root() { chroot "$root" env PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
    quietly() { in_root "$@" >/dev/null 2>&1; }
    start_firewalld() {
        in_root dbus-daemon --system --nofork >/dev/null 2>&1 &
        sleep 1
        in_root firewalld --nofork --nopid >/dev/null 2>&1 &
        for _ in {1..60}; do
            if [[ $(in_root firewall-cmd --state 2>&1) == running ]]; then return; fi
            sleep 0.5
        done
        cannot "firewalld does not start"
    }
    # left ── router ── right
    for side in left right; do
        in_root ip netns add "$side"
        in_root ip link add "$side" type veth peer name eth0 netns "$side"
    done
    in_root ip address add 192.0.2.1/24 dev left
    in_root ip address add 198.51.100.1/24 dev right
    in_root ip -n left address add 192.0.2.2/24 dev eth0
    in_root ip -n right address add 198.51.100.2/24 dev eth0
    for side in left right; do
        in_root ip link set "$side" up
        in_root ip -n "$side" link set eth0 up
    done
    in_root ip -n left route add default via 192.0.2.1
    in_root ip -n right route add default via 198.51.100.1
    echo 1 >/proc/sys/net/ipv4/ip_forward
    passes() { if quietly ip netns exec left ping -c 2 -i 0.3 -W 1 198.51.100.2; then echo yes; else echo no; fi; }
    policies() { in_root nft list table inet firewalld | grep -c "jump filter_FWD_policy_pass$" || true; }
    first=$(passes)
    echo "a ping is forwarded, without firewalld: $first"
    start_firewalld
    second=$(passes)
    echo "with firewalld as installed (zones: $(in_root firewall-cmd --get-active-zones | tr '\n' ' ')): $second"
    quietly firewall-cmd --permanent --new-policy=pass
    quietly firewall-cmd --permanent --policy=pass --add-ingress-zone=ANY
    quietly firewall-cmd --permanent --policy=pass --add-egress-zone=ANY
    quietly firewall-cmd --permanent --policy=pass --set-target=ACCEPT
    quietly firewall-cmd --reload || cannot "firewall-cmd --reload failed"
    third=$(passes)
    state=$(in_root firewall-cmd --info-policy=pass | head -n 1)
    echo "with a policy from ANY to ANY, target ACCEPT, \"$state\", asked in $(policies) places: $third"
    quietly firewall-cmd --permanent --zone=public --add-interface=left
    quietly firewall-cmd --permanent --zone=public --add-interface=right
    quietly firewall-cmd --reload || cannot "firewall-cmd --reload failed"
    fourth=$(passes)
    echo "with both interfaces in the default zone by name, asked in $(policies) places: $fourth"
    if [[ "$first $second $third $fourth $state" == "yes no no yes pass (active)" ]]; then
        echo "As seen before."
        exit 0
    fi
    echo "It has changed."
    exit 1
fi

((EUID == 0)) || cannot "needs root"
folder=$(mktemp -d)
trap 'rm -rf --one-file-system "$folder"' EXIT
root=${CHROOT:-$folder/root} # CHROOT: a tree that has the packages already
if [[ -z ${CHROOT:-} ]]; then
    echo "Installing $PACKAGE of Debian $SUITE in a temporary folder ..."
    (cd "$folder" && apt-get -q download debootstrap && dpkg -x debootstrap_*.deb boot) >/dev/null 2>&1 ||
        cannot "apt-get could not download debootstrap; try: apt-get update"
    DEBOOTSTRAP_DIR=$folder/boot/usr/share/debootstrap "$folder/boot/usr/sbin/debootstrap" \
        --variant=minbase "$SUITE" "$root" >"$folder/log" 2>&1 || cannot "debootstrap failed: $(tail -n 3 "$folder/log")"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # no daemon is started
    chmod +x "$root/usr/sbin/policy-rc.d"
    # shellcheck disable=SC2016
    unshare --mount sh -c 'mount -t proc proc "$1/proc" && exec chroot "$1" env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y --no-install-recommends install firewalld dbus iptables nftables iproute2 iputils-ping' \
        sh "$root" >"$folder/log" 2>&1 || cannot "apt-get failed: $(tail -n 3 "$folder/log")"
fi
for package in $PACKAGE iptables; do
    echo "$package $(chroot "$root" dpkg-query -W -f="\${Version}" "$package")"
done
echo "(seen with $PACKAGE $VERSION)"
status=0
unshare --net --mount --pid --fork --kill-child "$0" --inside "$root" || status=$?
exit "$status"
