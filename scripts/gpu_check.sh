#!/usr/bin/env bash
# Checks torchherd on this machine's GPU with the active Python's PyTorch (2.11 or newer). It runs in a checkout, or in an
# unpacked bundle (gpu_bundle.sh), where it needs neither Go nor a network.
#
#   gpu_check.sh [PART...]   build, cpu, models, torch, server, bench; default: all, in this order
#
# Every part runs, even after a failed one. The exit status is 0 if all passed. Logs, figures and parts.json are written to
# build/gpu.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work="$root/build/gpu"
programs="$work/bin"
libraries="$programs/lib"
logs="$work/logs"
model="$work/cyclegan.pt"
packages=("$work/cyclegan-fp32.pt2" "$work/cyclegan-bf16.pt2")
batch=32 # largest batch of a package, as the benchmark sends it
mkdir -p "$logs" "$libraries"

refuse() {
  echo "gpu-check: $*" >&2
  exit 2
}

python3 - <<'PY' || refuse "the active Python (python3) has no PyTorch 2.11 or newer; activate an environment that has one"
import importlib.util, pathlib, re, sys
spec = importlib.util.find_spec("torch")
version = spec and spec.origin and re.search(r"__version__ = '(\d+)\.(\d+)", (pathlib.Path(spec.origin).parent / "version.py").read_text())
sys.exit(0 if version and (int(version[1]), int(version[2])) >= (2, 11) else 1)
PY
for tool in cmake c++ readelf; do
  command -v "$tool" >/dev/null 2>&1 || refuse "$tool is not installed, and the build needs it"
done
unset LIBTORCH # so that the build finds the active Python's

# Builds the C++ library against this PyTorch, the benchmark's floors, and, in a checkout, the Go programs.
build() {
  local jpeg=()
  if ! printf '#include <cstdio>\n#include <jpeglib.h>\n' | c++ -E -x c++ - >/dev/null 2>&1; then
    [ -d jpeg ] || { echo "libjpeg's headers are not installed, and not in jpeg/; install libjpeg-dev"; return 1; }
    jpeg=("-DJPEG_INCLUDE_DIR=$root/jpeg/include" "-DJPEG_LIBRARY=$root/jpeg/lib/libjpeg.so")
    cp jpeg/lib/libjpeg.so.* "$libraries/"
  fi
  scripts/shim.sh "$work/csrc" "$libraries" "${jpeg[@]}" || return 1
  cmake --build "$work/csrc" --target floors || return 1
  grep -h "CUDA graphs" "$work/csrc/build.log" || true
  if [ -e go.mod ]; then scripts/gpu_programs.sh "$programs" "$libraries"; fi
}

# Tests that need no GPU.
cpu() {
  "$work/csrc/smoke" testdata "$libraries"/test/{operators,unresolved}.so && "$work/csrc/plain_resize_test" &&
    go_tests torch 'TORCHHERD_DEVICE=cpu' -test.skip 'CUDA' &&
    go_tests server 'TORCHHERD_DEVICE=cpu' -test.skip 'CUDA'
}

# tools ARGUMENT...: runs a command of tools/, which needs no installation in its own folder. Paths must be absolute.
tools() { (cd tools && python3 -m torchherd_tools "$@"); }

# Exports the full CycleGAN with seeded weights, and its packages for this GPU.
models() {
  local random=(export --random --seed 0)
  [ -e "$model" ] || tools "${random[@]}" -o "$model" || return 1
  local package
  for package in "${packages[@]}"; do
    local dtype=${package##*-}
    tools "${random[@]}" -o "$package" --format pt2 --device cuda --dtype "${dtype%.pt2}" --dynamic-batch "1:$batch" || return 1
  done
}

# Runs the tests that need a GPU. A skipped test counts as failed, because this script is for machines with a GPU.
gpu_tests() {
  local log="$logs/$1.tests" status=0
  go_tests "$1" '' -test.run '^TestCUDA' -test.v "${@:2}" >"$log" 2>&1 || status=1
  cat "$log"
  if grep -q -e '--- SKIP' "$log"; then status=1; fi
  return "$status"
}

# Tests the full model and its packages, then the bundled model against the CPU.
torch() {
  gpu_tests torch -model "$model" -packages "$(IFS=,; echo "${packages[*]}")" && gpu_tests torch -test.run '^TestCUDAParity$'
}

server() { gpu_tests server; }

bench() {
  tools gpu --programs "$programs" --floors "$work/csrc/floors" --model "$model" --packages "${packages[1]}" --out "$work/bench.json"
}

# go_tests FOLDER ENVIRONMENT ARGUMENT...: runs a test program in its package's folder, as `go test` does.
go_tests() {
  (cd "$1" && env ${2:+"$2"} "$programs/$1.test" -test.count 1 -test.timeout 9m "${@:3}")
}

# Prints the library's reason why no GPU can be used; nothing where one can.
no_gpu() {
  (cd torch && "$programs/torch.test" -test.v -test.run '^TestCUDAErrors$' 2>&1) | sed -n 's/.*device unavailable: //p' | head -n 1
}

# reason_in LOG: prints the first message of a failed test, else the last line.
reason_in() {
  { grep -m 1 -A 1 -e '--- FAIL' -e '--- SKIP' "$1" || tail -n 1 "$1"; } | tr -s ' \n' ' ' | cut -c 1-300
}

names=(build cpu models torch server bench)
wanted=("${@:-${names[@]}}")
for name in "${wanted[@]}"; do
  [[ " ${names[*]} " == *" $name "* ]] || refuse "unknown part $name; the parts are: ${names[*]}"
done

failed=() table="" json="" reason=""
for name in "${wanted[@]}"; do
  log="$logs/$name.log" begun=$SECONDS status=passed why=""
  printf 'gpu-check: %s ...\n' "$name"
  if [ "$name" != build ] && [ "$name" != cpu ] && reason=$(no_gpu) && [ -n "$reason" ]; then
    status=failed why="no GPU: $reason"
  elif ! "$name" >"$log" 2>&1; then
    status=failed why=$(reason_in "$log")
  fi
  took=$((SECONDS - begun))
  if [ "$name" = bench ] && [ "$status" = passed ]; then cat "$log"; fi
  if [ "$status" = failed ]; then failed+=("$name"); fi
  table+=$(printf '%-8s %-7s %4d s  %s' "$name" "$status" "$took" "$why")$'\n'
  json+="${json:+, }\"$name\": {\"status\": \"$status\", \"seconds\": $took}"
done

card=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1 || true)
version=$(python3 -c 'from importlib import metadata; print(metadata.version("torch"))')
printf '{"card": "%s", "pytorch": "%s", "parts": {%s}}\n' "$card" "$version" "$json" >"$work/parts.json"
printf '\n%s, PyTorch %s\n%s' "${card:-no GPU}" "$version" "$table"
if [ "${#failed[@]}" -gt 0 ]; then
  echo "gpu-check: FAILED: ${failed[*]}${reason:+ (no GPU: $reason)}; the logs are in $logs" >&2
  exit 1
fi
echo "gpu-check: all passed; the figures are in $work/bench.json"
