// Optimisers and averages over many tensors in one launch: a block finds its tensor, and its part of it.

#define MOST_TENSORS 24
#define STRETCH 8192

struct Tensors {
    u64 pointers[5][MOST_TENSORS]; // what each kernel takes them for
    i64 lengths[MOST_TENSORS];
    i64 starts[MOST_TENSORS + 1]; // the first block of each
    i64 count;
};

struct Stretch {
    i64 tensor, first, last;
};
DEVICE Stretch stretch_of(const Tensors& t) {
    Stretch s;
    s.tensor = 0;
    while (s.tensor + 1 < t.count && t.starts[s.tensor + 1] <= (i64)blockIdx.x) s.tensor++;
    s.first = ((i64)blockIdx.x - t.starts[s.tensor]) * STRETCH;
    s.last = least(s.first + STRETCH, t.lengths[s.tensor]);
    return s;
}

// w, v, g, average (or none).
KERNEL sgd(const __grid_constant__ Tensors t, float lr, float momentum, float weight_decay, float decay, float rest) {
    Stretch s = stretch_of(t);
    float *w = (float*)t.pointers[0][s.tensor], *v = (float*)t.pointers[1][s.tensor];
    const float* g = (const float*)t.pointers[2][s.tensor];
    float* a = (float*)t.pointers[3][s.tensor];
    WITHIN(i, s.first, s.last) {
        float velocity = v[i] * momentum + (g[i] + weight_decay * w[i]);
        v[i] = velocity;
        float moved = w[i] - lr * velocity;
        w[i] = moved;
        if (a) a[i] = a[i] * decay + moved * rest;
    }
}
FREE(sgd)

// w, first moment, second moment, g, average (or none).
KERNEL adam(const __grid_constant__ Tensors t, float shrink, float beta1, float rest1, float beta2, float rest2, float step, float eps, float decay,
            float rest) {
    Stretch s = stretch_of(t);
    float *w = (float*)t.pointers[0][s.tensor], *m = (float*)t.pointers[1][s.tensor];
    float *v = (float*)t.pointers[2][s.tensor], *a = (float*)t.pointers[4][s.tensor];
    const float* g = (const float*)t.pointers[3][s.tensor];
    WITHIN(i, s.first, s.last) {
        float first = m[i] * beta1 + g[i] * rest1, second = v[i] * beta2 + g[i] * g[i] * rest2;
        m[i] = first;
        v[i] = second;
        float moved = w[i] * shrink - step * first / (sqrtf(second) + eps);
        w[i] = moved;
        if (a) a[i] = a[i] * decay + moved * rest;
    }
}
FREE(adam)

// average, value.
KERNEL ema(const __grid_constant__ Tensors t, float decay, float rest) {
    Stretch s = stretch_of(t);
    float* a = (float*)t.pointers[0][s.tensor];
    const float* x = (const float*)t.pointers[1][s.tensor];
    WITHIN(i, s.first, s.last) a[i] = a[i] * decay + x[i] * rest;
}
FREE(ema)
