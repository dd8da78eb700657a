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

find_missing
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -q && apt-get install -q -y --no-install-recommends $missing
        find_missing
    fi
    if [ -n "$missing" ]; then
        echo "Missing:$missing. On Debian or Ubuntu type: sudo apt-get install$missing" >&2
        exit 1
    fi
fi
