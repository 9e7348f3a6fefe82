#!/usr/bin/env bash
# Installs the packages that the build needs: a C++ compiler, CMake, libjpeg's headers, pip. It uses apt if the user is root
# or has sudo without a password; otherwise it prints the command to type.
#
#   setup.sh [COMMAND=PACKAGE | python3:MODULE=PACKAGE]...   further commands and Python modules that are needed
set -euo pipefail

missing=()
need() { # need COMMAND PACKAGE
  command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}

for tool in go:Go python3:"Python 3"; do
  command -v "${tool%%:*}" >/dev/null 2>&1 || {
    echo "setup: ${tool#*:} is not installed, and the build needs it" >&2
    exit 1
  }
done

if [ "$(uname -s)" = Darwin ]; then
  need cmake cmake
  command -v c++ >/dev/null 2>&1 || { echo "setup: no C++ compiler; type: xcode-select --install" >&2; exit 1; }
  [ -e "$(brew --prefix jpeg-turbo 2>/dev/null)/include/jpeglib.h" ] || missing+=(jpeg-turbo)
  if [ "${#missing[@]}" -gt 0 ]; then
    echo "setup: packages are missing; type:  brew install ${missing[*]}" >&2
    exit 1
  fi
  exit 0
fi

need g++ g++
need gcc gcc
need cmake cmake
need readelf binutils
for pair in "$@"; do
  command=${pair%%=*} package=${pair#*=}
  case "$command" in
    python3:*) python3 -c "import ${command#*:}" 2>/dev/null || missing+=("$package") ;;
    *) need "$command" "$package" ;;
  esac
done
echo '#include <cstdio>
#include <jpeglib.h>' | c++ -E -x c++ - >/dev/null 2>&1 || missing+=(libjpeg-dev)
# Without LIBTORCH, pip may have to download it.
[ -n "${LIBTORCH:-}" ] || python3 -c 'import pip' 2>/dev/null || missing+=(python3-pip)
[ "${#missing[@]}" -gt 0 ] || exit 0

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
install="apt-get install --yes --no-install-recommends ${missing[*]}"
if ! command -v apt-get >/dev/null 2>&1; then
  echo "setup: packages are missing; install them with this system's package manager (Debian's names): ${missing[*]}" >&2
  exit 1
fi
if [ "${#as_root[@]}" -gt 0 ] && ! sudo -n true 2>/dev/null; then
  echo "setup: packages are missing; type:  sudo $install" >&2
  exit 1
fi
echo "setup: $install" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086 # $install is split into the command's words
if ! { "${as_root[@]}" apt-get update && "${as_root[@]}" $install; } >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "setup: apt failed; repair it, then type:  ${as_root[*]} $install" >&2
  exit 1
fi
