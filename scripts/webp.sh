#!/usr/bin/env bash
# Builds server/internal/imagecodec/webp/decoder.wasm: the decoder of Debian 12's libwebp as a WebAssembly module, changed
# by webp/host.patch so that it asks its host every 16 rows whether to go on. Needs Debian 12, and root for apt-get. The
# same packages give the same file.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=$here/../server/internal/imagecodec/webp
version=1.2.4
orig=7bf5a8a28cc69bcfa8cb214f2c3095703c6b73ac5fba4d5480c205331d9494df
debian=69cdba4dfe2e1b34d55fa80c1b29c31cacd40dd183812d6bcca7e508a2f7afcd # security fixes of 0.2+deb12u1

apt-get install -y -qq --no-install-recommends clang-16 lld-16 wasi-libc libclang-rt-16-dev-wasm32
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mirror=$(apt-cache policy | sed -nE 's#.* (https?://[^ ]+) bookworm/main .*#\1#p' | head -n 1)
mkdir -p lists/partial
echo "deb-src $mirror bookworm main" >sources.list
options=(-o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists")
apt-get "${options[@]}" -qq update
apt-get "${options[@]}" -qq source --download-only "libwebp=$version-0.2+deb12u1"
printf '%s  %s\n' "$orig" "libwebp_$version.orig.tar.gz" "$debian" "libwebp_$version-0.2+deb12u1.debian.tar.xz" | sha256sum --check --quiet

tar xf "libwebp_$version.orig.tar.gz"
cd "libwebp-$version"
tar xf "../libwebp_$version-0.2+deb12u1.debian.tar.xz"
while read -r patch; do patch -s -p1 <"debian/patches/$patch"; done <debian/patches/series
patch -s -p1 <"$here/webp/host.patch"
sources=(src/dec/*.c)
for name in alpha_processing cpu dec dec_clip_tables filters lossless rescaler upsampling yuv; do sources+=("src/dsp/$name.c"); done
for name in bit_reader color_cache filters huffman quant_levels_dec random rescaler thread; do sources+=("src/utils/${name}_utils.c"); done
mkdir -p "$target"
clang-16 --target=wasm32-wasi -mexec-model=reactor -O3 -DNDEBUG -I. -I"$here/webp" -Wl,--no-entry,--strip-all,-z,stack-size=65536 \
  "$here/webp/host.c" "${sources[@]}" src/utils/utils.c -o "$target/decoder.wasm"
chmod 644 "$target/decoder.wasm"
cp COPYING "$target/LICENSE.libwebp"
sha256sum "$target/decoder.wasm"
