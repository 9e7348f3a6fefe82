#!/usr/bin/env bash
# Prints LibTorch's folder, which has include/ and lib/. The first of these that exists:
#
#   1. $LIBTORCH, if set;
#   2. the torch package of the active Python, if it is 2.9 or newer;
#   3. a download into the user's cache, pinned by hash and shared by all clones: the CPU libraries and headers
#      of PyTorch's wheel (0.55 GB to download, 0.5 GB to keep).
#
# Messages go to standard error.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

say() { echo "libtorch: $*" >&2; }
fail() { say "$@"; exit 1; }

if [ -n "${LIBTORCH:-}" ]; then
  [ -e "$LIBTORCH/include/torch/script.h" ] ||
    fail "LIBTORCH=$LIBTORCH has no include/torch/script.h; set it to the folder that has include/ and lib/"
  (cd "$LIBTORCH" && pwd)
  exit 0
fi

# find_spec avoids the import of torch, which takes seconds.
found=$(python3 - <<'PY'
import importlib.util, pathlib, re
spec = importlib.util.find_spec("torch")
if spec and spec.origin:
    folder = pathlib.Path(spec.origin).parent
    version = re.search(r"__version__ = '(\d+)\.(\d+)", (folder / "version.py").read_text())
    if version and (int(version[1]), int(version[2])) >= (2, 9) and (folder / "include/torch/script.h").exists():
        print(folder)
PY
)
if [ -n "$found" ]; then
  echo "$found"
  exit 0
fi

platform="$(uname -s | tr '[:upper:]' '[:lower:]')-$(uname -m)"
pins="$here/libtorch/$platform.txt"
[ -e "$pins" ] || fail "no download for $platform; set LIBTORCH to a LibTorch 2.9 or newer"
version=$(sed -n 's/^torch==\([^ ]*\).*/\1/p' "$pins")
cache="${TORCHHERD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/torchherd}"
folder="$cache/libtorch-$version-$platform"
if [ -d "$folder" ]; then # complete: a partial download has another name
  echo "$folder"
  exit 0
fi

mkdir -p "$cache"
# Of two builds at the same time the second waits here and finds the folder.
exec 9>"$cache/lock"
if command -v flock >/dev/null 2>&1; then flock 9; fi
if [ ! -d "$folder" ]; then
  case "$platform" in
    linux-*)
      machine=${platform#linux-}
      tags=(--platform "manylinux_2_28_$machine" --platform "manylinux_2_25_$machine" --platform "manylinux2014_$machine")
      ;;
    darwin-arm64) tags=(--platform macosx_14_0_arm64) ;;
  esac
  say "downloading LibTorch $version (0.55 GB, once) to $folder"
  # The wheels stay here if unpacking fails, so that the next run has them.
  wheels="$cache/wheels-$version-$platform"
  python3 -m pip download --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: --python-version 3.12 \
    "${tags[@]}" --dest "$wheels" --requirement "$pins" >&2 || fail "download failed; run the command again, or set LIBTORCH"
  partial=$(mktemp -d "$cache/partial.XXXXXX")
  trap 'rm -rf "$partial"' EXIT
  python3 "$here/unpack_libtorch.py" "$partial" "$wheels"/*.whl
  chmod 755 "$partial"
  mv "$partial" "$folder"
  rm -rf "$wheels"
fi
echo "$folder"
