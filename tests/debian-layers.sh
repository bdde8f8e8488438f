#!/usr/bin/env bash
# Debian's minimal root as an image: packed, lived on, upgraded and proved, with figures.
#
#   tests/debian-layers.sh [WORKDIR [ROOT]]     WORKDIR keeps the downloaded root between runs (default: a temporary folder);
#                                               ROOT is one that debootstrap made elsewhere, and is only read
#
# The root is packed as a public and as an encrypted image, each twice, byte-identical. A volume over the public one is mounted;
# apt installs and purges packages of some thousand files in a chroot of it, dpkg a package of 5,000 generated files; the same on
# a plain volume beside it for comparison. A changed root is packed as a new image, the volume upgraded to it, and what both
# have is there. fsck.sefs is clean after each step. The proof of /bin/sh verifies in an empty folder with the root of the manifest.
#
# Run by hand: it needs root, /dev/fuse, 4 GB, ten minutes, and a Debian mirror (MIRROR; packages that are missing here are
# installed with apt). Without, it says so and ends with 77. BIN names the folder of the release binaries
# (cargo build --release -p sefs-tools -p sefs-fuse).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=$(realpath "${BIN:-${CARGO_TARGET_DIR:-$here/target}/release}")
mirror=${MIRROR:-http://deb.debian.org/debian}
suite=bookworm
packages=${PACKAGES:-vim-runtime perl-modules-5.36 git-man tzdata ca-certificates python3-minimal libpython3.11-stdlib python3-pip-whl iso-codes}
skip() { echo "SKIPPED: debian-layers: $1" >&2; exit 77; }
fail() { echo "FAILED: $1" >&2; exit 1; }
[ "$(id -u)" = 0 ] || skip "it needs root"
[ -c /dev/fuse ] || skip "there is no /dev/fuse"
[ -x "$bin/mount.sefs" ] || { echo "no $bin/mount.sefs: build it first" >&2; exit 2; }
for tool in debootstrap mksquashfs curl python3; do
    command -v $tool >/dev/null || apt-get install -y -q debootstrap squashfs-tools curl python3 >/dev/null 2>&1 ||
        skip "$tool is missing and apt-get does not install it"
done
curl -sfI --max-time 20 "$mirror/dists/$suite/Release" >/dev/null || skip "the mirror $mirror is not reachable"

temporary=
if [ $# -gt 0 ]; then mkdir -p "$1"; else set -- "$(mktemp -d)"; temporary=1; fi
work=$(realpath "$1")
root=${2:-$work/root} next_root=$work/next-root mnt=$work/mnt
key=$work/key top=$work/top plain=$work/plain
mkdir -p "$mnt"

release() {  # what a chroot has mounted on the volume, then the volume itself
    for inner in dev proc; do
        mountpoint -q "$mnt/$inner" && umount -l "$mnt/$inner"
    done
    for _ in $(seq 200); do
        mountpoint -q "$mnt" || return 0
        umount "$mnt" 2>/dev/null || sleep .1
    done
    return 1
}
tidy() {
    release || true
    rm -f "$key" "$top" "$plain" "$work"/{public,sealed,next,again}.sefs* "$work"/{sq,proof,*.log,*.deb}
    rm -rf --one-file-system "$next_root" "$work/empty" "$work/package"
    [ -z "$temporary" ] || rm -rf --one-file-system "$work"
}
trap tidy EXIT

declare -a figures
figure() { figures+=("$1|$2"); echo "-- $1: $2"; }
now() { date +%s.%N; }
seconds() { python3 -c "print(f'{$2 - $1:.2f}')"; }
# Runs a command and keeps its time in $took; its output is shown if it fails.
timed() {
    local began
    began=$(now)
    "$@" >"$work/command.log" 2>&1 || { tail -30 "$work/command.log" >&2; fail "$*"; }
    took=$(seconds "$began" "$(now)")
}
bytes() { stat -c %s "$1" | sed -E ':a;s/([0-9])([0-9]{3})($|,)/\1,\2\3/;ta'; }
mounted() { "$bin/mount.sefs" "$1" "$mnt" --key-file "$key" -o dev,suid,allow_other; }
clean() {  # clean IMAGE STEP: unmounts, checks, mounts again
    release || fail "$2: it does not unmount"
    timed "$bin/fsck.sefs" "$1" --key-file "$key" -n --scrub
    grep -q ': clean: ' "$work/command.log" || { cat "$work/command.log"; fail "$2: not clean"; }
    echo "ok: $2: $(tail -1 "$work/command.log" | sed 's/^[^:]*: //')"
    mounted "$1"
}
inside() {  # a command in a chroot of the mount, as a container would run it
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C HOME=/root chroot "$mnt" "$@"
}
enter() {
    mount --bind /dev "$mnt/dev"
    mount -t proc proc "$mnt/proc"
    cp /etc/resolv.conf "$mnt/etc/resolv.conf"
    # A container's: no daemon is started.
    printf '#!/bin/sh\nexit 101\n' >"$mnt/usr/sbin/policy-rc.d"
    chmod 755 "$mnt/usr/sbin/policy-rc.d"
}
files_in() { find "$1" -xdev ! -type d | wc -l; }

make_root() {
    if [ "$root" != "$work/root" ]; then
        [ -e "$root/etc/debian_version" ] || fail "$root holds no root of Debian"
        return
    fi
    # A root that an earlier run downloaded whole is used again.
    [ -e "$work/root.complete" ] && return
    rm -rf --one-file-system "$root"
    timed debootstrap --variant=minbase "$suite" "$root" "$mirror"
    touch "$work/root.complete"
}

# A package of 5,000 files of 0 to 9 KB in 60 folders.
make_package() {
    rm -rf --one-file-system "$work/package"
    python3 - "$work/package" <<'PY'
import os, sys
root = sys.argv[1]
for i in range(5000):
    folder = [f"usr/share/generated/part{i % 57}", "usr/lib/generated", "usr/bin", "etc/generated.d"][i % 4]
    os.makedirs(f"{root}/{folder}", exist_ok=True)
    with open(f"{root}/{folder}/generated-{i}", "wb") as file:
        file.write((f"generated {i} " * 700).encode()[: 37 * i % 9000])
os.makedirs(f"{root}/DEBIAN")
with open(f"{root}/DEBIAN/control", "w") as file:
    file.write("Package: generated\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.invalid>\nDescription: 5,000 files\n")
PY
    dpkg-deb --root-owner-group -Znone --build "$work/package" "$work/generated.deb" >/dev/null
}

pack() { timed "$bin/mkfs.sefs" "$1" --from "$2" --read-only --reproducible -q --force "${@:3}"; }

pack_twice() {
    local kind=$1 image=$work/$1.sefs
    shift
    pack "$image" "$root" "$@"
    figure "$kind image, bytes" "$(bytes "$image")"
    figure "$kind image, seconds to build" "$took"
    pack "$work/again.sefs" "$root" "$@"
    cmp "$image" "$work/again.sefs" || fail "two builds of the $kind image differ"
    echo "ok: two builds of the $kind image are byte-identical"
    rm "$work"/again.sefs*
}

# From the start of the mount to the first byte of a file, caches of the system dropped: median of 5.
first_read() {  # first_read NAME PATH MOUNT…
    local name=$1 path=$2 all=()
    shift 2
    for _ in 1 2 3 4 5; do
        sync
        echo 3 >/proc/sys/vm/drop_caches
        timed sh -c '"$@" && head -c 4096 "$0" >/dev/null' "$mnt/$path" "$@"
        all+=("$took")
        release
    done
    figure "$name, mount to first read, seconds (median of 5, cold)" "$(printf '%s\n' "${all[@]}" | sort -n | sed -n 3p)"
}

# Packages come and go on what is mounted: NAME IMAGE.
churn() {
    local name=$1 image=$2 before
    enter
    timed inside apt-get update -q
    timed inside apt-get install -y -q --no-install-recommends --download-only $packages
    before=$(files_in "$mnt")
    timed inside apt-get install -y -q --no-install-recommends $packages
    figure "$name, apt-get install, seconds" "$took"
    figure "$name, files that came" "$(($(files_in "$mnt") - before))"
    clean "$image" "$name, packages installed"
    enter
    timed inside apt-get purge -y -q --autoremove $packages
    figure "$name, apt-get purge, seconds" "$took"
    clean "$image" "$name, packages purged"
    enter
    cp "$work/generated.deb" "$mnt/root/"
    timed inside dpkg -i /root/generated.deb
    figure "$name, dpkg -i of 5,000 files, seconds" "$took"
    clean "$image" "$name, 5,000 files installed"
    diff <(cd "$work/package" && find usr etc -type f -exec sha256sum {} + | sort) \
        <(cd "$mnt" && find usr/share/generated usr/lib/generated usr/bin/generated-* etc/generated.d -type f -exec sha256sum {} + | sort) >/dev/null ||
        fail "$name: the files of the package are not what they were"
    enter
    timed inside dpkg -P generated
    figure "$name, dpkg -P of 5,000 files, seconds" "$took"
    [ ! -e "$mnt/usr/share/generated" ] || fail "$name: something of the package stayed"
    rm "$mnt/root/generated.deb"
    clean "$image" "$name, 5,000 files removed"
}

# The next version of the root: files that are changed, one that is gone, one that is new.
change_root() {
    rm -rf --one-file-system "$next_root"
    cp -a "$root" "$next_root"
    echo "12.99" >"$next_root/etc/debian_version"
    echo "# the new build's" >>"$next_root/etc/bash.bashrc"
    printf 'patched' | dd of="$next_root/usr/bin/bash" bs=1 seek=100000 conv=notrunc status=none
    # Changed in the volume too.
    echo "the new build's" >"$next_root/etc/motd"
    rm "$next_root/usr/bin/tac"
    mkdir "$next_root/opt/new"
    cp "$root/usr/bin/perl" "$next_root/opt/new/perl"
    mv "$next_root/usr/share/base-files" "$next_root/usr/share/base-files-moved"
}

upgrade_it() {
    local code=0
    mkdir -p "$mnt/srv/data"
    cp -a "$root/usr/lib/x86_64-linux-gnu/." "$mnt/srv/data/" 2>/dev/null || cp -a "$root/usr/lib/." "$mnt/srv/data/"
    echo "the volume's" >"$mnt/etc/motd"
    rm "$mnt/usr/bin/cksum"
    mv "$mnt/etc/skel" "$mnt/etc/skeleton"
    (cd "$mnt" && find srv etc/skeleton -type f -exec sha256sum {} + | sort) >"$work/data.log"
    clean "$top" "the volume's own data written"
    release
    local began
    began=$(now)
    "$bin/debug.sefs" "$top" --key-file "$key" upgrade --to "$work/next.sefs,root-digest=$(cat "$work/next.sefs.root-digest")" |
        tee "$work/upgrade.log" || code=${PIPESTATUS[0]}
    figure "upgrade, seconds" "$(seconds "$began" "$(now)")"
    [ "$code" = 1 ] || fail "upgrade ended with $code, not with 1 for its conflicts"
    grep -q '^content /etc/motd: ' "$work/upgrade.log" || fail "the conflict is not told"
    mounted "$top"
    clean "$top" "upgraded"
    (cd "$mnt" && sha256sum --quiet -c "$work/data.log") || fail "data of the volume's are not what they were"
    for file in usr/bin/bash etc/debian_version etc/bash.bashrc opt/new/perl usr/share/base-files-moved/motd; do
        cmp "$next_root/$file" "$mnt/$file" || fail "$file is not the new image's"
    done
    [ ! -e "$mnt/usr/bin/tac" ] || fail "what the image has no more is there"
    [ ! -e "$mnt/usr/bin/cksum" ] || fail "what the volume removed is there again"
    [ "$(cat "$mnt/etc/motd")" = "the volume's" ] || fail "the volume's side of a conflict is gone"
    [ "$(inside /bin/sh -c 'cat /etc/debian_version')" = 12.99 ] || fail "a chroot of it does not work"
    echo "ok: the volume's data and the image's changes are both there"
}

prove_sh() {
    local digest manifest
    digest=$(cat "$work/public.sefs.root-digest")
    manifest=$("$bin/debug.sefs" "$work/public.sefs" --root-digest "$digest" manifest --json |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["manifest_root"])')
    # Links on the way, as bin to usr/bin, are proved too.
    "$bin/debug.sefs" "$work/public.sefs" --root-digest "$digest" prove /bin/sh --output "$work/proof"
    mkdir "$work/empty"
    cp "$work/proof" "$work/empty/"
    (cd "$work/empty" && env -i PATH=/usr/bin:/bin "$bin/debug.sefs" proof verify-proof "$manifest") | tee "$work/verified.log"
    grep -q 'usr/bin/dash' "$work/verified.log" || fail "the proof does not lead to the program"
    ! "$bin/debug.sefs" "$work/empty/proof" verify-proof "${manifest//[0-7]/8}" >/dev/null 2>&1 || fail "another root verifies it"
    figure "proof of /bin/sh, bytes" "$(bytes "$work/proof")"
}

umask 077
head -c 32 /dev/urandom >"$key"
umask 022
make_root
make_package
figure "entries" "$(find "$root" -xdev | wc -l)"
figure "bytes of files" "$(find "$root" -xdev -type f -printf '%i %s\n' | sort -u | awk '{s += $2} END {printf "%d\n", s}' | sed -E ':a;s/([0-9])([0-9]{3})($|,)/\1,\2\3/;ta')"
pack_twice public --public
pack_twice sealed --key-file "$key"
timed mksquashfs "$root" "$work/sq" -noI -noD -noF -noX -no-progress -noappend
figure "squashfs without compression, bytes" "$(bytes "$work/sq")"
figure "squashfs without compression, seconds to build" "$took"
prove_sh
digest=$(cat "$work/public.sefs.root-digest")
timed "$bin/mkfs.sefs" "$top" --size 2G --key-file "$key" --lower "$work/public.sefs,root-digest=$digest" -q
figure "volume over the public image, seconds to make" "$took"
timed "$bin/mkfs.sefs" "$plain" --size 2G --from "$root" --key-file "$key" -q
figure "plain volume of the same, seconds to make" "$took"
shell=usr/bin/bash
first_read "public image" $shell "$bin/mount.sefs" "$work/public.sefs" "$mnt" --root-digest "$digest"
first_read "sealed image" $shell "$bin/mount.sefs" "$work/sealed.sefs" "$mnt" --key-file "$key"
first_read "volume over the public image" $shell "$bin/mount.sefs" "$top" "$mnt" --key-file "$key"
first_read "plain volume" $shell "$bin/mount.sefs" "$plain" "$mnt" --key-file "$key"
for volume in plain top; do
    mounted "$work/$volume"
    churn "$([ $volume = top ] && echo "over the image" || echo "plain volume")" "$work/$volume"
    [ $volume = top ] || release
done
change_root
pack "$work/next.sefs" "$next_root" --public
upgrade_it
release
printf '\n%s, %s\n\n| what | figure |\n|---|---|\n' "$(date -u +%F)" "$suite"
for line in "${figures[@]}"; do printf '| %s | %s |\n' "${line%|*}" "${line##*|}"; done
echo "passed"
