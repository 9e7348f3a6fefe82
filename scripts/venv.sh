#!/usr/bin/env bash
# Makes a Python virtual environment with the packages that a file pins, once, and again when a pin changes.
#
#   venv.sh FOLDER REQUIREMENTS [BASE]
#
# With BASE, another such environment, its packages are there too and are not installed again.
set -euo pipefail
folder=$1
pins=$2
base=${3:-}
stamp="$folder/pins.txt" # written last: where it is, the environment is complete

[ ! -e "$folder/bin/python" ] || ! cmp -s "$pins" "$stamp" || exit 0
mkdir -p "$(dirname "$folder")"
# Two runs at once install once.
exec 9>"$folder.lock"
if command -v flock >/dev/null 2>&1; then flock 9; fi
[ ! -e "$folder/bin/python" ] || ! cmp -s "$pins" "$stamp" || exit 0
echo "venv: installing $pins into $folder" >&2
python3 -m venv --clear "$folder"
if [ -n "$base" ]; then
  packages() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
  packages "$base" >"$(packages "$folder")/base.pth"
fi
"$folder/bin/python" -m pip install --disable-pip-version-check --only-binary=:all: --progress-bar off --requirement "$pins" >"$folder.log" 2>&1 || {
  tail -n 20 "$folder.log" >&2
  echo "venv: $pins could not be installed; run the command again" >&2
  exit 1
}
cp "$pins" "$stamp"
