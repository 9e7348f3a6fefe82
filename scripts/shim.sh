#!/usr/bin/env bash
# Builds libtorchherd with CMake and puts it, with links to LibTorch beside it, into a folder.
#
#   shim.sh BUILD_FOLDER LIBRARY_FOLDER [CMAKE_ARGUMENT...]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$1 libraries=$2
shift 2

libtorch=$("$here/libtorch.sh")
mkdir -p "$build" "$libraries"
log="$build/build.log"
if ! { cmake -S "$here/.." -B "$build" -DLIBTORCH="$libtorch" "$@" && cmake --build "$build" --parallel; } >"$log" 2>&1; then
  cat "$log" >&2
  echo "shim: the build failed; the output above is in $log" >&2
  exit 1
fi
for library in "$build"/libtorchherd.so "$build"/libtorchherd.dylib; do
  if [ -e "$library" ]; then cp -p "$library" "$libraries/"; fi
done
"$here/libs.sh" link "$libtorch" "$libraries"
