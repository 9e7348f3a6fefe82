#!/usr/bin/env bash
# Builds, by Go, what gpu_check.sh runs: torchherd and the test programs of torch/ and server/. They find their library
# in a folder lib beside themselves.
#
#   gpu_programs.sh FOLDER LIBRARY_FOLDER   LIBRARY_FOLDER: where to link against libtorchherd
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
programs=$(cd "$1" && pwd)
export CGO_LDFLAGS="-L$2"
cd "$root"
options=(-tags relocatable -trimpath -ldflags "-s -w")
go build "${options[@]}" -o "$programs/torchherd" ./server
go test -c "${options[@]}" -o "$programs/torch.test" ./torch
go test -c "${options[@]}" -o "$programs/server.test" ./server
