#!/usr/bin/env bash
# Real programs on a mounted volume, then a check, a remount, and a look whether everything is there.
#
#   tests/real-programs.sh [PART...]     PARTs: git cargo sqlite tar postgres kill (default: all)
#
# Needs root, /dev/fuse and the release binaries (cargo build --release); git, sqlite3, python3, tar, cargo and
# PostgreSQL's initdb, pg_ctl and pgbench for the parts of their names. A part whose program is missing is skipped,
# loudly, and counted. BIN names the folder of the binaries.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=${BIN:-${CARGO_TARGET_DIR:-$here/target}/release}
work=$(mktemp -d)
image=$work/image key=$work/key mnt=$work/mnt
passed=0 failed=0 skipped=0
mkdir "$mnt"
umask 077
head -c 32 /dev/urandom >"$key"
umask 022

down() {
    for _ in $(seq 100); do
        mountpoint -q "$mnt" || return 0
        umount "$mnt" 2>/dev/null || sleep .1
    done
    return 1
}
trap 'down || true; rm -rf --one-file-system "$work"' EXIT
up() { "$bin/mount.sefs" "$image" "$mnt" --key-file "$key" -o dev,suid,allow_other; }
check() { "$bin/fsck.sefs" "$image" --key-file "$key" -n --scrub; }
need() { for tool in "$@"; do command -v "$tool" >/dev/null || { echo "SKIPPED: $part needs $tool"; return 1; }; done; }

part_git() {
    git init -q "$work/origin"
    cp -r "$here/sefs" "$here/docs" "$work/origin/"
    git -C "$work/origin" add -A
    git -C "$work/origin" -c user.name=t -c user.email=t@example.invalid commit -qm one
    git clone -q "$work/origin" "$mnt/clone"
    git -C "$mnt/clone" gc -q --aggressive
    git -C "$mnt/clone" fsck --strict
    diff -r --exclude=.git "$work/origin" "$mnt/clone"
}

part_cargo() {
    mkdir -p "$mnt/crate/src"
    printf '[package]\nname = "built-here"\nversion = "0.1.0"\nedition = "2024"\n[dependencies]\nserde_json = "1"\n[workspace]\n' >"$mnt/crate/Cargo.toml"
    printf 'fn main() { println!("{}", serde_json::json!({"built": true})); }\n' >"$mnt/crate/src/main.rs"
    (cd "$mnt/crate" && env -u CARGO_TARGET_DIR cargo build -q && [ "$(./target/debug/built-here)" = '{"built":true}' ])
}

part_sqlite() {
    python3 - "$mnt/t.db" <<'PY'
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
assert db.execute("pragma journal_mode=wal").fetchone()[0] == "wal"
db.execute("create table t(k integer primary key, v text)")
for start in range(0, 100_000, 1_000):
    with db:
        db.executemany("insert into t values(?, ?)", ((k, "x" * (k % 200)) for k in range(start, start + 1_000)))
assert db.execute("select count(*), sum(length(v)) from t").fetchone() == (100_000, 9_950_000)
assert db.execute("pragma integrity_check").fetchone()[0] == "ok"
PY
}

part_tar() {
    tar -C "$here" --exclude=target --exclude=./.git -cf "$work/tree.tar" .
    mkdir "$mnt/tree"
    tar -C "$mnt/tree" -xpf "$work/tree.tar"
    tar -C "$mnt/tree" -cf "$mnt/again.tar" .
    mkdir "$work/again"
    tar -C "$work/again" -xpf "$mnt/again.tar"
    tar -C "$work/again" --compare -f "$work/tree.tar"
}

part_postgres() {
    local dir=$mnt/pg run=() 
    mkdir "$dir"
    if [ "$(id -u)" = 0 ]; then
        id postgres >/dev/null 2>&1 || useradd -r postgres
        chown postgres "$dir"
        chmod 755 "$work"
        run=(setpriv --reuid=postgres --regid=postgres --clear-groups)
    fi
    "${run[@]}" initdb -D "$dir/data" -A trust >/dev/null
    "${run[@]}" pg_ctl -D "$dir/data" -w -o "-k $dir -c listen_addresses=''" -l "$dir/log" start >/dev/null
    local done=0
    if "${run[@]}" pgbench -h "$dir" -i -s 2 -q postgres 2>/dev/null &&
        "${run[@]}" pgbench -h "$dir" -c 4 -T 5 postgres >"$work/pgbench"; then done=1; fi
    "${run[@]}" pg_ctl -D "$dir/data" -w -m fast stop >/dev/null
    grep -E 'tps|failed' "$work/pgbench"
    [ "$done" = 1 ]
}

# The server dies in the middle of writing: what fsync acknowledged is there, and the volume is clean.
part_kill() {
    python3 - "$mnt" "$work/acknowledged" "$image" <<'PY'
import os, signal, subprocess, sys
mnt, acknowledged, image = sys.argv[1:]
server = [int(p) for p in os.listdir("/proc") if p.isdigit()
          and image.encode() in (lambda f: open(f, "rb").read() if os.path.exists(f) else b"")(f"/proc/{p}/cmdline")
          and b"mount" in open(f"/proc/{p}/cmdline", "rb").read().split(b"\0")[0]]
assert server, "no server"
done = []
for i in range(400):
    path = f"{mnt}/killed/{i}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    os.write(fd, str(i).encode() * 1000)
    if i % 2 == 0:
        os.fsync(fd); done.append(i)
    os.close(fd)
with open(acknowledged, "w") as f: f.write(" ".join(map(str, done)))
for pid in server: os.kill(pid, signal.SIGKILL)
PY
    # Without a list of what was acknowledged nothing would be looked for.
    [ -s "$work/acknowledged" ] || return 1
    sleep .5
    umount -l "$mnt"
    up
    for i in $(cat "$work/acknowledged"); do
        [ "$(cat "$mnt/killed/$i")" = "$(python3 -c "print('$i' * 1000)")" ] || { echo "lost: $i"; return 1; }
    done
}

[ -x "$bin/mount.sefs" ] || { echo "no $bin/mount.sefs: run cargo build --release"; exit 2; }
if [ ! -w /dev/fuse ]; then
    echo "SKIPPED: no /dev/fuse"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
"$bin/mkfs.sefs" "$image" --size 2G --key-file "$key" -q
up
for part in ${@:-git cargo sqlite tar postgres kill}; do
    case $part in
    git) tools=git ;;
    cargo) tools=cargo ;;
    sqlite | kill) tools=python3 ;;
    tar) tools=tar ;;
    postgres) tools="initdb pg_ctl pgbench setpriv" ;;
    *) echo "no part $part"; exit 2 ;;
    esac
    # shellcheck disable=SC2086
    if ! need $tools; then
        skipped=$((skipped + 1))
        continue
    fi
    start=$SECONDS
    if ("part_$part"); then
        sum=$(cd "$mnt" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum)
        down && check && up
        if [ "$sum" = "$(cd "$mnt" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum)" ]; then
            echo "ok: $part ($((SECONDS - start)) s)"
            passed=$((passed + 1))
            continue
        fi
        echo "FAILED: $part: not the same after a remount"
    else
        echo "FAILED: $part"
    fi
    failed=$((failed + 1))
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
