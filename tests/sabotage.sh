#!/usr/bin/env bash
# Take one mechanism away at a time and demand that a test notices.
#
#   sabotage.sh [NAME...]     names of files in sabotage/, without .patch; default: all
#   sabotage.sh --check       only whether each still applies
#
# Each patch says in its head which promise it breaks and which tests have to fail:
#
#   Test: [-p PACKAGE] [--features FEATURE] --lib|BINARY [FILTER]     the package is sefs-tests unless it is named
#
# The tree is copied first; nothing here is touched. SABOTAGE_TARGET is a folder that keeps copy and build between runs, one
# run at a time (default: a temporary one). Progress goes to standard error; the last line counts. Exit status: 0 all noticed, 1 not, 2 the run is no good.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ -z "${SABOTAGE_TARGET:-}" ]; then
    SABOTAGE_TARGET=$(mktemp -d "${TMPDIR:-/tmp}/sefs-sabotage.XXXXXX")
    trap 'rm -rf --one-file-system "$SABOTAGE_TARGET"' EXIT
fi
scratch=$SABOTAGE_TARGET/tree
export CARGO_TARGET_DIR=$SABOTAGE_TARGET RUST_BACKTRACE=0
# Most of the time goes into building, not into tests.
export CARGO_PROFILE_DEV_OPT_LEVEL=${CARGO_PROFILE_DEV_OPT_LEVEL:-0} CARGO_PROFILE_DEV_DEBUG=${CARGO_PROFILE_DEV_DEBUG:-0}
# A copy at the same place is built upon; its files are new, so that nothing of a sabotage is taken for built.
rm -rf --one-file-system "$scratch"
mkdir -p "$scratch"

git -C "$here/.." ls-files -z | (cd "$here/.." && xargs -0 cp --parents -t "$scratch" --)
cd "$scratch"
if [ "${1:-}" = --check ]; then
    for file in "$here"/sabotage/*.patch; do
        patch -s -F0 --dry-run -p1 <"$file" || { echo "$file: the patch no longer applies" >&2; exit 2; }
    done
    exit 0
fi
[ $# -gt 0 ] || set -- $(cd "$here/sabotage" && ls -- *.patch | sed 's/\.patch$//')

no_good() {  # no_good LOG WHY
    cat -- "$1" >&2
    echo "$2" >&2
    exit 2
}

tests_of() { sed -n 's/^Test: //p' "$here/sabotage/$1.patch"; }

# Words of a Test line become `cargo` (arguments for cargo) and `filter`.
understand() {
    local package=sefs-tests
    if [ "$1" = -p ]; then package=$2; shift 2; fi
    cargo=(test -q --locked -p "$package")
    if [ "$1" = --features ]; then cargo+=(--features "$2"); shift 2; fi
    if [ "$1" = --lib ]; then cargo+=(--lib); else cargo+=(--test "$1"); fi
    shift
    filter=("$@")
}

# A test that fails anyway notices nothing.
for name in "$@"; do tests_of "$name"; done | sort -u >tests.list
total=$(wc -l <tests.list) number=0
while read -r -a words <&3; do
    number=$((number + 1))
    printf 'without sabotage %d of %d: %s\n' "$number" "$total" "${words[*]}" >&2
    understand "${words[@]}"
    timeout 1800 cargo "${cargo[@]}" -- "${filter[@]}" >run.log 2>&1 </dev/null \
        || no_good run.log "${words[*]} fails without any sabotage"
    # A filter that fits nothing would notice nothing.
    grep -Eq '^test result: ok\. [1-9]' run.log || no_good run.log "${words[*]} runs no test"
done 3<tests.list

total=$# number=0 started=$SECONDS
unnoticed=()
for name in "$@"; do
    number=$((number + 1))
    file=$here/sabotage/$name.patch
    read -r -a words < <(tests_of "$name")
    understand "${words[@]}"
    printf '%d of %d, %d s: %s\n' "$number" "$total" $((SECONDS - started)) "$name" >&2
    patch -s -F0 -p1 <"$file" >patch.log || no_good patch.log "$name: the patch no longer applies"
    cargo "${cargo[@]}" --no-run >build.log 2>&1 </dev/null || no_good build.log "$name: does not build"
    outcome=0
    timeout 1200 cargo "${cargo[@]}" -- "${filter[@]}" >run.log 2>&1 </dev/null || outcome=$?
    # A test that does not end has noticed something only if its own watchdog says so.
    case $outcome in
        0) verdict="NOT NOTICED " ;;
        124) verdict="DID NOT END " ;;
        *) verdict="noticed     " ;;
    esac
    if [ "$verdict" = "noticed     " ]; then
        echo "$verdict $name: $(grep '^    [a-z_:]*$' run.log | sort -u | tr -d ' ' | paste -sd, | cut -c1-120)"
    else
        echo "$verdict $name: $(sed -n 's/^Removes: //p' "$file")"
        unnoticed+=("$name")
    fi
    patch -s -R -p1 <"$file"
done
printf '%d sabotages, %d noticed, %d not%s, %d s\n' "$total" $((total - ${#unnoticed[@]})) ${#unnoticed[@]} \
    "${unnoticed:+: ${unnoticed[*]}}" $((SECONDS - started))
[ ${#unnoticed[@]} -eq 0 ]
