#!/usr/bin/env bash
# Makes the C library: libsefs/link.sh FOLDER [--debug]
#
# FOLDER gets libsefs.so.0 (with versioned symbols), a link libsefs.so to it, libsefs.a, sefs.h and sefs.pc. rustc exports
# what it likes from a shared library of its own and lets nobody name versions, so the shared one is linked here.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:?usage: libsefs/link.sh FOLDER [--debug]}
mode=${2:---release}
case $mode in
    --release) options=(--release) folder=release ;;
    --debug) options=() folder=debug ;;
    *) echo "libsefs/link.sh: no option '$mode'; there is --debug" >&2; exit 2 ;;
esac
cd "$here/.."
version=$(cargo pkgid -p libsefs | sed 's/.*[#@]//')
cargo build -q --locked -p libsefs "${options[@]}"
archive=${CARGO_TARGET_DIR:-target}/$folder/libsefs_c.a
mkdir -p "$out"
install -m 644 "$archive" "$out/libsefs.a"
install -m 644 "$here/include/sefs.h" "$out/sefs.h"
cc -shared -o "$out/libsefs.so.0" -Wl,-soname,libsefs.so.0 -Wl,--version-script="$here/libsefs.map" -Wl,--gc-sections -Wl,-z,defs \
    -Wl,--whole-archive "$out/libsefs.a" -Wl,--no-whole-archive -lpthread -ldl -lm -lgcc_s -lc
ln -sfn libsefs.so.0 "$out/libsefs.so"
cat >"$out/sefs.pc" <<END
libdir=$(cd "$out" && pwd)
Name: sefs
Description: An encrypted, integrity-protected filesystem
Version: $version
Cflags: -I\${libdir}
Libs: -L\${libdir} -lsefs
Libs.private: -lpthread -ldl -lm -lgcc_s
END
