#!/usr/bin/env bash
# Take one mechanism away at a time and demand that a test notices.
#
#   sabotage.sh [NAME...]     names of files in sabotage/, without .patch; default: all
#
# Each patch says in its head which promise it breaks and which test binary (and filter) has to fail. The tree is copied
# first; nothing here is touched. SABOTAGE_TARGET keeps the build between runs (default: a temporary folder).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/sefs-sabotage.XXXXXX")
trap 'rm -rf --one-file-system "$scratch"' EXIT
export CARGO_TARGET_DIR=${SABOTAGE_TARGET:-$scratch/target} RUST_BACKTRACE=0

git -C "$here/.." ls-files -z | (cd "$here/.." && xargs -0 cp --parents -t "$scratch" --)
cd "$scratch"
[ $# -gt 0 ] || set -- $(cd "$here/sabotage" && ls -- *.patch | sed 's/\.patch$//')

# A test that fails anyway notices nothing.
for name in "$@"; do sed -n 's/^Test: //p' "$here/sabotage/$name.patch"; done | sort -u | while read -r binary filter; do
    cargo test -q -p sefs-tests --test "$binary" -- $filter >run.log 2>&1 </dev/null \
        || { cat run.log >&2; echo "$binary $filter fails without any sabotage" >&2; exit 2; }
done

unnoticed=()
for name in "$@"; do
    file=$here/sabotage/$name.patch
    read -r binary filter < <(sed -n 's/^Test: //p' "$file")
    patch -s -p1 <"$file" || { echo "$name: the patch no longer applies" >&2; exit 2; }
    if ! cargo test -q -p sefs-tests --test "$binary" --no-run >build.log 2>&1; then
        cat build.log >&2; echo "$name: does not build" >&2; exit 2
    fi
    if timeout 600 cargo test -q -p sefs-tests --test "$binary" -- $filter >run.log 2>&1; then
        echo "NOT NOTICED  $name: $(sed -n 's/^Removes: //p' "$file")"
        unnoticed+=("$name")
    else
        echo "noticed      $name: $(grep '^    [a-z_:]*$' run.log | sort -u | tr -d ' ' | paste -sd, | cut -c1-120)"
    fi
    patch -s -R -p1 <"$file"
done
[ ${#unnoticed[@]} -eq 0 ]
