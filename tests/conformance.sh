#!/usr/bin/env bash
# pjdfstest (POSIX rules) and fsx (file content under random operations) on a mounted volume.
#
#   tests/conformance.sh [--ext4|--layered] [pjdfstest|fsx]...
#
# --layered runs on a volume over a packed image, in directories that the image has. --ext4 runs the same on an ext4 loop
# image, to see what the suites and this kernel give elsewhere. Without a name both suites run. They are installed into
# target/conformance on first use. Needs root and /dev/fuse; without them it says so loudly and ends with 77, the code that
# test harnesses count as skipped.
#
# Environment: SEFS_BIN, a folder with mkfs-sefs, fsck-sefs and mount-sefs (default: cargo builds them in release mode);
# FSX_OPS (20000) operations and FSX_SEEDS ("1 2 3") of fsx; TMPDIR decides the disk; KEEP=1 leaves the log there.
#
# A failure that is known stands in tests/conformance/known-failures with its reason. What is not listed fails the run,
# and so does what is listed and passes.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(dirname "$here")
target=${CARGO_TARGET_DIR:-$top/target}
suites=$target/conformance
ext4=; layered=; run=()
for arg in "$@"; do
    case $arg in
    --ext4) ext4=1 ;;
    --layered) layered=1 ;;
    pjdfstest | fsx) run+=("$arg") ;;
    *) sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
[ ${#run[@]} -gt 0 ] || run=(pjdfstest fsx)

skip() { echo "SKIPPED: conformance: $1" >&2; exit 77; }
[ "$(id -u)" = 0 ] || skip "it needs root (users are switched, device files made)"
[ -n "$ext4" ] || [ -c /dev/fuse ] || skip "there is no /dev/fuse"

install_suites() {
    [ -x "$suites/bin/pjdfstest" ] || cargo install --quiet --root "$suites" pjdfstest --version 0.2.2 --locked
    [ -x "$suites/bin/fsx" ] || cargo install --quiet --root "$suites" fsx --version 0.3.2 --locked
}

build() {
    if [ -z "${SEFS_BIN:-}" ]; then
        (cd "$top" && cargo build --quiet --locked --release -p sefs-tools --bin mkfs-sefs --bin fsck-sefs -p sefs-fuse --bin mount-sefs)
        SEFS_BIN=$target/release
    fi
}

mount_sefs() {
    build
    head -c 32 /dev/urandom >"$work/key"
    chmod 600 "$work/key"
    local over=()
    if [ -n "$layered" ]; then
        make_base
        over=(--lower "$work/base,root-digest=$(cat "$work/base.root-digest")")
    fi
    "$SEFS_BIN/mkfs-sefs" "$work/image" --size 2G --key-file "$work/key" --quiet ${over[@]+"${over[@]}"}
    "$SEFS_BIN/mount-sefs" "$work/image" "$mnt" --key-file "$work/key" -o allow_other,dev,suid
}

# An image with directories to work in, and files of the sizes that fsx uses: what it overwrites, cuts and punches lies below.
make_base() {
    local size seed
    mkdir -p "$work/below/dir/sub"
    echo below >"$work/below/dir/file"
    for size in 1024 262144 4194304; do
        for seed in ${FSX_SEEDS:-1 2 3}; do head -c "$size" /dev/urandom >"$work/below/fsx-$size-$seed"; done
    done
    "$SEFS_BIN/mkfs-sefs" "$work/base" --from "$work/below" --read-only --public --quiet
}

# What lies below is what it was, and the volume over it is sound.
check_layers() {
    [ -n "$layered" ] || return 0
    [ "$(sha256sum <"$work/base")" = "$base_sum" ] || { echo "the image below was changed"; return 1; }
    unmount
    "$SEFS_BIN/fsck-sefs" "$work/image" --key-file "$work/key" -n --scrub
}

mount_ext4() {
    truncate -s 2G "$work/image"
    mkfs.ext4 -q -F "$work/image"
    mount -o loop "$work/image" "$mnt"
}

unmount() {
    for _ in $(seq 50); do
        mountpoint -q "$mnt" || return 0
        umount "$mnt" 2>/dev/null || sleep 0.1
    done
    umount -l "$mnt"
}

cleanup() {
    unmount
    umount "$work/second" 2>/dev/null || true
    if [ -n "${KEEP:-}" ]; then echo "left in $work" >&2; else rm -rf "$work"; fi
}

# pjdfstest's configuration: two users that every system has, and the failures that are known. Its EROFS tests remount by
# mount(8), which a FUSE mount does not support and which fails on ext4 too, the mount being busy; they are skipped.
configure() {
    cat <<TOML
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
[settings]
naptime = 0.02
allow_remount = false
expected_failures = [
$([ -n "$ext4" ] || sed -n 's/^\([a-z0-9_:]\{1,\}\)  .*/    "\1",/p' "$here/conformance/known-failures")
]
[dummy_auth]
entries = [["nobody", "$(id -gn nobody)"], ["daemon", "$(id -gn daemon)"]]
TOML
}

run_pjdfstest() {
    configure >"$work/pjdfstest.toml"
    mkdir -p "$work/second"
    mountpoint -q "$work/second" || mount -t tmpfs none "$work/second"
    local outcome=0
    "$suites/bin/pjdfstest" -c "$work/pjdfstest.toml" -p "$mnt${layered:+/dir}" -s "$work/second" >"$work/pjdfstest.log" 2>&1 || outcome=1
    grep -A3 -E 'FAILED|UNEXPECTEDLY' "$work/pjdfstest.log" || true
    grep -A2 skipped "$work/pjdfstest.log" | sed -n 's/^\t//p' | sort | uniq -c | sed 's/^/skipped: /' || true
    grep 'Summary' "$work/pjdfstest.log" || { tail -n 5 "$work/pjdfstest.log"; outcome=1; }
    return $outcome
}

# posix_fallocate(3) refuses a length of 0, which fsx does not expect: hence the least size of 1.
# Small files stay inside one chunk and the inode's own record; larger ones reach over chunks and through the cache.
run_fsx() {
    local outcome=0 seed size
    for size in "1024 700" "262144 65536" "4194304 524288"; do
        read -r flen most <<<"$size"
        cat >"$work/fsx.toml" <<TOML
flen = $flen
[opsize]
min = 1
max = $most
[weights]
close_open = 2
read = 10
write = 10
mapread = 8
mapwrite = 8
invalidate = 2
truncate = 4
fsync = 1
fdatasync = 1
posix_fallocate = 2
punch_hole = 4
sendfile = 2
posix_fadvise = 1
copy_file_range = 3
TOML
        for seed in ${FSX_SEEDS:-1 2 3}; do
            mkdir -p "$work/artifacts"
            if (cd "$work" && "$suites/bin/fsx" -f "$work/fsx.toml" -P "$work/artifacts" -N "${FSX_OPS:-20000}" -S "$seed" \
                "$mnt/fsx-$flen-$seed") >"$work/fsx.log" 2>&1; then
                echo "fsx: ok: file of $flen bytes, seed $seed, ${FSX_OPS:-20000} operations"
            else
                echo "fsx: FAILED: file of $flen bytes, seed $seed"
                tail -n 20 "$work/fsx.log"
                outcome=1
            fi
        done
    done
    return $outcome
}

install_suites
work=$(mktemp -d)
mnt=$work/mnt
mkdir "$mnt"
chmod 755 "$work" "$mnt"
trap cleanup EXIT
if [ -n "$ext4" ]; then mount_ext4; else mount_sefs; fi
base_sum=$([ -z "$layered" ] || sha256sum <"$work/base")
outcome=0
for suite in "${run[@]}"; do "run_$suite" || outcome=1; done
check_layers || outcome=1
exit $outcome
