#!/usr/bin/env bash
# Builds the codecs in server/internal/imagecodec/codecs: libraries from Debian 12's source packages as WebAssembly modules,
# changed by the patches in scripts/codecs. Needs Debian 12, and root for apt-get. The same packages give the same files.
#
#   scripts/codecs.sh [TARGET]     the folder for the modules
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)/codecs
target=$(realpath "${1:-$here/../../server/internal/imagecodec/codecs}")

apt-get install -y -qq --no-install-recommends clang-16 lld-16 wasi-libc libclang-rt-16-dev-wasm32 cmake make perl >/dev/null
if command -v wasm-opt >/dev/null; then # clang would run it, with results that depend on its version
  echo "codecs.sh: remove binaryen: its wasm-opt changes the modules" >&2
  exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mirror=$(apt-cache policy | sed -nE 's#.* (https?://[^ ]+) bookworm/main .*#\1#p' | head -n 1)
mkdir -p lists/partial
echo "deb-src $mirror bookworm main" >sources.list
options=(-o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists" -o APT::Sandbox::User=root)
apt-get "${options[@]}" -qq update

# fetch PACKAGE VERSION ORIG SHA256 DEBIAN SHA256 unpacks a source package into the folder PACKAGE, with Debian's patches.
fetch() {
  local package=$1 version=$2 orig=$3 orig_sum=$4 debian=$5 debian_sum=$6
  apt-get "${options[@]}" -qq source --download-only "$package=$version"
  printf '%s  %s\n' "$orig_sum" "$orig" "$debian_sum" "$debian" | sha256sum --check --quiet
  mkdir "$package"
  tar xf "$orig" -C "$package" --strip-components=1
  tar xf "$debian" -C "$package"
  while read -r patch; do
    case $patch in '' | '#'*) continue ;; esac
    patch -d "$package" -s -p1 <"$package/debian/patches/$patch"
  done <"$package/debian/patches/series"
}

compile=(--target=wasm32-wasi -msimd128 -DNDEBUG "-ffile-prefix-map=$work=." "-ffile-prefix-map=$here=codecs" -I"$here" -I"$here/include" -Wno-everything)

# module NAME ARGUMENTS... compiles. What no caller needs is left out, and is a trap.
module() {
  local name=$1
  shift
  clang-16 "${compile[@]}" -mexec-model=reactor -O3 \
    -Wl,--no-entry,--strip-all,--gc-sections,--unresolved-symbols=ignore-all,-z,stack-size=65536 \
    "$here/system.c" "$here/$name"/*code.c "$@" -o "$target/$name.wasm"
  chmod 644 "$target/$name.wasm"
}

# sources FOLDER PREFIX NAMES... prints the paths of source files.
sources() {
  local folder=$1 prefix=$2 name
  shift 2
  for name in "$@"; do printf '%s/%s%s.c\n' "$folder" "$prefix" "$name"; done
}

fetch tiff 4.5.0-6+deb12u4 tiff_4.5.0.orig.tar.bz2 638f43d7dea33948d5dee7f39572fc0194d9cc3c74195de9dd26a4388a1f880a \
  tiff_4.5.0-6+deb12u4.debian.tar.xz 4ee50a8cdf74a184d94e65a04f3c9de466cb0b74ef5393fb5ca65666fccb864b
fetch zlib 1:1.2.13.dfsg-1 zlib_1.2.13.dfsg.orig.tar.bz2 71feb7947e3c00ef125f83b79a4e529bde31171e5babe48b391f06758d1ab0a1 \
  zlib_1.2.13.dfsg-1.debian.tar.xz f66cf3d4f2d7defcd4d1fd1fb0a11ee39f1e01b42ec7d059c9dc5c1695133c44
fetch libjpeg-turbo 1:2.1.5-2 libjpeg-turbo_2.1.5.orig.tar.gz 254f3642b04e309fee775123133c6464181addc150499561020312ec61c1bf7c \
  libjpeg-turbo_2.1.5-2.debian.tar.xz cdb2433c2f7101345c1ffa14efb943787c675b86354691a32490845fe4bc9237
patch -d tiff -s -p1 <"$here/tiff/libtiff.patch"
patch -d zlib -s -p1 <"$here/tiff/zlib.patch"
patch -d libjpeg-turbo -s -p1 <"$here/tiff/libjpeg.patch"
mapfile -t files < <(
  sources tiff/libtiff tif_ aux close codec color compress dir dirinfo dirread dirwrite dumpmode error extension fax3 fax3sm flush \
    getimage hash_set jpeg lzw open packbits predict print read strip swab tile version warning write zip
  sources zlib '' adler32 crc32 inffast inflate inftrees zutil
  sources libjpeg-turbo j comapi dapimin dapistd datasrc dcoefct dcolor ddctmgr dhuff dinput dmainct dmarker dmaster dmerge dpostct \
    dsample error idctflt idctfst idctint idctred memmgr memnobs quant1 quant2 simd_none utils
)
module tiff -I"$here/tiff" -Itiff/libtiff -Izlib -Ilibjpeg-turbo "${files[@]}"
cp tiff/LICENSE.md "$target/LICENSE.libtiff" 2>/dev/null || cp tiff/COPYRIGHT "$target/LICENSE.libtiff"
sed -n '/^Copyright notice:/,$p' zlib/README >"$target/LICENSE.zlib"
cp libjpeg-turbo/LICENSE.md "$target/LICENSE.libjpeg-turbo"

fetch dav1d 1.0.0-2+deb12u1 dav1d_1.0.0.orig.tar.xz 51737db7e4897e599684f873a4725176dd3c779e639411d7c4fce134bb5ebb82 \
  dav1d_1.0.0-2+deb12u1.debian.tar.xz ae53e2bda2a18275cc66570194fced9b9681df2b3b8e041586a26a59d69a727e
patch -d dav1d -s -p1 <"$here/avif/dav1d.patch"
# The transforms of one row or column become those of four, in the lanes of a Four.
sed -i -E -e 's/\bint32_t\b/Four/g; s/\bint ((in|t)[0-9]|in =|min\b|max\b)/Four \1/g; s/iclip\(a, min, max\)/clip_four(a, min, max)/' \
  -e '/include <stdint.h>/a #include "four.h"' dav1d/src/itx_1d.[ch]
files=()
for name in cdef_apply cdef fg_apply filmgrain ipred_prepare ipred itx lf_apply loopfilter looprestoration lr_apply mc recon; do
  for depth in 8 16; do
    printf '#define BITDEPTH %s\n#include "src/%s_tmpl.c"\n' "$depth" "$name" >"dav1d/$name-$depth.c"
    files+=("dav1d/$name-$depth.c")
  done
done
mapfile -t -O "${#files[@]}" files < <(sources dav1d/src '' cdf cpu data decode dequant_tables getbits intra_edge itx_1d lf_mask lib log mem \
  msac obu picture qm ref refmvs scan tables thread_task warpmv wedge)
module avif -Wl,-z,stack-size=1048576 -DHOST_WORK_PER_SB64=20480 -I"$here/avif" -I"$here/avif/dav1d" -Idav1d -Idav1d/include "${files[@]}"
cp dav1d/COPYING "$target/LICENSE.dav1d"

fetch libwebp 1.2.4-0.2+deb12u1 libwebp_1.2.4.orig.tar.gz 7bf5a8a28cc69bcfa8cb214f2c3095703c6b73ac5fba4d5480c205331d9494df \
  libwebp_1.2.4-0.2+deb12u1.debian.tar.xz 69cdba4dfe2e1b34d55fa80c1b29c31cacd40dd183812d6bcca7e508a2f7afcd
patch -d libwebp -s -p1 <"$here/webp/libwebp.patch"
mapfile -t files < <(
  sources libwebp/src/dec '' alpha_dec buffer_dec frame_dec idec_dec io_dec quant_dec tree_dec vp8_dec vp8l_dec webp_dec
  sources libwebp/src/dsp '' alpha_processing cpu dec dec_clip_tables filters lossless rescaler upsampling yuv
  sources libwebp/src/utils '' bit_reader_utils color_cache_utils filters_utils huffman_utils quant_levels_dec_utils random_utils \
    rescaler_utils thread_utils utils
)
module webp -Ilibwebp "${files[@]}"
cp libwebp/COPYING "$target/LICENSE.libwebp"

fetch openjpeg2 2.5.0-2+deb12u3 openjpeg2_2.5.0.orig.tar.xz 007e19d772c8b6b22e35379630b06ff3549e49ba719d96453607a36ad7b4de73 \
  openjpeg2_2.5.0-2+deb12u3.debian.tar.xz 36dedb0ca4c1659c173feac97c19b31985656f4cd112b1a4d54d54bc4133ad37
patch -d openjpeg2 -s -p1 <"$here/jpeg2000/openjpeg.patch"
mapfile -t files < <(sources openjpeg2/src/lib/openjp2 '' bio cio dwt event function_list ht_dec image invert j2k jp2 mct mqc openjpeg \
  opj_malloc pi sparse_array t1 t2 tcd tgt thread)
module jpeg2000 -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=posix_memalign -I"$here/jpeg2000" -Iopenjpeg2/src/lib/openjp2 "${files[@]}"
cp openjpeg2/LICENSE "$target/LICENSE.openjpeg"

fetch aom 3.6.0-1+deb12u2 aom_3.6.0.orig.tar.gz 2ba213822cb1528b5558d6727125654e14d1b2d7505bd1fc8afa36c2e9e9f94a \
  aom_3.6.0-1+deb12u2.debian.tar.xz 213363b9a0d58a5a0ff245de10e6e8503dd268932d698c2c3a55bb7b4f43a54f
patch -d aom -s -p1 <"$here/avifenc/libaom.patch"
# -Os gives a third of the size of -O3, and the same speed.
cmake -S aom -B aom-build -DCMAKE_SYSTEM_NAME=Generic -DCMAKE_SYSTEM_PROCESSOR=wasm32 -DCMAKE_TRY_COMPILE_TARGET_TYPE=STATIC_LIBRARY \
  -DCMAKE_C_COMPILER=clang-16 -DCMAKE_CXX_COMPILER=clang++-16 -DCMAKE_BUILD_TYPE=None "-DCMAKE_C_FLAGS=${compile[*]} -Os" \
  -DAOM_TARGET_CPU=generic -DCONFIG_AV1_DECODER=0 -DCONFIG_AV1_HIGHBITDEPTH=0 -DCONFIG_MULTITHREAD=0 -DCONFIG_RUNTIME_CPU_DETECT=0 \
  -DCONFIG_WEBM_IO=0 -DCONFIG_LIBYUV=0 -DENABLE_DOCS=0 -DENABLE_TESTS=0 -DENABLE_TOOLS=0 -DENABLE_EXAMPLES=0 -DENABLE_TESTDATA=0 >cmake.log 2>&1 ||
  { cat cmake.log >&2 && exit 1; }
make -s -C aom-build -j "$(nproc)" aom >/dev/null
module avifenc -Wl,-z,stack-size=1048576 -Os -Iaom -Iaom-build aom-build/libaom.a
cp aom/LICENSE "$target/LICENSE.libaom"

chmod 644 "$target"/LICENSE.*
(cd "$target" && sha256sum ./*.wasm)
