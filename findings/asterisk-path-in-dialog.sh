#!/usr/bin/env bash
# Asterisk writes the registered Path once more below the Route set of the dialog: into the BYE, not into the ACK.
#
# Common guess: the Path [RFC 3327] is the way of a request outside a dialog. Within one, the Route set is what
# Record-Route of the answer says [RFC 3261 12.1.2], and nothing else.
# Seen: Asterisk 22.10.1 calls a phone along the Path; its answer has one Record-Route. The ACK has that one Route; the
# BYE has two, the second of which is the Path. An edge proxy that takes itself off the top finds itself below, too,
# and sends the BYE to itself, or as a strict one refuses it, unless it takes off all that is its own.
#
# Needs root, apt, Python 3 and the Debian archive; takes some minutes. Nothing stays but what apt keeps.
# Usage: findings/asterisk-path-in-dialog.sh      exit 0: still so; 1: it has changed; 2: could not be tried
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
    : >"$place/etc/extensions.conf"
    chroot "$root" asterisk -f -C /srv/try/etc/asterisk.conf >"$place/log/console" 2>&1 &
    exec python3 - "$root" <<'PYTHON'
import socket
import subprocess
import sys
import time

proxy = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
proxy.bind(("127.0.0.1", 5070))
proxy.settimeout(5)


def asterisk(command: str) -> str:
    argv = ["chroot", sys.argv[1], "asterisk", "-C", "/srv/try/etc/asterisk.conf", "-rx", command]
    return subprocess.run(argv, capture_output=True, text=True).stdout


for _ in range(120):
    if "fully booted" in asterisk("core waitfullybooted"):
        break
    time.sleep(0.5)
else:
    print("Asterisk does not start")
    sys.exit(2)

def received(start: str) -> str:
    """The next message at the proxy that begins so; what else comes is passed over."""
    while True:
        message = proxy.recv(65535).decode()
        if message.startswith(start):
            return message


def rows(message: str, *names: str) -> list[str]:
    return [line for line in message.split("\r\n") if line.partition(":")[0] in names]


def send(*lines: str) -> None:
    proxy.sendto(("\r\n".join(lines)).encode(), ("127.0.0.1", 5060))


PATH = "<sip:127.0.0.1:5070;lr;path=stored>"
RECORD_ROUTE = "<sip:127.0.0.1:5070;lr;dialog=this>"
SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.2\r\ns=-\r\nc=IN IP4 127.0.0.2\r\nt=0 0\r\nm=audio 9000 RTP/AVP 0\r\n"
try:
    send(
        "REGISTER sip:example.org SIP/2.0",
        "Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK1",
        "Max-Forwards: 70",
        f"Path: {PATH}",
        "Supported: path",
        "From: <sip:alice@example.org>;tag=1",
        "To: <sip:alice@example.org>",
        "Call-ID: 1@127.0.0.1",
        "CSeq: 1 REGISTER",
        "Contact: <sip:alice@127.0.0.2:5062>;expires=300",
        "Content-Length: 0",
        "",
        "",
    )
    print("REGISTER with Path:", received("SIP/2.0 200").split("\r\n")[0])
    asterisk("channel originate PJSIP/alice application Wait 1")
    invite = received("INVITE ")
    send(
        "SIP/2.0 200 OK",
        *rows(invite, "Via", "From", "Call-ID", "CSeq"),
        f"{rows(invite, 'To')[0]};tag=callee",
        f"Record-Route: {RECORD_ROUTE}",
        "Contact: <sip:alice@127.0.0.2:5062>",
        "Content-Type: application/sdp",
        f"Content-Length: {len(SDP)}",
        "",
        SDP,
    )
    ack = received("ACK ")
    bye = received("BYE ")
except TimeoutError:
    print("Asterisk does not call, or does not hang up")
    sys.exit(2)
send("SIP/2.0 200 OK", *rows(bye, "Via", "From", "To", "Call-ID", "CSeq"), "Content-Length: 0", "", "")
print(f"Record-Route of the answer to its INVITE: {RECORD_ROUTE}")
for name, message in (("INVITE", invite), ("ACK", ack), ("BYE", bye)):
    print(f"{name}: {'  '.join(rows(message, 'Route'))}")
same = rows(ack, "Route") == [f"Route: {RECORD_ROUTE}"] and rows(bye, "Route") == [
    f"Route: {RECORD_ROUTE}",
    f"Route: {PATH}",
]
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
