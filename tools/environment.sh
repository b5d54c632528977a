#!/bin/sh
# Makes .venv ready: environment.sh EXTRA[,EXTRA...]
#
# All that has to be done before any Python is known: find one that is new enough.  The rest, and what
# "ready" means, is in environment.py.  When nothing has to be done it takes one start of Python.
set -u
cd "$(dirname "$0")/.." || exit 1

if [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ] &&
    .venv/bin/python -I tools/environment.py --ready .venv "$1" 2>/dev/null; then
    exit 0
fi

# One line per interpreter that is new enough, "RANK PATH": 0 tested and able to make an environment by
# itself, 1 newer than what is tested, 2 without ensurepip.  The path is that of the base interpreter, so
# that an environment of somebody else's, active right now, does not become part of ours.
probe='
import sys
if sys.version_info >= (3, 10):
    import importlib.util
    able = importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")
    rank = 2 if not able else int(sys.version_info >= (3, 14))
    print(rank, getattr(sys, "_base_executable", None) or sys.executable)
'

candidates() {
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON"
        return
    fi
    # What .venv was made from comes first: a refresh must not change the version.
    [ ! -x .venv/bin/python ] || echo .venv/bin/python
    for name in python3 python3.13 python3.12 python3.11 python3.10 python3.14 python; do
        command -v "$name"
    done
    for root in "$(pyenv root 2>/dev/null)" "${PYENV_ROOT:-}" "${HOME:-}/.pyenv"; do
        for python in "$root"/versions/3.1[0-9]*/bin/python3; do
            [ ! -x "$python" ] || echo "$python"
        done
    done
    for python in /opt/homebrew/bin/python3 /usr/local/bin/python3 /usr/bin/python3; do
        [ ! -x "$python" ] || echo "$python"
    done
}

python=$(candidates | while IFS= read -r candidate; do
    "$candidate" -I -c "$probe" 2>/dev/null </dev/null
done | sort -s -n -k 1,1 | head -n 1 | cut -d ' ' -f 2-)

if [ -z "$python" ]; then
    if [ -n "${PYTHON:-}" ]; then
        echo "coordkit needs Python 3.10 or newer; PYTHON=$PYTHON is not one." >&2
    else
        echo "coordkit needs Python 3.10 or newer; none was found on PATH or in pyenv's folder." >&2
        echo "Install one, or name one: make PYTHON=/path/to/python3 ..." >&2
    fi
    exit 1
fi
exec "$python" -I tools/environment.py .venv "$1"
