#!/bin/sh
# Builds OUT_DIR/libcuda.so.1, a stand-in for the NVIDIA driver that runs the kernels of this repository on the CPU:
#
#     kernels/cuda/shim/build.sh OUT_DIR [--sanitize] [FILE.cu ...]     (default: all kernels/cuda/*.cu)
#
# Needs g++ (or $CXX) and python3. Compiles again only what changed. --sanitize builds with ASan and UBSan; the program
# that loads it then needs LD_PRELOAD="$(g++ -print-file-name=libasan.so)" and ASAN_OPTIONS=detect_leaks=0.
set -eu
shim=$(cd "$(dirname "$0")" && pwd)
out=$1
shift
flags="-O2 -g1 -std=c++17 -fPIC -ffp-contract=off -fno-strict-aliasing -fvisibility=hidden -pthread -I$shim/.. -I$shim"
# Wider instructions where the machine has them; without contraction they give the same results.
if grep -qw avx2 /proc/cpuinfo 2>/dev/null && grep -qw fma /proc/cpuinfo; then flags="$flags -march=x86-64-v3"; fi
files=
for argument; do
    case $argument in
    --sanitize) flags="$flags -O1 -fsanitize=address,undefined -fno-sanitize-recover=all" ;;
    *) files="$files $(cd "$(dirname "$argument")" && pwd)/$(basename "$argument")" ;;
    esac
done
[ -n "$files" ] || files=$(ls "$shim"/../*.cu)
mkdir -p "$out/obj"
cd "$out/obj"
printf '%s\n' "${CXX:-g++} $flags" >flags.new
cmp -s flags.new flags || { rm -f ./*.o; mv flags.new flags; }

# NAME.o from NAME.cu: its own namespace, then a line for each kernel that registers it.
cat >one.sh <<'END'
set -eu
source=$1 name=$(basename "${1%.*}") compiler=$2 flags=$3 shim=$4
if [ -e "$name.o" ] && [ -e "$name.d" ]; then
    stale=
    for dependency in "$source" $(sed 's/^[^:]*://; s/\\$//' "$name.d"); do
        [ "$name.o" -nt "$dependency" ] || stale=1
    done
    [ "$stale" ] || exit 0
fi
rm -f "$name.o"
flags="$flags -MMD -MF $name.d"
case $source in *.cpp)
    $compiler $flags -Wall -Wextra -c "$source" -o "$name.tmp" && mv "$name.tmp" "$name.o"
    exit
esac
$compiler $flags -E -P -DTAMBORIM_SHIM -DSHIM_LIST_KERNELS -x c++ "$source" >"$name.i"
python3 - "$name" "$source" >"$name.cpp" <<'PYTHON'
import re, sys
name, source = sys.argv[1:]
text = open(name + ".i").read()
print(f'#define TAMBORIM_SHIM\n#include "common.cuh"\nnamespace cu_{name} {{\n#include "{source}"')
nested = r"\((?:[^()]|\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))*\)"  # parentheses, four deep
kernel = rf'extern\s*"C"(?:\s*(?:__global__|void|__launch_bounds__\s*({nested})))+\s*(?!__launch_bounds__)(\w+)\s*\('
for found in re.finditer(kernel, text):
    if "__global__" in found[0]:
        bounds, kernel = found.groups()
        print(f'static shim::Kernel kernel_{kernel}("{name}", "{kernel}", shim::bounds{bounds or "()"}, {kernel});')
print("}")
PYTHON
$compiler $flags -w -c "$name.cpp" -o "$name.tmp"
mv "$name.tmp" "$name.o"
END
# Objects of files that are gone.
files="$files $shim/engine.cpp $shim/driver.cpp"
for object in *.o; do
    case " $(echo $files) " in *"/${object%.o}.cu "* | *"/${object%.o}.cpp "*) ;; *) rm -f "$object" ;; esac
done
failed=0
printf '%s\n' $files | xargs -P "$(nproc)" -I{} sh one.sh {} "${CXX:-g++}" "$flags" "$shim" || failed=1
${CXX:-g++} $flags -shared -Wl,-soname,libcuda.so.1 ./*.o -o ../libcuda.so.tmp -ldl
mv ../libcuda.so.tmp ../libcuda.so.1
exit $failed
