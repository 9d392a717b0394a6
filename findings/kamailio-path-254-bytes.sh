#!/usr/bin/env bash
# Kamailio's registrar answers a valid Path of more than 254 bytes as if it could not be parsed.
#
# Common guess: a Path [RFC 3327] may be as long as a header may be; whoever cannot store it says so (413, 513), and
# "parse error" means that somebody wrote it wrongly.
# Seen: Kamailio 5.6.3 takes 254 bytes of Path, all its values together, and refuses the 255th with "400 Bad Request" or
# "500 I'm terribly sorry", either with "P-Registrar-Error: Path parse error". The sender has no
# say in which of the two. Two edge proxies with a signed token each are beyond that. (6.1.5 takes 511 bytes.)
#
# Needs root, apt, Python 3 and the Debian archive; takes some minutes. Nothing stays but what apt keeps.
# Usage: findings/kamailio-path-254-bytes.sh      exit 0: still so; 1: it has changed; 2: could not be tried
set -euo pipefail

SUITE=bookworm PACKAGE=kamailio VERSION=5.6.3-2

cannot() { echo "$0: $*" >&2; exit 2; }

if [[ ${1:-} == --inside ]]; then # in namespaces of its own: network, mounts, processes, host name
    root=$2
    ip link set lo up
    hostname localhost # there is no DNS here, and Kamailio asks for its own name
    mount -t proc proc "$root/proc"
    mkdir -p "$root/srv/try"
    cp "$root/etc/kamailio/kamailio.cfg" "$root/srv/try/"
    printf 'listen=udp:127.0.0.1:5060\nauto_aliases=no\nalias="example.org"\n' >"$root/srv/try/kamailio-local.cfg"
    chroot "$root" kamailio -f /srv/try/kamailio.cfg -Y /srv/try -P /srv/try/pid -m 64 -M 4 -DD -E \
        >"$root/srv/try/log" 2>&1 &
    exec python3 - <<'PYTHON'
import socket
import sys

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 5070))


def register(number: int, size: int) -> tuple[str, str]:
    """A REGISTER with a Path of `size` bytes; the status line and P-Registrar-Error of its answer."""
    start = "<sip:edge@127.0.0.1:5070;lr;token="
    path = start + "x" * (size - len(start) - 1) + ">"
    lines = (
        "REGISTER sip:example.org SIP/2.0",
        f"Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK{number}",
        "Max-Forwards: 70",
        f"Path: {path}",
        "Supported: path",
        f"From: <sip:u{number}@example.org>;tag={number}",
        f"To: <sip:u{number}@example.org>",
        f"Call-ID: {number}@127.0.0.1",
        "CSeq: 1 REGISTER",
        "Contact: <sip:u@127.0.0.1:5070>",
        "Content-Length: 0",
    )
    sock.settimeout(1)
    for _ in range(30):
        sock.sendto(("\r\n".join(lines) + "\r\n\r\n").encode(), ("127.0.0.1", 5060))
        try:
            answer = sock.recv(65535).decode().split("\r\n")
        except (TimeoutError, ConnectionError):
            continue
        return answer[0], next((line for line in answer if line.startswith("P-Registrar-Error")), "")
    print("Kamailio does not answer")
    sys.exit(2)


seen = {}
for number, size in enumerate((100, 200, 253, 254, 255, 256, 300, 400)):
    seen[size] = register(number, size)
    print(f"  Path of {size} bytes: {'  '.join(seen[size])}")
fine = all("200 OK" in seen[size][0] for size in seen if size <= 254)
refused = all(seen[size][0].split()[1] in ("400", "500") and "Path parse error" in seen[size][1] for size in seen if size > 254)
print("As seen before." if fine and refused else "It has changed.")
sys.exit(not (fine and refused))
PYTHON
fi

((EUID == 0)) || cannot "needs root"
folder=$(mktemp -d)
trap 'rm -rf --one-file-system "$folder"' EXIT
root=${CHROOT:-$folder/root} # CHROOT: a tree that has the package already
if [[ -z ${CHROOT:-} ]]; then
    echo "Installing $PACKAGE $VERSION of Debian $SUITE in a temporary folder ..."
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
