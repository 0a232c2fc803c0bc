#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Sets the project up in a virtual environment and runs it: `setup.sh demo` or `setup.sh test`.
# Uses the active virtual environment, else makes .venv in the checkout. On a bare Debian machine
# it installs Debian's venv module first (through sudo unless you are root). PYTHON names the
# interpreter to make .venv with.
set -eu

fail() {
    echo "setup.sh: $1" >&2
    exit 1
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
job=${1:-}
case $job in
    demo | test) shift ;;
    *)
        echo "usage: sh tools/setup.sh demo [OPTIONS of i2o demo]" >&2
        echo "       sh tools/setup.sh test [OPTIONS of pytest]" >&2
        exit 2
        ;;
esac

# new_enough PYTHON: is it one that the project runs on?
new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# install_venv_module PYTHON: Debian keeps it in a package of its own, one for each version.
install_venv_module() {
    package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    as_root=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || fail "$package is missing: install it as root, then try again"
        as_root=sudo
    fi
    command -v apt-get >/dev/null || fail "Python's venv module is missing: install it, then try again"
    echo "setup.sh: installing $package" >&2
    $as_root apt-get -qq update || true
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y "$package" >/dev/null ||
        fail "$package could not be installed: is a package mirror reachable?"
}

if [ -n "${VIRTUAL_ENV:-}" ]; then
    env=$VIRTUAL_ENV
    new_enough "$env/bin/python" || fail "the active environment $env has no Python 3.11 or newer"
else
    env=$here/.venv
    if ! new_enough "$env/bin/python"; then
        python=${PYTHON:-python3}
        new_enough "$python" || fail "needs Python 3.11 or newer; set PYTHON to one"
        "$python" -c 'import ensurepip, venv' 2>/dev/null || install_venv_module "$python"
        "$python" -m venv --clear "$env"
    fi
fi

extra=
[ "$job" = demo ] || extra='[test]'
"$env/bin/python" -m pip --version >/dev/null 2>&1 ||
    "$env/bin/python" -m ensurepip >/dev/null 2>&1 ||
    fail "$env has no pip: remove that folder, then try again"
(cd "$here" && "$env/bin/python" -m pip install --quiet --disable-pip-version-check \
    --prefer-binary --retries 2 -e ".$extra") ||
    fail "pip could not install what is needed: is a package index reachable?"

if [ "$job" = test ]; then
    cd "$here"
    # several processes; tests/conftest.py says how many, and that chosen tests need only one
    exec "$env/bin/python" -m pytest -n auto --dist worksteal "$@"
fi
exec "$env/bin/i2o" demo "$@"
