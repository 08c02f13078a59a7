#!/usr/bin/env bash
# Build llama.cpp for this CPU and quantize the default bundle's own base weights for it: the peer of `edge bench`.
#
# usage: scripts/bench_peer_llamacpp.sh [--recipe NAME] [--jobs N] [--formats "Q8_0 Q4_0 ..."]
#   --recipe NAME   the recipe whose base weights are taken (default: the default recipe); it must start from a GGUF file
#   --jobs N        compiler processes (default: the cores this process may use)
#   --formats LIST  what to quantize to (default: "Q8_0 Q6_K Q4_K_M Q4_0"; F32 is always made, the others come from it)
#
# llama.cpp comes out of the pinned source package of llama-cpp-python. Everything goes to <cache>/peer (EDGE_CACHE, else
# the XDG cache folder's edge-slm); nothing is written into the checkout. Without a network, put the source package
# there by hand. The last line printed is the folder: bin/llama-*, gguf/<sha256 of the base, 16 digits>/<format>.gguf.
# A second run finds all of it done. Needs cmake and a C++17 compiler; the first run takes about ten CPU minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

VERSION=0.3.36
SHA256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e # of llama_cpp_python-$VERSION.tar.gz
TARGETS=(llama-bench llama-server llama-cli llama-quantize llama-perplexity)
FLAGS=(-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DGGML_CCACHE=OFF -DLLAMA_CURL=OFF
  -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_MTMD=OFF)

recipe="" jobs=$(nproc) formats="Q8_0 Q6_K Q4_K_M Q4_0"
while [ $# -gt 0 ]; do
  case $1 in
    --recipe | --jobs | --formats)
      [ $# -gt 1 ] || { echo "$1 needs a value; see $0 --help" >&2; exit 2; }
      declare "${1#--}=$2"; shift 2 ;;
    -h | --help) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "unknown argument $1; see $0 --help" >&2; exit 2 ;;
  esac
done

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

python=${PYTHON:-.venv/bin/python}
[ -x "$(command -v "$python")" ] || die "no $python: run scripts/quickstart first, or set PYTHON to an interpreter with edge-slm[optimize]"
cache=${EDGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/edge-slm}/peer
folder=$cache/llama.cpp-$VERSION
mkdir -p "$folder"
exec 9>"$folder/.lock"
flock 9 # two runs at once would build into the same place

# -march=native code of another CPU may die of an illegal instruction, so the CPU is part of what was built.
stamp="llama-cpp-python $VERSION $SHA256 ${FLAGS[*]} cpu $(sed -n '/^\(model name\|flags\|Features\)/p' /proc/cpuinfo | sort -u | sha256sum | cut -c1-16)"

source_package() {
  local file=$cache/llama_cpp_python-$VERSION.tar.gz scratch found
  if [ ! -e "$file" ]; then
    [ "${EDGE_OFFLINE:-0}" != 1 ] || die "EDGE_OFFLINE forbids the network. Put $(basename "$file") into $cache by hand"
    say "fetching llama-cpp-python $VERSION (source, 70 MB)"
    scratch=$(mktemp -d "$cache/.fetch-XXXXXX")
    "$python" -m pip download --quiet --no-deps --no-binary=:all: --disable-pip-version-check --dest "$scratch" \
      "llama-cpp-python==$VERSION" >&2 ||
      { rm -rf "$scratch"; die "pip cannot fetch it: is the package index reachable? By hand: put $(basename "$file") into $cache"; }
    mv "$scratch"/*.tar.gz "$file"
    rm -rf "$scratch"
  fi
  found=$(sha256sum "$file" | cut -d' ' -f1)
  [ "$found" = "$SHA256" ] || { rm -f "$file"; die "$file had sha256 $found instead of $SHA256 and was removed: run again"; }
  echo "$file"
}

build() {
  local tool package work=$folder/work generator=()
  for tool in cmake c++ tar; do
    command -v "$tool" >/dev/null || die "no $tool: install cmake and a C++ compiler (Debian and Ubuntu: apt install cmake ninja-build g++)"
  done
  if command -v ninja >/dev/null; then generator=(-G Ninja); fi
  package=$(source_package)
  rm -rf "$work" "$folder/bin.partial"
  mkdir -p "$work/source"
  tar -xzf "$package" -C "$work/source" --strip-components=3 "llama_cpp_python-$VERSION/vendor/llama.cpp"
  say "building llama.cpp (log: $folder/build.log)"
  if ! { cmake -S "$work/source" -B "$work/build" "${generator[@]}" "${FLAGS[@]}" &&
    cmake --build "$work/build" --target "${TARGETS[@]}" -j "$jobs"; } >"$folder/build.log" 2>&1 </dev/null; then
    tail -n 12 "$folder/build.log" >&2
    die "the build failed; its log is $folder/build.log"
  fi
  mkdir "$folder/bin.partial"
  for tool in "${TARGETS[@]}"; do cp "$work/build/bin/$tool" "$folder/bin.partial/"; done
  printf '%s\n' "$stamp" >"$folder/bin.partial/STAMP"
  rm -rf "$folder/bin"
  mv "$folder/bin.partial" "$folder/bin"
  rm -rf "$work"
}

# quantize FROM FORMAT: gguf/<base>/FORMAT.gguf, whole or not there
quantize() {
  local out=$gguf/$2.gguf
  if [ -e "$out" ]; then return; fi
  say "quantizing to $2"
  if ! "$folder/bin/llama-quantize" --allow-requantize "$1" "$out.partial" "$2" "$jobs" >"$folder/quantize.log" 2>&1; then
    rm -f "$out.partial"
    tail -n 12 "$folder/quantize.log" >&2
    die "llama-quantize failed; its log is $folder/quantize.log"
  fi
  mv "$out.partial" "$out"
}

[ "$(cat "$folder/bin/STAMP" 2>/dev/null)" = "$stamp" ] || build

# The base that the bundle was built from, by its hash; fetched by the recipe's own means where it is not cached yet.
base=$("$python" - "$recipe" <<'PY'
import sys
from edge.errors import EdgeError
from optimize.recipe import DEFAULT, load_recipe
from optimize.sources import fetch, pinned
try:
    source = load_recipe(sys.argv[1] or DEFAULT).base.source
    print(pinned(source)[:16], fetch(source))
except EdgeError as error:
    sys.exit(f"error: {error}")
PY
)
gguf=$folder/gguf/${base%% *}
case $(head -c 4 "${base#* }" 2>/dev/null) in
  GGUF) ;;
  *) die "the recipe's base is no GGUF file, and llama.cpp reads nothing else: name a recipe that starts from one (--recipe)" ;;
esac
mkdir -p "$gguf"
quantize "${base#* }" F32
for format in $formats; do quantize "$gguf/F32.gguf" "$format"; done
echo "$folder"
