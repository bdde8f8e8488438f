#!/usr/bin/env bash
# The compiler as fuzz/run.sh calls it: crates of others get no counters and no assertions. Which way a cipher's rounds
# branch guides nobody, and the arithmetic of a hash is not what is tested here; both take most of the time that they may.
set -euo pipefail
ours=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
crate=$(cd "${CARGO_MANIFEST_DIR:-$ours}" && pwd -P)
case $crate/ in
    "$ours"/*) exec "$@" ;;
esac
args=()
for arg in "$@"; do
    case $arg in
        -Cpasses=sancov* | -Cllvm-args=-sanitizer-coverage*) ;;
        *) args+=("$arg") ;;
    esac
done
exec "${args[@]}" -Cdebug-assertions=off -Coverflow-checks=off
