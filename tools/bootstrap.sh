# Sourced by try.sh and check.sh, at the top of the checkout. Sets $python: a Python >= 3.11 that every user can run
# (the system's own before one in somebody's home). Missing Debian packages are installed as root, named otherwise.

find_python() {
    for candidate in "${SANDLOCK_PYTHON:-}" /usr/bin/python3 /usr/local/bin/python3 "$(command -v python3)"; do
        if [ -x "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            python=$candidate
            return
        fi
    done
    python=
}

find_missing() {
    find_python
    missing=
    [ -n "$python" ] || missing=" python3"
    "${python:-false}" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
    "${python:-false}" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))' || missing="$missing python3-dev"
    command -v cc >/dev/null || missing="$missing gcc libc6-dev"
}

# Install Debian packages as root. What listens (nginx, redis) is not started: policy-rc.d(8) forbids it meanwhile.
install_packages() {
    : "${policy:=/usr/sbin/policy-rc.d}"
    export DEBIAN_FRONTEND=noninteractive
    ours=
    if [ ! -e "$policy" ]; then
        ours=$policy
        trap 'rm -f "$policy"' EXIT HUP INT TERM
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod 755 "$policy"
    fi
    installed=0
    apt-get update -q && apt-get install -q -y --no-install-recommends "$@" || installed=1
    if [ -n "$ours" ]; then
        rm -f "$ours"
        trap - EXIT HUP INT TERM
    fi
    return $installed
}

can_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null
}

# Install the programs that a list names and this machine lacks; say which stay absent. Never fails: tests that need an
# absent one are skipped, and fail where it was promised (tools/run_tests.py).
provide_commands() {
    find_absent "$1"
    [ -n "$packages" ] || return 0
    if can_install; then
        install_packages $packages || true
        find_absent "$1"
    fi
    [ -z "$absent" ] || echo "Absent, so tests that need them are skipped:$absent (packages:$packages)" >&2
}

find_absent() {
    absent= packages=
    while read -r name package; do
        case $name in "" | "#"*) continue ;; esac
        # Debian keeps some where only root's PATH looks.
        PATH=$PATH:/usr/sbin:/sbin command -v "$name" >/dev/null && continue
        absent="$absent $name"
        case "$packages " in *" $package "*) ;; *) packages="$packages $package" ;; esac
    done < "$1"
}

find_missing
if [ -n "$missing" ]; then
    if can_install; then
        install_packages $missing || true
        find_missing
    fi
    if [ -n "$missing" ]; then
        echo "Missing:$missing. On Debian or Ubuntu type: sudo apt-get install$missing" >&2
        exit 1
    fi
fi
