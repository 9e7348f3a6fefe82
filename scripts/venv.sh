#!/usr/bin/env bash
# Makes a Python virtual environment, and updates it when what it is made from changes.
#
#   venv.sh FOLDER PACKAGES [BASE]
#
# PACKAGES is a file that pins packages, or the folder of a project, which is installed in editable mode without its
# dependencies. With BASE, another virtual environment, the packages of BASE are visible too.
set -euo pipefail
folder=$1
packages=$2
base=${3:-}
stamp="$folder/pins.txt" # written last: an environment with a stamp is complete

sources() {
  if [ -d "$packages" ]; then (cd "$packages" && pwd && cat pyproject.toml); else cat "$packages"; fi
  if [ -n "$base" ]; then echo "$base" && grep '^version' "$base/pyvenv.cfg"; fi
}
# Comments don't count: only a changed pin makes an environment of gigabytes out of date.
current() {
  [ -e "$folder/bin/python" ] && [ -e "$stamp" ] && [ "$(sources | grep -v '^#')" = "$(grep -v '^#' "$stamp")" ]
}
if current; then exit 0; fi
mkdir -p "$(dirname "$folder")"
# Of two runs at once, the second waits here and finds the environment complete.
exec 9>"$folder.lock"
if command -v flock >/dev/null 2>&1; then flock 9; fi
if current; then exit 0; fi

echo "venv: installing $packages into $folder" >&2
rm -f "$stamp"
if [ -n "$base" ]; then
  "$base/bin/python" -m venv --clear --without-pip "$folder"
  # addsitedir also reads the .pth files of BASE, which may have a base of its own. The line is ASCII for any path.
  "$base/bin/python" - "$folder" <<'PY'
import pathlib, sys, sysconfig

packages = sysconfig.get_path("purelib", "venv", {"base": sys.argv[1]})
line = f"import site; site.addsitedir({sysconfig.get_path('purelib')!a})\n"
pathlib.Path(packages, "base.pth").write_text(line, encoding="ascii")
PY
elif [ ! -e "$folder/bin/python" ]; then
  python3 -m venv --clear "$folder"
fi
if [ -d "$packages" ]; then
  what=(--no-index --no-deps --no-build-isolation --editable "$packages")
else
  what=(--only-binary=:all: --requirement "$packages")
fi
"$folder/bin/python" -m pip install --disable-pip-version-check --progress-bar off "${what[@]}" >"$folder.log" 2>&1 || {
  tail -n 20 "$folder.log" >&2
  echo "venv: $packages could not be installed; run the command again" >&2
  exit 1
}
sources >"$stamp"
