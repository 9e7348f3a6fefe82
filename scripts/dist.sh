#!/usr/bin/env bash
# Packs bin/torchherd and all libraries that it needs into dist/torchherd-VERSION-SYSTEM-MACHINE.tar.gz.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
name="torchherd-$1-$(uname -s | tr '[:upper:]' '[:lower:]')-$(uname -m)"
libtorch=$("$root/scripts/libtorch.sh")
folder="$root/dist/$name"
rm -rf "$folder"
mkdir -p "$folder/lib"
cp "$root/bin/torchherd" "$root/LICENSE" "$root/server/internal/imagecodec/codecs"/LICENSE.* "$folder/"
for library in "$root"/bin/lib/*; do # the build's own libraries; links lead to LibTorch's, and the folder has the tests'
  [ -L "$library" ] || [ -d "$library" ] || cp "$library" "$folder/lib/"
done
"$root/scripts/libs.sh" copy "$libtorch" "$folder/lib"
if [ -d "$libtorch/licenses" ]; then cp -r "$libtorch/licenses" "$folder/"; fi
tar -C "$root/dist" -czf "$root/dist/$name.tar.gz" "$name"
echo "dist/$name.tar.gz"
