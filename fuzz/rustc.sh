#!/usr/bin/env bash
# The compiler as fuzz/run.sh calls it. Crates of others get no counters and no assertions: which way a cipher's rounds
# branch guides nobody, and the arithmetic of a hash is not what is tested here; both take most of the time that they may.
# What tests and targets do by themselves has assertions and no counters: only what the product does is news. Nobody gets
# the counter of the stack's depth, which every call would pay for.
set -euo pipefail
ours=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
crate=$(cd "${CARGO_MANIFEST_DIR:-$ours}" && pwd -P)
counters=none
assertions=(-Cdebug-assertions=off -Coverflow-checks=off)
case $crate/ in
    "$ours"/tests/* | "$ours"/fuzz/*) assertions=() ;;
    "$ours"/*) assertions=() counters=edges ;;
esac
args=()
for arg in "$@"; do
    case $counters:$arg in
        *:-Cllvm-args=-sanitizer-coverage-stack-depth) ;;
        none:-Cpasses=sancov* | none:-Cllvm-args=-sanitizer-coverage*) ;;
        *) args+=("$arg") ;;
    esac
done
exec "${args[@]}" ${assertions[@]+"${assertions[@]}"}
