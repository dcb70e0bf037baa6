// What all kernels share: names of types, the loop over elements, sums over a block, the random masks.
//
// Rules: blocks and grids have one dimension; every size is an i64; a kernel is told where its arrays end. `SYNC` after a
// kernel says that its threads meet (block_sum), `FREE` that they do not; nvcc ignores both.
#pragma once

#ifdef __CUDACC__
#define DEVICE static __device__ __forceinline__
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)
#define SYNC(name)
#define FREE(name)
#define THREADS 256
#else
#include "shim.h"
#endif

typedef long long i64;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Elements of a plane or a row that one block sums: at most 64 a thread, so that sums in single precision stay short.
#define PIECE 16384

// The grid strides over 0..n.
#define EACH(i, n) \
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += (i64)gridDim.x * blockDim.x)
// The block strides over first..last.
#define WITHIN(i, first, last) for (i64 i = (first) + threadIdx.x; i < (last); i += blockDim.x)

// a / b of sizes, which are not negative. GPUs divide by 64 bits four times slower than by 32, and hardly any size needs them.
DEVICE i64 over(i64 a, i64 b) {
    return (((u64)a | (u64)b) >> 32) ? a / b : (i64)((u32)a / (u32)b);
}
DEVICE i64 least(i64 a, i64 b) { return a < b ? a : b; }

// Block b works on piece `piece` of plane `plane`: elements first..last of it.
struct Piece {
    i64 plane, piece, first, last;
};

DEVICE Piece piece_of(i64 size, i64 pieces) {
    Piece p;
    p.plane = blockIdx.x / pieces;
    p.piece = blockIdx.x % pieces;
    p.first = p.piece * PIECE;
    p.last = least(p.first + PIECE, size);
    return p;
}

DEVICE i64 piece_length(i64 size, i64 piece) { return least(PIECE, size - piece * PIECE); }

// The sum over the threads of the block, in a fixed order; all threads get it.
DEVICE double block_sum(double value) {
    __shared__ double scratch[THREADS];
    __syncthreads(); // the scratch may still be read from the last sum
    scratch[threadIdx.x] = value;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) scratch[threadIdx.x] += scratch[threadIdx.x + half];
        __syncthreads();
    }
    return scratch[0];
}

DEVICE float block_max(float value) {
    __shared__ float scratch[THREADS];
    __syncthreads();
    scratch[threadIdx.x] = value;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if ((int)threadIdx.x < half) {
            float other = scratch[threadIdx.x + half];
            if (other > scratch[threadIdx.x]) scratch[threadIdx.x] = other;
        }
        __syncthreads();
    }
    return scratch[0];
}

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// The masks of ops/random.rs, bit for bit.
struct Mask {
    u32 key, keep_last;
    float scale;
};

DEVICE Mask plane_mask(u64 key, u32 keep_last, float scale, i64 plane) {
    u64 x = key ^ ((u64)plane * 0x9E3779B97F4A7C15ull);
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    Mask mask = {(u32)(x ^ (x >> 31)), keep_last, scale};
    return mask;
}

DEVICE float factor(Mask mask, u32 element) {
    u32 x = element * 0x9E3779B9u ^ mask.key;
    x = (x ^ (x >> 16)) * 0x21F0AAADu;
    x = (x ^ (x >> 15)) * 0xD35A2D97u;
    x ^= x >> 15;
    return x <= mask.keep_last ? mask.scale : 0.0f;
}

// Sums of parts, one part after the other: total[k] = Σ part[p·width + k], by one block each.
KERNEL total_of_parts(const double* parts, i64 count, i64 width, double* total) {
    double sum = 0.0;
    WITHIN(p, 0, count) sum += parts[p * width + blockIdx.x];
    sum = block_sum(sum);
    if (threadIdx.x == 0) total[blockIdx.x] = sum;
}
SYNC(total_of_parts)

// out = factor·Σ parts, by one block.
KERNEL scaled_total(const double* parts, i64 count, double factor, double offset, float* out) {
    double sum = 0.0;
    WITHIN(p, 0, count) sum += parts[p];
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[0] = (float)(offset + factor * sum);
}
SYNC(scaled_total)
