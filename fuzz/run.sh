#!/usr/bin/env bash
# Builds fuzz targets and runs them: fuzz/run.sh TARGET|all [SECONDS | -runs=N]. One summary line for each target; the exit
# code says whether anything was found. What is found lies in fuzz/artifacts/TARGET; move it to fuzz/regressions/TARGET,
# where every `cargo test` of this folder replays it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

all=(decode patch mount_image mount_image_forged operations key_slots mkfs_input sealed_blob)
which=${1:?usage: fuzz/run.sh TARGET|all [SECONDS | -runs=N]}
[ "$which" = all ] || [[ " ${all[*]} " = *" $which "* ]] || { echo "fuzz/run.sh: no target '$which'; there are: ${all[*]}" >&2; exit 2; }
bound=${2:-60}
case $bound in
    -runs=*) ;;
    *) bound=-max_total_time=$bound ;;
esac
toolchain=${SEFS_FUZZ_TOOLCHAIN:-nightly}
triple=$(rustc -vV | sed -n 's/^host: //p')
target_dir=${SEFS_FUZZ_TARGET_DIR:-fuzz/target}

# No address sanitizer: there is no unsafe code to watch. No tracing of comparisons: it takes half of the time, and the
# dictionary and the structure of the inputs give what it would find.
flags=(--fuzz-dir fuzz --sanitizer none --no-trace-compares --release --debug-assertions --target-dir "$target_dir")
if [ "$which" = all ]; then
    targets=("${all[@]}")
    cargo "+$toolchain" fuzz build "${flags[@]}"
else
    targets=("$which")
    cargo "+$toolchain" fuzz build "${flags[@]}" "$which"
fi
binaries=$target_dir/$triple/release

longest() {  # The longest input that still means more.
    case $1 in
        decode) echo 8192 ;;
        mkfs_input | operations) echo 2048 ;;
        *) echo 1024 ;;
    esac
}

found=0
for target in "${targets[@]}"; do
    mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
    log=$(mktemp)
    folders=("fuzz/corpus/$target")
    for kept in "fuzz/seeds/$target" "fuzz/regressions/$target"; do
        [ -d "$kept" ] && folders+=("$kept")
    done
    code=0
    "$binaries/$target" -artifact_prefix="fuzz/artifacts/$target/" -dict=fuzz/dict -max_len="$(longest "$target")" \
        -len_control=0 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 "$bound" "${folders[@]}" >"$log" 2>&1 || code=$?
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    speed=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    crashes=$([ "$code" = 0 ] && echo 0 || echo 1)
    printf 'fuzz: %s: %s executions, %s/s, %d crashes\n' "$target" "${executions:-0}" "${speed:-0}" "$crashes"
    if [ "$code" != 0 ]; then
        found=1
        tail -n 60 "$log"
    fi
    rm -f "$log"
done
exit "$found"
