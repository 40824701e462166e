#!/bin/sh
# Throws bytes at each parser, guided by coverage: `run.sh [RUNS]`.
#
# cargo fuzz asks for a nightly compiler, for its sanitizers. What libFuzzer itself needs, the coverage counters, a stable
# one can add: these are the flags that cargo fuzz gives for it. A target triple keeps them from build scripts.
set -eu
cd "$(dirname "$0")"
runs=${1:-100000}
target=$(rustc --print host-tuple)
sancov="-Cllvm-args=-sanitizer-coverage"
export RUSTFLAGS="-Cpasses=sancov-module $sancov-level=4 $sancov-inline-8bit-counters $sancov-pc-table $sancov-trace-compares --cfg fuzzing"
cargo build --locked --release --target "$target"
said=$(mktemp)
trap 'rm -f "$said"' EXIT
for parser in record journal index rpc; do
    if ! cargo run --locked --quiet --release --target "$target" --bin "$parser" -- -runs="$runs" -seed=1 >"$said" 2>&1; then
        cat "$said"
        exit 1
    fi
    echo "$parser: $runs inputs, nothing broke"
done
