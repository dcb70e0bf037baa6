#!/usr/bin/env bash
# install_nvcc.sh DIR
#   Puts CUDA 13.0's compiler, headers and what is linked against into DIR, from PyPI's wheels (105 MB), for machines
#   without a CUDA toolkit, and prints the environment for a build:
#       eval "$(scripts/install_nvcc.sh DIR)"
#   Libraries that a wheel would make large (cuBLAS, cuRAND, cuDNN, NVRTC) and the driver's are stubs with the right names:
#   the program opens the true ones at run time. A newer compiler would write kernels that a driver for CUDA 13.0 refuses.
set -euo pipefail
folder=${1:?usage: install_nvcc.sh DIR}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
site=$folder/site home=$folder/site/nvidia/cu13
wheels=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85
        nvidia-cuda-runtime==13.0.96)
if [ ! -x "$home/bin/nvcc" ]; then
  python3 -m pip install -q --no-deps --no-compile --only-binary=:all: --upgrade --target "$site" "${wheels[@]}" >&2
fi
libraries=$home/lib stubs=$home/lib/stubs
mkdir -p "$stubs"
ln -sfn lib "$home/lib64"
ln -sf libcudart.so.13 "$libraries/libcudart.so"

# A library NAME that calls itself SONAME, with the functions named on standard input.
stub() {
  { sort -u | sed 's/.*/int &(void) { return 999; }/'; echo; } |
    cc -w -shared -fPIC -O0 -nostdlib -Wl,-soname,"$2" -x c -o "$stubs/lib$1.so" -
}
# The functions that cudarc knows of a library; it has been fetched with the other sources.
bindings=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/cudarc-0.19.* 2>/dev/null | sort -V | tail -1 || true)
known() {
  if [ -n "$bindings" ]; then grep -ohE "\bfn $2[A-Za-z0-9_]*" "$bindings/src/$1/sys/mod.rs" | sed 's/fn //'; fi
}
grep -ohE '\bcu[A-Z][A-Za-z0-9_]*' "$home/include/cuda.h" | stub cuda libcuda.so.1
known nvrtc nvrtc | stub nvrtc libnvrtc.so.13
known cublas cublas | stub cublas libcublas.so.13
known cublaslt cublasLt | stub cublasLt libcublasLt.so.13
known curand curand | stub curand libcurand.so.10
known cudnn cudnn | stub cudnn libcudnn.so.9

# The compiler that candle's build script is given: it leaves out the kernels of quantised models and of mixtures of
# experts, which this program never calls and which take four fifths of that build.
mkdir -p "$folder/bin"
cat > "$folder/bin/nvcc" <<'NVCC'
#!/usr/bin/env bash
source="${!#}" output='' folder='' mode='' arguments=("$@")
for ((i = 0; i < ${#arguments[@]}; i++)); do
  case "${arguments[i]}" in
    -o) output="${arguments[i + 1]}" ;;
    --output-directory) folder="${arguments[i + 1]}" ;;
    -c) mode=object ;;
    --ptx) mode=ptx ;;
    --lib) mode=library ;;
  esac
done
case "$mode:$source" in
  object:*mmq_gguf/* | object:*mmvq_gguf.cu | object:*/moe/*)
    { echo 'extern void abort(void);'
      if [ "$(basename "$source")" = moe_gguf.cu ]; then
        grep -oE 'pub fn [A-Za-z0-9_]+' src/ffi.rs | sed 's/pub fn \(.*\)/void \1(void) { abort(); }/'
      fi
    } | cc -w -fPIC -O1 -x c -c -o "$output" -
    exit ;;
  library:*) rm -f "$output"; shift 3; exec ar crs "$output" "$@" ;;
  ptx:*quantized.cu) : > "$folder/quantized.ptx"; exit ;;
esac
exec "${REAL_NVCC:?}" "$@"
NVCC
chmod +x "$folder/bin/nvcc"

"$home/bin/nvcc" --version | tail -2 >&2
cat <<ENVIRONMENT
export CUDA_HOME=$home CUDA_PATH=$home CUDA_ROOT=$home REAL_NVCC=$home/bin/nvcc NVCC=$folder/bin/nvcc
export PATH=$home/bin:\$PATH
ENVIRONMENT
