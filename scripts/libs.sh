#!/usr/bin/env bash
# Puts the libraries that libtorchherd needs beside it, where its rpath ($ORIGIN) looks.
#
#   libs.sh link LIBTORCH FOLDER   links LibTorch's libraries (for a build)
#   libs.sh copy LIBTORCH FOLDER   copies them, libjpeg, libstdc++ and libgcc_s (for a package)
set -euo pipefail
mode=$1 libtorch=$2 folder=$3

# The folders of LibTorch's own rpath: its own, then the CUDA packages that pip installs beside it.
search=("$libtorch/lib" "$libtorch"/../nvidia/*/lib)

# find_library LIBRARY: prints its path in one of those folders; fails for libraries of the system.
find_library() {
  local directory
  for directory in "${search[@]}"; do
    if [ -e "$directory/$1" ]; then
      echo "$directory/$1"
      return
    fi
  done
  return 1
}

needed() { readelf --dynamic --wide "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }

place() {
  if [ "$mode" = copy ]; then cp -L "$1" "$folder/$2"; else ln -sfn "$1" "$folder/$2"; fi
}

if [ "$(uname -s)" = Darwin ]; then
  for library in "$libtorch"/lib/lib{torch_cpu,c10,omp}.dylib; do place "$library" "$(basename "$library")"; done
  exit 0
fi

queue=(libtorch_cpu.so)
seen=" "
while [ "${#queue[@]}" -gt 0 ]; do
  name=${queue[0]}
  queue=("${queue[@]:1}")
  case "$seen" in *" $name "*) continue ;; esac
  seen+="$name "
  path=$(find_library "$name") || continue
  place "$path" "$name"
  while read -r next; do queue+=("$next"); done < <(needed "$path")
done

if [ "$mode" = copy ]; then
  ldd "$folder/libtorchherd.so" | sed -n 's/^\t\(lib\(jpeg\|stdc++\|gcc_s\)\.so[^ ]*\) => \(.*\) (0x.*/\1 \3/p' |
    while read -r name path; do [ "$path" -ef "$folder/$name" ] || place "$path" "$name"; done
fi
