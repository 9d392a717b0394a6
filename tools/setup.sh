# shellcheck shell=bash
# What tools/demo, tools/test and others beside need before they begin; sourced by all of them.
#
# Knows the Debian packages (here and nowhere else) and how the Python environment is made. Changes nothing on the
# machine but this: it installs packages that are missing, when it is root, and it makes .venv in the checkout
# (or $NFQLB_VENV). What is there already stays as it is.

CHECKOUT=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
VENV=$(realpath -m "${NFQLB_VENV:-$CHECKOUT/.venv}")
PYTHON=${NFQLB_PYTHON:-python3}
cd "$CHECKOUT" || exit

# To build the Python environment (netfilterqueue is a C extension).
BUILD_PACKAGES=(ca-certificates gcc libc6-dev libnetfilter-queue-dev python3 python3-dev python3-venv)

# To run the lab: the gateway's own tools, and the peers.
LAB_PACKAGES=(
    iproute2 iptables ipset conntrack procps    # the gateway and its host
    kamailio kamailio-extra-modules             # registrars and proxies
    baresip-core sip-tester                     # phones
    keepalived                                  # moves the addresses of a pair
    tcpdump                                     # writes down what goes over the wire
)

# To run the tests: more peers, and independent readers. They are most of what has to be fetched.
# shellcheck disable=SC2034  # used by those who source this
TEST_PACKAGES=(
    "${LAB_PACKAGES[@]}"
    sipsak sipvicious                           # a question; scans and guesses, to be refused
    tshark                                      # reads what went over the wire
    systemd                                     # starts the gateway as a service, and checks its units
    shellcheck                                  # for these scripts
    man-db mandoc                               # readers of the manual
    zsh fish                                    # shells that complete, beside bash
)

# To run tools/bench: it counts instructions, and compiles its generator of load.
# shellcheck disable=SC2034
BENCH_PACKAGES=(valgrind "${BUILD_PACKAGES[@]}")

# Packages above that would start a daemon when they are installed. The lab starts its own.
SERVICES=(kamailio keepalived)

say() { printf '==> %s\n' "$*" >&2; }

die() {
    printf '%s: %s\n' "$0" "$*" >&2
    exit 1
}

is_root() { ((EUID == 0)); }

# Prints those of its arguments that are not installed.
missing_packages() {
    local package
    for package; do
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || echo "$package"
    done
}

# Installs what is missing of its arguments, or says how.
need_packages() {
    local missing
    command -v dpkg-query >/dev/null ||
        die "this is for Debian 12, Debian 13 and Ubuntu 24.04. Elsewhere, install the likes of: $*"
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]})) || return 0
    is_root || die "Debian packages are missing. Install them with: sudo apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    install_packages "${missing[@]}"
}

# Whether the lists of packages were fetched in this run.
LISTS_ARE_NEW=0

# Installs its arguments without a question, and without leaving a daemon behind.
#
# A unit that we mask for the time of the installation is not started by it; afterwards it is disabled, so that it does
# not start at the next boot either. Services that were installed before us are not touched. Where no systemd runs
# (a container), the daemon may have been started by its init script, and is stopped.
install_packages() {
    local service new=()
    for service in "${SERVICES[@]}"; do
        if [[ " $* " == *" $service "* ]]; then new+=("$service"); fi
    done
    local systemd=0
    if [[ -d /run/systemd/system ]]; then systemd=1; fi
    if ((systemd && ${#new[@]})); then
        systemctl mask --quiet --runtime "${new[@]/%/.service}" ||
            die "systemctl could not keep ${new[*]} from starting (see above), so nothing was installed."
        # shellcheck disable=SC2064  # the names as they are now
        trap "systemctl unmask --quiet --runtime ${new[*]/%/.service}" EXIT
    fi
    # tshark would ask whether everybody may capture: noninteractive means no, as its package recommends.
    # needrestart would restart services of the machine: it may only list them.
    local apt=(env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -q -o DPkg::Lock::Timeout=300)
    if ! ((LISTS_ARE_NEW)); then
        "${apt[@]}" update >/dev/null || say "apt-get update failed; trying with the package lists of before"
        LISTS_ARE_NEW=1
    fi
    "${apt[@]}" install -y --no-install-recommends "$@" >&2 ||
        die "apt-get could not install what is needed. Its messages above say why."
    for service in "${new[@]}"; do
        ((systemd)) || service "$service" stop >/dev/null 2>&1 || true
        update-rc.d "$service" disable >/dev/null 2>&1 || true
    done
    if ((systemd && ${#new[@]})); then
        systemctl unmask --quiet --runtime "${new[@]/%/.service}"
        trap - EXIT
    fi
}

# Whether the environment can be used: it runs, and with the Python that would make it now.
venv_works() {
    local version='import sys; print(sys.version_info[:2])'
    [[ -x $VENV/bin/python ]] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1 &&
        [[ $("$VENV/bin/python" -c "$version" 2>/dev/null) == "$("$PYTHON" -c "$version")" ]]
}

# What an environment that is up to date was made of, as its stamp says.
venv_wanted() {
    printf '%s %s\n' "$CHECKOUT" \
        "$(cat pyproject.toml setup.py nfqlb/fast/*.p{xd,xi,yx} nfqlb/gateway/worker/*.pyx | sha256sum)"
}

# Whether `need_venv` of this word has nothing to do.
venv_is_current() {
    local stamp=$VENV/nfqlb.stamp
    [[ -f $stamp && $(<"$stamp") == "$(venv_wanted)" && ($1 == run || -e $VENV/nfqlb.dev) ]] && venv_works
}

# Makes the Python environment, or brings it up to date when pyproject.toml or what is compiled is not as last time.
#
# `need_venv dev`: with what tests and developers need; `need_venv run` does without, unless it is there already.
need_venv() {
    local stamp=$VENV/nfqlb.stamp dev=$VENV/nfqlb.dev extra='[dev]' wanted
    if venv_is_current "$1"; then return; fi
    wanted=$(venv_wanted)
    if [[ $1 == run && ! -e $dev ]]; then extra=; fi
    need_packages "${BUILD_PACKAGES[@]}"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "Python 3.11 or later is needed; $PYTHON is older. Name another one in NFQLB_PYTHON."
    [[ -w . && (! -e $VENV || -w $VENV) ]] ||
        die "$(id -un) may not write to $CHECKOUT and $VENV. Run this as $(stat -c %U .), or in a copy of your own."
    if ! venv_works; then
        [[ ! -e $VENV || -e $VENV/pyvenv.cfg ]] ||
            die "$VENV is no Python environment and was left as it is. Move it away, or name another place in NFQLB_VENV."
        say "making a Python environment in $VENV"
        "$PYTHON" -m venv --clear "$VENV" || die "$PYTHON cannot make an environment in $VENV. Its messages above say why."
    fi
    rm -f "$stamp"
    say "installing nfqlb and what it needs into $VENV"
    # By its path alone: the finder that setuptools would put there costs every start of Python 25 ms.
    "$VENV/bin/python" -m pip --disable-pip-version-check install --quiet --config-settings editable_mode=compat \
        --editable ".$extra" ||
        die "pip could not install what is needed. Its messages above say why."
    printf '%s\n' "$wanted" >"$stamp"
    if [[ $extra ]]; then touch "$dev"; fi
}

# What root made in a checkout that belongs to somebody else (sudo) is given to its owner.
give_back() {
    local owner
    owner=$(stat -c %u:%g .)
    [[ $owner == 0:* ]] || ! is_root || find . -xdev -uid 0 -exec chown --no-dereference "$owner" {} +
}
