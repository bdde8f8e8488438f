#!/usr/bin/env bash
# Builds fuzz targets and runs them: fuzz/run.sh TARGET|all [SECONDS | -runs=N | build]. One summary line for each target, also when
# it is interrupted; the exit code says whether anything was found. With SEFS_FUZZ_JOBS=N as many processes share a corpus,
# and the line adds them up. What is found lies in fuzz/artifacts/TARGET; move it to fuzz/regressions/TARGET,
# where every `cargo test` of this folder replays it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

all=(decode patch mount_image mount_image_forged operations key_slots mkfs_input sealed_blob)
which=${1:?usage: fuzz/run.sh TARGET|all [SECONDS | -runs=N | build]}
[ "$which" = all ] || [[ " ${all[*]} " = *" $which "* ]] || { echo "fuzz/run.sh: no target '$which'; there are: ${all[*]}" >&2; exit 2; }
bound=${2:-60}
case $bound in
    -runs=* | build) ;;
    *) bound=-max_total_time=$bound ;;
esac
toolchain=${SEFS_FUZZ_TOOLCHAIN:-nightly}
triple=$(rustc -vV | sed -n 's/^host: //p')
jobs=${SEFS_FUZZ_JOBS:-1}
target_dir=${SEFS_FUZZ_TARGET_DIR:-fuzz/target}

# No address sanitizer: there is no unsafe code to watch. No tracing of comparisons: it takes half of the time, and the
# dictionary and the structure of the inputs give what it would find.
flags=(--fuzz-dir fuzz --sanitizer none --no-trace-compares --release --debug-assertions --target-dir "$target_dir")
export RUSTC_WRAPPER=$PWD/fuzz/rustc.sh
if [ "$which" = all ]; then
    targets=("${all[@]}")
    cargo "+$toolchain" fuzz build "${flags[@]}"
else
    targets=("$which")
    cargo "+$toolchain" fuzz build "${flags[@]}" "$which"
fi
[ "$bound" != build ] || exit 0
binaries=$target_dir/$triple/release

longest() {  # The longest input that still means more, or that is worth its time: many short ones reach more than a long one.
    case $1 in
        decode) echo 8192 ;;
        mount_image | mount_image_forged | operations) echo 64 ;;
        mkfs_input) echo 256 ;;
        *) echo 1024 ;;
    esac
}

# libFuzzer's own bookkeeping takes as long as these targets do: weighing how rare each edge is, and whether an input could be
# replaced by a shorter one. What is new is still what was not reached before, or not so often.
cheap=(-len_control=0 -entropic=0 -reduce_inputs=0)

found=0 stopped=0
pids=()
# libFuzzer ends with its figures when it is asked to; so does this.
trap 'stopped=1 signalled=1; ((${#pids[@]} == 0)) || kill -TERM "${pids[@]}" 2>/dev/null || :' INT TERM

# Waits for a process; the result is its exit code. A signal ends a wait, and not what is waited for.
ended() {
    local code
    while :; do
        code=0 signalled=0
        wait "$1" || code=$?
        [ "$signalled" = 1 ] || return "$code"
    done
}

for target in "${targets[@]}"; do
    mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
    folders=("fuzz/corpus/$target")
    for kept in "fuzz/seeds/$target" "fuzz/regressions/$target"; do
        [ -d "$kept" ] && folders+=("$kept")
    done
    logs=$(mktemp -d)
    pids=()
    for ((job = 0; job < jobs; job++)); do
        "$binaries/$target" -artifact_prefix="fuzz/artifacts/$target/" -dict=fuzz/dict -max_len="$(longest "$target")" \
            "${cheap[@]}" -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
            "$bound" "${folders[@]}" >"$logs/$job" 2>&1 &
        pids+=($!)
    done
    crashes=0
    for ((job = 0; job < jobs; job++)); do
        code=0
        ended "${pids[job]}" || code=$?
        # 72 is how libFuzzer says that it was interrupted.
        if [ "$code" != 0 ] && { [ "$code" != 72 ] || [ "$stopped" = 0 ]; }; then
            crashes=$((crashes + 1))
            mv "$logs/$job" "$logs/crash-$job"
        fi
    done
    pids=()
    total() { cat "$logs"/* | sed -n "s/^stat::$1: *//p" | awk '{ sum += $1 } END { print sum + 0 }'; }
    printf 'fuzz: %s: %s executions, %s/s, %d crashes\n' "$target" "$(total number_of_executed_units)" \
        "$(total average_exec_per_sec)" "$crashes"
    if [ "$crashes" != 0 ]; then
        found=1
        tail -n 60 "$logs"/crash-*
    fi
    rm -rf "$logs"
    [ "$stopped" = 0 ] || exit 130
done
exit "$found"
