#!/usr/bin/env bash
# build_cuda.sh [DIR]
#   Builds the program with CUDA: one binary for machines with and without a GPU, which opens CUDA's libraries at run time.
#   Takes the toolkit that $CUDA_HOME or $PATH names, and brings a compiler along into DIR (target/nvcc) where there is none
#   (install_nvcc.sh). The program lies in target/cuda/release/sweep; stripped and compressed (strip, gzip) it is 28 MB.
#
#   On a machine with a GPU it needs a driver for the CUDA that it was built with (13.0 of what is brought along) or a newer
#   one, and cuBLAS, cuRAND of that CUDA and cuDNN 9 in the folders of LD_LIBRARY_PATH. An installed PyTorch for CUDA 13 has
#   them:
#       site=$(python3 -c 'import nvidia; print(list(nvidia.__path__)[0])')
#       export LD_LIBRARY_PATH=$site/cu13/lib:$site/cudnn/lib
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
if [ -n "${CUDA_HOME:-}" ] && [ -x "$CUDA_HOME/bin/nvcc" ]; then
  export PATH="$CUDA_HOME/bin:$PATH"
elif ! command -v nvcc > /dev/null; then
  cargo fetch --locked --quiet
  environment=$(scripts/install_nvcc.sh "${1:-$target/nvcc}")
  eval "$environment"
fi
# GPUs from this generation on (80: A100, 90: H100 and H200); the driver compiles the kernels for the one at hand.
# 12.8 is 12080 to cudarc, which then opens the libraries of that version.
version=$(nvcc --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\),.*/\10\20/p')
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}" CUDARC_CUDA_VERSION="${CUDARC_CUDA_VERSION:-$version}"
export CUDAFORGE_THREADS="${CUDAFORGE_THREADS:-$(nproc)}"

# candle asks cudarc to be linked with CUDA's libraries, and no feature of candle says otherwise: the compiler is told to
# have it open them at run time. A folder of its own, since cargo does not know of that.
mkdir -p "$target/cuda"
target=$(cd "$target/cuda" && pwd)
cat > "$target/rustc" <<'RUSTC'
#!/usr/bin/env bash
for ((i = 1; i < $#; i++)); do
  if [ "${!i}" = --crate-name ]; then
    next=$((i + 1))
    case "${!next}" in cudarc | mcsd_sweep | sweep) exec "$@" --cfg 'feature="dynamic-loading"' ;; esac
  fi
done
exec "$@"
RUSTC
chmod +x "$target/rustc"
CARGO_TARGET_DIR=$target RUSTC_WRAPPER=$target/rustc cargo build --release --locked --features cuda --bin sweep
echo "$target/release/sweep"
