#!/usr/bin/env bash
# The mounted benchmark beside its peers; prints a JSON line per run and, at the end, the median of the per-round ratios
# of ours to gocryptfs.
#
#   benches/mounted.sh [PEER...]      (default: gocryptfs ours)
#
# Needs root, /dev/fuse, python3, the release binaries (cargo build --release) and the peers' Debian packages.
# Environment: as benches/peers.sh and benches/fs-workloads.sh; BIN names the folder of the binaries.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=${BIN:-${CARGO_TARGET_DIR:-$here/../target}/release}
bin=$(cd "$bin" && pwd)
[ $# -gt 0 ] || set -- gocryptfs ours
mib=$((${FSW_MIB:-1024} * 5 / 2 + 1024))
export PEERS_UP="
    umask 077
    [ -e \"\$BACK/key\" ] || head -c 32 /dev/urandom >\"\$BACK/key\"
    [ -e \"\$BACK/image\" ] || '$bin/mkfs.sefs' \"\$BACK/image\" --size ${mib}M --key-file \"\$BACK/key\" -q
    '$bin/mount.sefs' \"\$BACK/image\" \"\$MNT\" --key-file \"\$BACK/key\""
out=$(mktemp)
trap 'rm -f "$out"' EXIT
bash "$here/peers.sh" "$@" | tee "$out"
python3 - "$out" <<'PY'
import collections, json, statistics, sys
rounds = collections.defaultdict(dict)
for line in open(sys.argv[1]):
    run = json.loads(line)
    if "figures" in run: rounds[run["round"]][run["peer"]] = run["figures"]
pairs = [r for r in rounds.values() if "ours" in r and "gocryptfs" in r]
if pairs:
    print(f"\n| figure | gocryptfs | ours | ours : gocryptfs (median of {len(pairs)} rounds; over 1 is faster, for latencies below 1) |")
    print("|---|---|---|---|")
    for key in pairs[0]["ours"]:
        median = lambda peer: statistics.median(r[peer][key] for r in pairs)
        ratio = statistics.median(r["ours"][key] / r["gocryptfs"][key] for r in pairs)
        print(f"| {key} | {median('gocryptfs'):.4g} | {median('ours'):.4g} | {ratio:.2f} |")
PY
