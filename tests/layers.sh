#!/usr/bin/env bash
# Packages come and go on a volume over a packed image, as dpkg does it, with a check after each step.
#
#   tests/layers.sh [FILES]      files of the package's tree (default: 5000)
#
# A root is packed as a public image and a volume made over it. Then a package of so many files is installed (unpacked from a
# tar stream beside its places as *.dpkg-new, synced, renamed into them), with directories of the image and files that replace
# the image's; upgraded; and removed. The same happens on tmpfs or disk beside it, and after each step both trees are equal, the
# volume is clean, and the image has not changed a byte.
#
# Needs root, /dev/fuse and python3 and the binaries (BIN names their folder; default: target/release). Without, it says so and ends with 77.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=${BIN:-${CARGO_TARGET_DIR:-$here/target}/release}
files=${1:-5000}
skip() { echo "SKIPPED: layers: $1" >&2; exit 77; }
[ "$(id -u)" = 0 ] || skip "it needs root"
[ -c /dev/fuse ] || skip "there is no /dev/fuse"
command -v python3 >/dev/null || skip "there is no python3"
[ -x "$bin/mount.sefs" ] || { echo "no $bin/mount.sefs: build it first" >&2; exit 2; }
work=$(mktemp -d)
base=$work/base top=$work/top key=$work/key mnt=$work/mnt twin=$work/twin
mkdir "$mnt" "$twin"

down() {
    for _ in $(seq 200); do
        mountpoint -q "$mnt" || return 0
        umount "$mnt" 2>/dev/null || sleep .1
    done
    return 1
}
trap 'down || true; rm -rf --one-file-system "$work"' EXIT
up() { "$bin/mount.sefs" "$top" "$mnt" --key-file "$key" -o dev,suid,allow_other; }

# A tree of a package: DIR NAME VERSION. Its directories are partly the root's own.
make_package() {
    python3 - "$1" "$2" "$3" "$files" <<'PY'
import os, sys
root, name, version, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
for i in range(count):
    folder = [f"usr/share/{name}/part{i % 40}", f"usr/lib/{name}", "usr/bin", f"etc/{name}.d"][i % 4]
    os.makedirs(f"{root}/{folder}", exist_ok=True)
    path = f"{root}/{folder}/{name}-{i}"
    # What stays the same over versions is most of it.
    body = (f"{name} {version if i % 5 == 0 else ''} {i} " * 400).encode()[: 37 * i % 9000]
    with open(path, "wb") as file: file.write(body)
    os.chmod(path, 0o755 if "bin" in folder else 0o644)
os.symlink(f"../lib/{name}/{name}-1", f"{root}/usr/bin/{name}-link")
os.link(f"{root}/usr/lib/{name}/{name}-1", f"{root}/usr/lib/{name}/{name}-hard")
# One file of the root belongs to the package from now on.
os.makedirs(f"{root}/etc", exist_ok=True)
with open(f"{root}/etc/replaced", "w") as file: file.write(f"by {name} {version}\n")
PY
}

# Unpacks the stream on standard input below ROOT as dpkg does: each file beside its place, synced, then renamed over it.
install_package() {  # install_package ROOT LIST
    python3 - "$1" "$2" 3<&0 <<'PY'
import os, sys, tarfile
root, listed = sys.argv[1], sys.argv[2]
fresh, names = [], []
with tarfile.open(fileobj=os.fdopen(3, "rb"), mode="r|") as stream:
    for member in stream:
        if member.name == ".": continue
        path = os.path.join(root, member.name)
        names.append(os.path.normpath(member.name))
        if member.isdir():
            if not os.path.isdir(path): os.mkdir(path, member.mode)
            continue
        new = path + ".dpkg-new"
        if member.issym(): os.symlink(member.linkname, new)
        elif member.islnk():
            first = os.path.join(root, member.linkname)
            os.link(first + ".dpkg-new", new)
        else:
            with open(new, "wb") as out, stream.extractfile(member) as data:
                out.write(data.read())
            os.chmod(new, member.mode)
            os.chown(new, member.uid, member.gid)
            os.utime(new, (member.mtime, member.mtime))
        fresh.append(path)
# dpkg syncs every file; every fiftieth tells as much here.
for path in fresh[::50]:
    if not os.path.islink(path + ".dpkg-new"):
        with open(path + ".dpkg-new", "rb") as file: os.fdatasync(file.fileno())
for path in fresh:
    if os.path.lexists(path):
        # As dpkg: the old one stays under another name until the new one is there.
        if not os.path.islink(path): os.link(path, path + ".dpkg-tmp")
    os.rename(path + ".dpkg-new", path)
    if os.path.lexists(path + ".dpkg-tmp"): os.unlink(path + ".dpkg-tmp")
os.makedirs(os.path.dirname(os.path.join(root, listed)), exist_ok=True)
with open(os.path.join(root, listed + "-new"), "w") as file:
    file.write("\n".join(names))
    file.flush(); os.fsync(file.fileno())
os.rename(os.path.join(root, listed + "-new"), os.path.join(root, listed))
PY
}

remove_package() {  # remove_package ROOT LIST
    python3 - "$1" "$2" <<'PY'
import os, sys
root, listed = sys.argv[1:]
with open(os.path.join(root, listed)) as file: names = file.read().split("\n")
for name in sorted(names, reverse=True):
    path = os.path.join(root, name)
    if os.path.isdir(path) and not os.path.islink(path):
        try: os.rmdir(path)
        except OSError: pass  # somebody else's files are in it
    elif os.path.lexists(path): os.unlink(path)
os.unlink(os.path.join(root, listed))
PY
}

# What a tree is: everything but inode numbers, times, and sizes of directories.
listing() {
    (cd "$1" && find . -printf '%P %y %m %U %G %n %l\n' | sort && find . -type f -print0 | sort -z | xargs -0 sha256sum)
}

passed=0
check() {  # check STEP
    local began=$SECONDS
    listing "$twin" >"$work/twin.list"
    listing "$mnt" >"$work/mnt.list"
    diff -u "$work/twin.list" "$work/mnt.list" | head -20
    cmp -s "$work/twin.list" "$work/mnt.list" || { echo "FAILED: $1: not the same tree"; exit 1; }
    down
    "$bin/fsck.sefs" "$top" --key-file "$key" -n --scrub | tail -3
    [ "$(sha256sum <"$base")" = "$sum" ] || { echo "FAILED: $1: the image changed"; exit 1; }
    up
    listing "$mnt" | cmp -s "$work/twin.list" || { echo "FAILED: $1: not the same after a remount"; exit 1; }
    echo "ok: $1 ($((SECONDS - step)) s, of which $((SECONDS - began)) s for checks)"
    step=$SECONDS passed=$((passed + 1))
}

step=$SECONDS
umask 077
head -c 32 /dev/urandom >"$key"
umask 022
make_package "$twin" root 0
mkdir -p "$twin/var/lib/dpkg/info"
printf 'as the image has it\n' >"$twin/etc/replaced"
find "$twin" -exec touch -h -d @1000000000 {} +
"$bin/mkfs.sefs" "$base" --from "$twin" --read-only --public -q
sum=$(sha256sum <"$base")
"$bin/mkfs.sefs" "$top" --size 1G --key-file "$key" --lower "$base,root-digest=$(cat "$base.root-digest")" -q 2>/dev/null
up
check "a volume over $files files"
for version in 1 2; do
    make_package "$work/package-$version" newpkg $version
    tar -C "$work/package-$version" -cf "$work/package-$version.tar" .
    for root in "$twin" "$mnt"; do
        install_package "$root" var/lib/dpkg/info/newpkg.list <"$work/package-$version.tar"
    done
    check "$([ $version = 1 ] && echo installed || echo upgraded)"
done
for root in "$twin" "$mnt"; do remove_package "$root" var/lib/dpkg/info/newpkg.list; done
check "removed"
# The image's own package is upgraded and removed: whiteouts where its files were.
make_package "$work/root-1" root 1
tar -C "$work/root-1" -cf "$work/root-1.tar" .
for root in "$twin" "$mnt"; do install_package "$root" var/lib/dpkg/info/root.list <"$work/root-1.tar"; done
check "the image's files upgraded"
for root in "$twin" "$mnt"; do remove_package "$root" var/lib/dpkg/info/root.list; done
check "the image's files removed"
echo "$passed passed"
