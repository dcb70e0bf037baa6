#!/usr/bin/env bash
# Type-checks the `cuda` feature on a machine without a CUDA toolkit: candle's build script is given a compiler that
# writes empty kernels. The result can be checked, never run.
set -euo pipefail
cd "$(dirname "$0")/.."
fake=$(mktemp -d)
trap 'rm -rf "$fake"' EXIT
cat > "$fake/nvcc" <<'NVCC'
#!/usr/bin/env bash
source="${!#}" output='' folder='' mode='' arguments=("$@")
for ((i = 0; i < ${#arguments[@]}; i++)); do
  case "${arguments[i]}" in
    -o) output="${arguments[i + 1]}" ;;
    --output-directory) folder="${arguments[i + 1]}" ;;
    -c) mode=object ;;
    --ptx) mode=ptx ;;
    --lib) mode=library ;;
    --version) mode=version ;;
  esac
done
case "$mode" in
  object) echo | cc -w -x c -c -o "$output" - ;;
  library) shift 3; rm -f "$output"; ar crs "$output" "$@" ;;
  ptx) : > "${output:-$folder/$(basename "$source" .cu).ptx}" ;;
  version) printf 'a\nb\nc\nCuda compilation tools, release 13.0, V13.0.88\n' ;;
  *) echo "stand-in for nvcc: cannot $*" >&2; exit 1 ;;
esac
NVCC
chmod +x "$fake/nvcc"
export NVCC="$fake/nvcc" PATH="$fake:$PATH" CUDA_COMPUTE_CAP=90 CUDARC_CUDA_VERSION=13000
export CUDA_HOME="$fake" CUDA_PATH="$fake" CUDA_ROOT="$fake"
mkdir -p "$fake/include" "$fake/lib64"
cargo check --release --locked --features cuda --quiet
