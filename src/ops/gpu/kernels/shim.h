// Runs the kernels on the processor, for the tests: one block after the other, the threads of a block as fibers that
// change places where they meet. Nothing of this is part of the program.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <stdlib.h>
#include <ucontext.h>
#include <type_traits>
#include <utility>

#define THREADS 8 // meeting is what takes time here
#define DEVICE static inline
#define KERNEL static void
#define __shared__ static thread_local
#define __restrict__
#define __grid_constant__

struct ShimIndex {
    unsigned x;
};
static thread_local ShimIndex threadIdx, blockIdx, blockDim, gridDim;

static inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}
static inline unsigned long long atomicAdd(unsigned long long* at, unsigned long long value) {
    unsigned long long before = *at;
    *at += value;
    return before;
}

template <class... A, size_t... I>
static void shim_apply(void (*f)(A...), void** args, std::index_sequence<I...>) {
    f(*(std::remove_cv_t<A>*)args[I]...);
}
template <class... A>
static void shim_call(void (*f)(A...), void** args) {
    shim_apply(f, args, std::index_sequence_for<A...>{});
}

struct ShimFibers {
    ucontext_t caller, threads[THREADS];
    char* stacks;
    bool done[THREADS];
    void (*run)(void**);
    void** args;
};
static const size_t SHIM_STACK = 64 << 10;
static thread_local ShimFibers* shim_fibers = nullptr;

static void shim_entry() {
    ShimFibers* f = shim_fibers;
    f->run(f->args);
    f->done[threadIdx.x] = true;
    swapcontext(&f->threads[threadIdx.x], &f->caller);
}
static inline void __syncthreads() {
    ShimFibers* f = shim_fibers;
    unsigned own = threadIdx.x;
    swapcontext(&f->threads[own], &f->caller);
    threadIdx.x = own;
}
static void shim_block(void (*run)(void**), void** args) {
    ShimFibers* f = shim_fibers;
    f->run = run;
    f->args = args;
    for (unsigned t = 0; t < THREADS; t++) {
        getcontext(&f->threads[t]);
        f->threads[t].uc_stack.ss_sp = f->stacks + t * SHIM_STACK;
        f->threads[t].uc_stack.ss_size = SHIM_STACK;
        f->threads[t].uc_link = nullptr;
        makecontext(&f->threads[t], shim_entry, 0);
        f->done[t] = false;
    }
    // All threads run to their next meeting, again and again. One that is over while others go on meeting stays over.
    for (bool left = true; left;) {
        left = false;
        for (unsigned t = 0; t < THREADS; t++) {
            if (f->done[t]) continue;
            threadIdx.x = t;
            swapcontext(&f->caller, &f->threads[t]);
            left = left || !f->done[t];
        }
    }
}
static void shim_launch(void (*run)(void**), unsigned grid, void** args, bool meets) {
    gridDim.x = grid;
    blockDim.x = THREADS;
    if (meets && !shim_fibers) {
        shim_fibers = new ShimFibers; // once a thread, for its life
        shim_fibers->stacks = (char*)malloc(THREADS * SHIM_STACK);
    }
    for (unsigned b = 0; b < grid; b++) {
        blockIdx.x = b;
        if (meets) {
            shim_block(run, args);
            continue;
        }
        for (unsigned t = 0; t < THREADS; t++) {
            threadIdx.x = t;
            run(args);
        }
    }
}

extern "C" unsigned shim_threads() { return THREADS; }

#define SHIM_EXPORT(name, meets)                                                        \
    static void shim_run_##name(void** args) { shim_call(name, args); }                 \
    extern "C" void shim_##name(unsigned grid, void** args) { shim_launch(shim_run_##name, grid, args, meets); }
#define SYNC(name) SHIM_EXPORT(name, true)
#define FREE(name) SHIM_EXPORT(name, false)
