#!/usr/bin/env bash
# Builds the Go programs that gpu_check.sh runs: torchherd and the test programs of torch/ and server/. They look for
# libtorchherd in the folder lib beside them.
#
#   gpu_programs.sh FOLDER LIBRARY_FOLDER   LIBRARY_FOLDER: has libtorchherd, to link against
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
programs=$(cd "$1" && pwd)
export CGO_LDFLAGS="'-L$2'" # quoted: a path may have spaces
cd "$root"
options=(-tags relocatable -trimpath -ldflags "-s -w")
go build "${options[@]}" -o "$programs/torchherd" ./server
go test -c "${options[@]}" -o "$programs/torch.test" ./torch
go test -c "${options[@]}" -o "$programs/server.test" ./server
