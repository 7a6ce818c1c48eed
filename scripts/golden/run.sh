#!/bin/sh
# Remakes the golden fixtures from the reference implementations, in a virtual environment of its own.
#
#   scripts/golden/run.sh [SCRIPT ...]     PYTHON=PATH uses a Python that has the packages
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-}
if [ -z "$python" ]; then
    venv=${XDG_CACHE_HOME:-$HOME/.cache}/gen/golden-venv
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q -r "$here/requirements.txt"
    python=$venv/bin/python
fi
[ $# -gt 0 ] || set -- "$here"/*.py
for script in "$@"; do
    [ "$script" != "$here/formula.py" ] || continue
    echo "$script" >&2
    "$python" "$script"
done
