#!/usr/bin/env bash
# Makes .venv ready to work with, and does nothing where nothing has changed. Usage: setup.sh [--light]
# --light: only what `make lint` needs - no Debian packages, nothing compiled.
set -euo pipefail
cd "$(dirname "$0")/.."
light=${1:-}

exec 9<.
flock 9 # two `make` at a time take turns

fail() {
    echo "setup: $*" >&2
    exit 1
}

modern() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if modern "$candidate"; then
            echo "$candidate"
            return
        fi
    done
}

python=$(find_python)
if [ "$light" != --light ]; then
    AX_SETUP_PYTHON=$python scripts/debian.sh
    python=${python:-$(find_python)}
fi
[ -n "$python" ] || fail "Python 3.11 or newer is needed (apt install python3 python3-venv python3-dev); PYTHON=… names one"

# A virtual environment does not survive that its directory is moved, nor that its Python is removed.
if [ "$(cat .venv/home 2>/dev/null)" != "$PWD" ] || ! modern .venv/bin/python; then
    rm -rf .venv
    "$python" -m venv .venv || fail "no virtual environment; Debian and Ubuntu: apt install python3-venv"
    echo "$PWD" >.venv/home
fi

pip=(.venv/bin/python -m pip -qq --disable-pip-version-check --no-input)

stamp() { cat "$@" | sha256sum; }

now=$(stamp pyproject.toml)
if [ "$(cat .venv/dependencies 2>/dev/null)" != "$now" ]; then
    echo "setup: Python packages"
    .venv/bin/python scripts/requirements.py bench build lint test >.venv/requirements.txt
    "${pip[@]}" install -r .venv/requirements.txt
    ln -sf ../../scripts/ax-bench .venv/bin/ax-bench
    echo "$now" >.venv/dependencies
fi
[ "$light" != --light ] || exit 0

if ! command -v "${CC:-cc}" gcc clang >/dev/null; then
    fail "a C compiler is needed: apt install gcc libc6-dev (Debian, Ubuntu), dnf install gcc glibc-static (Fedora)"
fi
mapfile -t sources < <(.venv/bin/python scripts/sources.py)
now=$(printf '%s\n' "${sources[@]}" | cat - pyproject.toml meson.build src/meson.build native/*.* native/kernel/* "${sources[@]/#/src/}" | sha256sum)
if [ "$(cat .venv/package 2>/dev/null)" != "$now" ]; then
    echo "setup: building and installing appswitch"
    PATH="$PWD/.venv/bin:$PATH" "${pip[@]}" install --no-build-isolation --no-deps --force-reinstall .
    echo "$now" >.venv/package
fi
