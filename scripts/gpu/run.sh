#!/usr/bin/env bash
# Everything that needs a GPU, in one call: tests, the sanitizers, our kernels and their peers timed in the same
# minutes, whole models, parity at long context; at the end one table. It builds no Rust: bring the binaries. A part
# that fails or outlasts its limit costs its own rows of the table alone, and makes the exit status 1.
#
# usage: scripts/gpu/run.sh [PART ...]
#   PART: tests memcheck racecheck kernels peers bench verify; all of them without arguments
# environment:
#   TAMBORIM   the binary                                               target/release/tamborim
#   TESTS      the GPU tests' binary; without it the first three parts are left out
#   FILTER     which of its tests the sanitizers run                    cuda
#   PEERS      what scripts/gpu/prepare.sh made                         target/peers
#   OUT        folder for table.txt, results.json, log.txt              target/gpu
#   LIMIT      seconds for everything; no part gets more than is left   570
set -uo pipefail
cd "$(dirname "$0")/../.."
here=scripts/gpu
tamborim=${TAMBORIM:-target/release/tamborim}
tests=${TESTS:-}
out=${OUT:-target/gpu}
end=$((SECONDS + ${LIMIT:-570}))
parts=${*:-tests memcheck racecheck kernels peers bench verify}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
: > "$out/log.txt"
status=0

wanted() { case " $parts " in *" $1 "*) ;; *) return 1 ;; esac }

# part NAME LIMIT COMMAND...: standard output goes to $work/NAME, both outputs into the log.
part() {
    local name=$1 limit=$2 began=$SECONDS code=0 left=$((end - SECONDS))
    shift 2
    if [ "$left" -lt 5 ]; then
        echo "$name: no time left" | tee "$work/$name.failed"
        status=1
        return 1
    fi
    echo "==== $name: $*" >> "$out/log.txt"
    timeout -k 5 "$((limit < left ? limit : left))" "$@" > "$work/$name" 2> "$work/$name.err" || code=$?
    cat "$work/$name" "$work/$name.err" >> "$out/log.txt"
    echo "$name: exit $code, $((SECONDS - began)) s"
    [ "$code" = 0 ] && return
    [ "$code" = 124 ] && echo "over its limit" > "$work/$name.failed" || echo "exit $code" > "$work/$name.failed"
    tail -n 8 "$work/$name.err" | cut -c 1-300
    status=1
    return 1
}

# sanitizer TOOL LIMIT
sanitizer() {
    part "$1" "$2" compute-sanitizer --tool "$1" --error-exitcode 9 "$tests" --test-threads=1 "${FILTER-cuda}"
}

# bench NAME LIMIT ARGUMENTS...: a model of random weights, so that none has to be brought.
bench() {
    local name=$1 limit=$2
    shift 2
    part "bench-$name" "$limit" "$tamborim" bench --random "$@" --device cuda --json
}

nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,temperature.gpu --format=csv,noheader
if [ -n "$tests" ]; then
    wanted tests && part tests 90 "$tests" --test-threads=1
    wanted memcheck && sanitizer memcheck 90
    wanted racecheck && sanitizer racecheck 90
fi
wanted kernels && part kernels 60 "$tamborim" bench --kernels --device cuda --json
wanted peers && part peers 110 python3 $here/peers.py --folder "${PEERS:-target/peers}" --seconds 90
if wanted bench; then
    bench bf16 40 Samba_1.3B --prefill 4096 --decode 256
    bench int4 40 Samba_1.3B --to int4 --prefill 4096 --decode 256
    # Samba beside full attention of the same size: prefill of 128K tokens, decode behind 64K.
    bench samba-long 40 Samba_1.3B --prefill 131072 --depth 65536 --decode 64 --repeat 2
    bench attention-long 80 LLaMA_1.3B --prefill 131072 --depth 65536 --decode 64 --repeat 2
fi
if wanted verify; then
    # The demo's model, one window of 65536 tokens (its page, over and over), on the GPU and on the CPU.
    for _ in $(seq 40); do cat demo/page.txt; done > "$work/long.txt"
    part convert 20 "$tamborim" convert demo/samba-7m/checkpoint.pth -o "$work/samba.gguf" &&
        part quantize 20 "$tamborim" quantize "$work/samba.gguf" --to int4 -o "$work/int4.gguf" &&
        for device in cuda cpu; do
            part "verify-$device" 60 "$tamborim" verify "$work/samba.gguf" "$work/int4.gguf" --data "$work/long.txt" \
                --tokens 65536 --context 65536 --device "$device" --json
        done
fi
python3 $here/table.py "$work" "$out/results.json" | tee "$out/table.txt"
exit $status
