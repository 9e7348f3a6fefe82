#!/usr/bin/env bash
# Makes the virtual environment with the linters pinned in lint-requirements.txt, once, and again when a pin
# changes.
#
#   lint-tools.sh FOLDER
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$1
pins="$here/lint-requirements.txt"
stamp="$folder/pins.txt" # written last: where it is, the environment is complete

[ ! -e "$folder/bin/python" ] || ! cmp -s "$pins" "$stamp" || exit 0
mkdir -p "$(dirname "$folder")"
# Two runs at once install once.
exec 9>"$folder.lock"
if command -v flock >/dev/null 2>&1; then flock 9; fi
[ ! -e "$folder/bin/python" ] || ! cmp -s "$pins" "$stamp" || exit 0
echo "lint: installing linters into $folder" >&2
python3 -m venv --clear "$folder"
"$folder/bin/python" -m pip install --disable-pip-version-check --quiet --only-binary=:all: --requirement "$pins" >&2 || {
  echo "lint: the linters could not be installed; run the command again" >&2
  exit 1
}
cp "$pins" "$stamp"
