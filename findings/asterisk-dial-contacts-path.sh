#!/usr/bin/env bash
# Asterisk's Dial(${PJSIP_DIAL_CONTACTS(name)}) follows the stored Path only when Contact's user part is the AOR's name.
#
# Common guess: PJSIP_DIAL_CONTACTS is the way to ring all contacts of an AOR, and else the same as Dial(PJSIP/name);
# with support_path=yes a call goes along the Path [RFC 3327] that was stored with the contact, in either case.
# Seen: Asterisk 22.10.1 looks for the Path by the user part of the Request-URI. A test phone that registers as
# <sip:alice@...> is called along the Path. One that makes up a user part of its own, as most do, is called straight at
# the address in Contact, without a Route: behind an edge proxy that is a private address in somebody's home.
#
# Needs root, apt, Python 3 and the Debian archive; takes some minutes. Nothing stays but what apt keeps.
# Usage: findings/asterisk-dial-contacts-path.sh      exit 0: still so; 1: it has changed; 2: could not be tried
set -euo pipefail

SUITE=sid PACKAGE=asterisk VERSION=1:22.10.1+dfsg+~cs6.17.60671434-1

cannot() { echo "$0: $*" >&2; exit 2; }

if [[ ${1:-} == --inside ]]; then # in namespaces of its own: network, mounts, processes, host name
    root=$2 place=$2/srv/try
    ip link set lo up
    hostname localhost
    mount -t proc proc "$root/proc"
    mkdir -p "$place"/{etc,run,db,log,spool,keys}
    cat >"$place/etc/asterisk.conf" <<'CONF'
[directories]
astetcdir => /srv/try/etc
astrundir => /srv/try/run
astdbdir => /srv/try/db
astlogdir => /srv/try/log
astspooldir => /srv/try/spool
astkeydir => /srv/try/keys
CONF
    printf '[modules]\nautoload=yes\n' >"$place/etc/modules.conf"
    cat >"$place/etc/pjsip.conf" <<'CONF'
[udp]
type=transport
protocol=udp
bind=127.0.0.1:5060
[alice]
type=endpoint
context=none
disallow=all
allow=ulaw
aors=alice
[alice]
type=aor
max_contacts=1
remove_existing=yes
support_path=yes
CONF
    # shellcheck disable=SC2016  # the dialplan's own variables
    printf '%s\n' '[try]' 'exten => name,1,Dial(PJSIP/alice,2)' \
        'exten => contacts,1,Dial(${PJSIP_DIAL_CONTACTS(alice)},2)' >"$place/etc/extensions.conf"
    chroot "$root" asterisk -f -C /srv/try/etc/asterisk.conf >"$place/log/console" 2>&1 &
    exec python3 - "$root" <<'PYTHON'
import socket
import subprocess
import sys
import time

PROXY, PHONE = ("127.0.0.1", 5070), ("127.0.0.2", 5062)


def bound(address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(address)
    sock.settimeout(0.2)
    return sock


def asterisk(command: str) -> str:
    argv = ["chroot", sys.argv[1], "asterisk", "-C", "/srv/try/etc/asterisk.conf", "-rx", command]
    return subprocess.run(argv, capture_output=True, text=True).stdout


proxy, phone = bound(PROXY), bound(PHONE)
for _ in range(120):
    if "fully booted" in asterisk("core waitfullybooted"):
        break
    time.sleep(0.5)
else:
    print("Asterisk does not start")
    sys.exit(2)

def register(number: int, user: str) -> None:
    """A phone registers by way of the proxy; the user part of its Contact is what the phone likes."""
    lines = (
        "REGISTER sip:example.org SIP/2.0",
        f"Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK{number}",
        "Max-Forwards: 70",
        "Path: <sip:127.0.0.1:5070;lr>",
        "Supported: path",
        f"From: <sip:alice@example.org>;tag={number}",
        "To: <sip:alice@example.org>",
        f"Call-ID: {number}@127.0.0.1",
        "CSeq: 1 REGISTER",
        f"Contact: <sip:{user}@127.0.0.2:5062>;expires=300",
        "Content-Length: 0",
    )
    proxy.sendto(("\r\n".join(lines) + "\r\n\r\n").encode(), ("127.0.0.1", 5060))
    status = ""
    for _ in range(20):
        try:
            status = proxy.recv(65535).decode().split("\r\n")[0]
        except TimeoutError:
            continue
        if status.startswith("SIP/2.0 "):
            break
    print(f"REGISTER of alice by the proxy 127.0.0.1:5070, Contact: <sip:{user}@127.0.0.2:5062>: {status}")


def busy(invite: str) -> bytes:
    """The answer that ends it, so that nothing is repeated."""
    kept = [line for line in invite.split("\r\n") if line.startswith(("Via:", "From:", "Call-ID:", "CSeq:"))]
    to = next(line for line in invite.split("\r\n") if line.startswith("To:"))
    return "\r\n".join(["SIP/2.0 486 Busy Here", *kept, f"{to};tag=1", "Content-Length: 0", "", ""]).encode()


def called(extension: str) -> str:
    """Where the first INVITE of a call to that extension arrives, and with which Route."""
    asterisk(f"channel originate Local/{extension}@try application Wait 2")
    for _ in range(25):
        for name, sock in (("the proxy in Path", proxy), ("the address in Contact", phone)):
            try:
                message = sock.recv(65535).decode()
            except TimeoutError:
                continue
            if message.startswith("INVITE "):
                sock.sendto(busy(message), ("127.0.0.1", 5060))
                route = [line for line in message.split("\r\n") if line.startswith("Route:")]
                return f"{name}, {route[0] if route else 'without Route'}"
    return "nobody"


seen = []
for number, user in enumerate(("alice", "x7f3a")):
    register(number, user)
    for extension, text in (("name", "Dial(PJSIP/alice)"), ("contacts", "Dial(${PJSIP_DIAL_CONTACTS(alice)})")):
        seen.append(called(extension))
        print(f"  {text}: the INVITE arrives at {seen[-1]}")
        time.sleep(3)
along = "the proxy in Path, Route: <sip:127.0.0.1:5070;lr>"
same = seen == [along, along, along, "the address in Contact, without Route"]
print("As seen before." if same else "It has changed.")
sys.exit(not same)
PYTHON
fi

((EUID == 0)) || cannot "needs root"
folder=$(mktemp -d)
trap 'rm -rf --one-file-system "$folder"' EXIT
root=${CHROOT:-$folder/root} # CHROOT: a tree that has the package already
if [[ -z ${CHROOT:-} ]]; then
    echo "Installing $PACKAGE of Debian $SUITE in a temporary folder ..."
    (cd "$folder" && apt-get -q download debootstrap && dpkg -x debootstrap_*.deb boot) >/dev/null 2>&1 ||
        cannot "apt-get could not download debootstrap; try: apt-get update"
    DEBOOTSTRAP_DIR=$folder/boot/usr/share/debootstrap "$folder/boot/usr/sbin/debootstrap" \
        --variant=minbase --include="$PACKAGE" "$SUITE" "$root" >"$folder/log" 2>&1 ||
        cannot "debootstrap failed: $(tail -n 3 "$folder/log")"
fi
echo "$PACKAGE $(chroot "$root" dpkg-query -W -f="\${Version}" "$PACKAGE") (seen with $VERSION)"
status=0
unshare --net --mount --uts --pid --fork --kill-child "$0" --inside "$root" || status=$?
rm -rf "$root/srv/try"
exit "$status"
