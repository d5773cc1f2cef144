#!/bin/sh
# Fuzzes one target: run.sh TARGET [SECONDS]. A finding stops it and is kept in artifacts/TARGET.
set -eu
cd "$(dirname "$0")"
target=$1
longest=65536
dictionary=
case $target in
    pickle | legacy | distributed) longest=24576 dictionary=pickle ;;
    torch) dictionary=pickle ;;
    gguf) longest=32768 dictionary=gguf ;;
    safetensors) longest=40960 dictionary=json ;;
    index | config) longest=4096 dictionary=json ;;
    tokenizer) longest=8192 ;;
esac
# Two targets write their input to a file.
if [ -d /dev/shm ]; then export TMPDIR=/dev/shm; fi
export ASAN_OPTIONS="quarantine_size_mb=8:detect_leaks=0:detect_odr_violation=0"
exec cargo +nightly fuzz run --fuzz-dir . "$target" -- -max_total_time="${2:-600}" -max_len=$longest -timeout=5 \
    -rss_limit_mb=768 -malloc_limit_mb=256 -print_final_stats=1 ${dictionary:+-dict=dictionaries/$dictionary.dict}
