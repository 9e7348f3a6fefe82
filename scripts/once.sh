#!/usr/bin/env bash
# Runs a check, unless the same check has passed with the same inputs before.
#
#   once.sh NAME PATHSPEC... -- COMMAND...
#
# The inputs are the files that git knows or would add under the pathspecs, the command, and the versions of the compilers.
# A pass is recorded in the cache by the hash of all of these.
set -euo pipefail

name=$1
shift
inputs=()
while [ "$1" != -- ]; do
  inputs+=("$1")
  shift
done
shift

cache=${TORCHHERD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/torchherd}
hash=$({
  git ls-files -z --cached --others --exclude-standard -- "${inputs[@]}" | sort -zu | while IFS= read -r -d '' file; do
    [ ! -f "$file" ] || sha256sum "$file"
  done
  echo "$*"
  go version
  c++ --version
  python3 --version
  echo "${LIBTORCH:-}" "$cache"/libtorch-*
} | sha256sum | cut -d ' ' -f 1)
record="$cache/passed/$name-$hash"

if [ -e "$record" ]; then
  echo "$name: skipped, since it passed with the same inputs on $(cat "$record")"
  exit 0
fi
"$@"
mkdir -p "$cache/passed"
date -u '+%Y-%m-%d %H:%M UTC' >"$record"
