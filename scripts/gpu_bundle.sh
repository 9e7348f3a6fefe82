#!/usr/bin/env bash
# Packs into dist/ what gpu_check.sh needs on a machine that has a GPU and PyTorch, but neither Go nor a network: sources
# of the C++ library, programs built here, models, test data, and libjpeg-turbo.
#
#   gpu_bundle.sh VERSION
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
limit=$((64 << 20)) # bytes; file transfers to such machines are often limited

name="torchherd-gpu-$1-$(uname -s | tr '[:upper:]' '[:lower:]')-$(uname -m)"
folder="dist/$name"
rm -rf "$folder"
mkdir -p "$folder/jpeg/include" "$folder/jpeg/lib" "$folder/torch" "$folder/server"

scripts/gpu_programs.sh "$folder/build/gpu/bin" "$root/bin/lib"
git ls-files -z -- CMakeLists.txt LICENSE csrc scripts testdata bench tools models/photo2ink/model.pt \
  ':(exclude,glob)tools/**/tests/**' ':!tools/torchherd_tools/bench/peers' |
  tar --null --files-from - -c | tar -x -C "$folder"

# The libjpeg-turbo that this machine's compiler finds.
header=$(printf '#include <cstdio>\n#include <jpeglib.h>\n' | c++ -M -x c++ - | grep -oE '/[^ ]*/jpeglib\.h')
config=$(printf '#include <cstdio>\n#include <jpeglib.h>\n' | c++ -M -x c++ - | grep -oE '/[^ ]*/jconfig\.h')
cp "$config" "${header%/*}"/{jpeglib,jmorecfg,jerror}.h "$folder/jpeg/include/"
library=$(ldd bin/lib/libtorchherd.so | sed -n 's/.*libjpeg\.so[^ ]* => \(.*\) (0x.*/\1/p')
cp -L "$library" "$folder/jpeg/lib/${library##*/}"
ln -s "${library##*/}" "$folder/jpeg/lib/libjpeg.so"
for notice in "/usr/share/doc/libjpeg62-turbo/copyright" "/usr/share/doc/libjpeg-turbo8/copyright"; do
  if [ -e "$notice" ]; then cp "$notice" "$folder/jpeg/"; fi
done

tar -C dist -czf "dist/$name.tar.gz" "$name"
rm -rf "$folder"
bytes=$(wc -c <"dist/$name.tar.gz")
if [ "$bytes" -gt "$limit" ]; then
  rm "dist/$name.tar.gz"
  echo "gpu-bundle: the bundle has $bytes bytes, the limit is $limit; pack fewer files in scripts/gpu_bundle.sh" >&2
  exit 1
fi
echo "dist/$name.tar.gz: $((bytes >> 20)) MiB"
