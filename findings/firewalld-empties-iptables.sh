#!/usr/bin/env bash
# firewalld with its nftables backend empties the tables of iptables when it starts, and at each reload.
#
# Common guess: with FirewallBackend=nftables, firewalld has a table of its own and leaves iptables alone;
# FlushAllOnReload is about its own runtime rules.
# Seen: firewalld 1.3.3 (Debian 12), where the iptables command is installed, removes everybody's rules in all tables of
# iptables, raw included, when it starts and at each "firewall-cmd --reload"; also with
# FlushAllOnReload=no, as here. firewalld 2.3.1 (Debian 13) does not.
#
# Needs root, apt and the Debian archive; takes some minutes. Nothing stays but what apt keeps.
# Usage: findings/firewalld-empties-iptables.sh      exit 0: still so; 1: it has changed; 2: could not be tried
set -euo pipefail

SUITE=bookworm PACKAGE=firewalld VERSION=1.3.3-1~deb12u2

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
    rule_is_there() { in_root iptables-save | grep -c 'dport 9999' || true; }
    in_root ip link set lo up
    printf 'FirewallBackend=nftables\nFlushAllOnReload=no\n' >"$root/etc/firewalld/firewalld.conf"
    in_root iptables -t raw -A PREROUTING -p udp --dport 9999 -j ACCEPT
    before=$(rule_is_there)
    echo "before firewalld starts: $before rule of somebody else in iptables' raw table"
    start_firewalld
    backend=$(in_root nft list tables | tr '\n' ' ')
    started=$(rule_is_there)
    echo "after it has started: $started; tables of nftables: $backend"
    in_root iptables -t raw -A PREROUTING -p udp --dport 9999 -j ACCEPT
    again=$(rule_is_there)
    quietly firewall-cmd --reload || cannot "firewall-cmd --reload failed"
    reloaded=$(rule_is_there)
    echo "added once more: $again; after firewall-cmd --reload: $reloaded"
    if [[ "$before $started $again $reloaded" == "1 0 1 0" && $backend == *"inet firewalld"* ]]; then
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
