#!/usr/bin/env bash
# Builds libtorchherd by CMake and links LibTorch's libraries beside it.
#
#   shim.sh BUILD_FOLDER LIBRARY_FOLDER [CMAKE_ARGUMENT...]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$1
mkdir -p "$2"
libraries=$(cd "$2" && pwd)
shift 2

libtorch=$("$here/libtorch.sh")
mkdir -p "$build"
"$here/libs.sh" link "$libtorch" "$libraries"
log="$build/build.log"
if ! { cmake -S "$here/.." -B "$build" -DLIBTORCH="$libtorch" -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$libraries" "$@" &&
  cmake --build "$build" --parallel "$(getconf _NPROCESSORS_ONLN)"; } >"$log" 2>&1; then
  cat "$log" >&2
  echo "shim: build failed; the output above is in $log" >&2
  exit 1
fi
