#!/bin/sh
# Install what the checks need, run all of them (noxfile.py), close with the number of tests.
#     sh tools/check.sh [NOX OPTIONS]        such as: -s lint, or -s 'tests(sandlock-arch)'
set -eu
cd "$(dirname "$0")/.."
. tools/bootstrap.sh
provide_commands tools/test_commands.txt

tooling=build/tooling
"$python" -m venv "$tooling"
"$tooling/bin/pip" install --quiet --disable-pip-version-check -r tools/requirements-nox.txt
"$python" tools/summary.py clear

status=0
"$tooling/bin/nox" "$@" || status=1
"$python" tools/summary.py || status=1
exit $status
