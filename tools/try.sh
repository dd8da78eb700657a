#!/bin/sh
# Install sandlock from this checkout into .venv, and run a first confined program.
set -eu
cd "$(dirname "$0")/.."
. tools/bootstrap.sh

"$python" -m venv .venv
echo "Building and installing into .venv ..."
# By path, and all at once: no index decides what our names mean.
"$python" tools/workspace.py folders sandlock | xargs .venv/bin/pip install --quiet --disable-pip-version-check

.venv/bin/sandlock run -- "$python" -c '
import os, socket

def attempt(what, action):
    try:
        action()
    except OSError as error:
        print(f"  {what:28} refused: {error.strerror}")
    else:
        print(f"  {what:28} allowed")

print("Hello from a sandbox! Confined by the kernel, Python", os.sys.version.split()[0], "may:")
attempt("read its own library", lambda: open(os.__file__).close())
attempt("read /etc/shadow", lambda: open("/etc/shadow").close())
attempt("write /usr/planted", lambda: open("/usr/planted", "w").close())
attempt("list other homes", lambda: os.listdir("/root"))
attempt("open a network connection", lambda: socket.create_connection(("127.0.0.1", 9)))
attempt("signal its parent", lambda: os.kill(os.getppid(), 9))
'
echo "Try your own: .venv/bin/sandlock run -- COMMAND"
