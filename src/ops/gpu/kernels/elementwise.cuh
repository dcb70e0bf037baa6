// Element by element.

KERNEL fill(float* y, float value, i64 n) { EACH(i, n) y[i] = value; }
FREE(fill)
KERNEL add_in_place(float* sum, const float* x, i64 n) { EACH(i, n) sum[i] += x[i]; }
FREE(add_in_place)
KERNEL add(const float* a, const float* b, float* y, i64 n) { EACH(i, n) y[i] = a[i] + b[i]; }
FREE(add)
KERNEL times(const float* a, const float* b, float* y, i64 n) { EACH(i, n) y[i] = a[i] * b[i]; }
FREE(times)
KERNEL scale(const float* x, float* y, float by, i64 n) { EACH(i, n) y[i] = x[i] * by; }
FREE(scale)
// y = x·by·a[0]·b[0]; a and b may be absent.
KERNEL scale_by(const float* x, float* y, float by, const float* a, const float* b, i64 n) {
    float all = by;
    if (a) all *= a[0];
    if (b) all *= b[0];
    EACH(i, n) y[i] = x[i] * all;
}
FREE(scale_by)

KERNEL leaky(const float* x, float* y, float slope, i64 n) { EACH(i, n) y[i] = x[i] > 0.0f ? x[i] : x[i] * slope; }
FREE(leaky)
KERNEL leaky_back(const float* x, const float* g, float* dx, float slope, i64 n) {
    EACH(i, n) dx[i] = x[i] > 0.0f ? g[i] : g[i] * slope;
}
FREE(leaky_back)
KERNEL silu(const float* x, float* y, i64 n) { EACH(i, n) y[i] = x[i] * sigmoid(x[i]); }
FREE(silu)
KERNEL silu_back(const float* x, const float* g, float* dx, i64 n) {
    EACH(i, n) {
        float s = sigmoid(x[i]);
        dx[i] = g[i] * (s * (1.0f + x[i] * (1.0f - s)));
    }
}
FREE(silu_back)

DEVICE float normal_cdf(float x) { return 0.5f * erfcf(-x * 0.70710678118654752f); }

KERNEL gelu(const float* x, float* y, i64 n) { EACH(i, n) y[i] = x[i] * normal_cdf(x[i]); }
FREE(gelu)
KERNEL gelu_back(const float* x, const float* g, float* dx, i64 n) {
    EACH(i, n) {
        float density = 0.3989423f * expf(-0.5f * x[i] * x[i]);
        dx[i] = g[i] * (normal_cdf(x[i]) + x[i] * density);
    }
}
FREE(gelu_back)

// The mask of an element is that of its chunk of 2¹⁴ and its place there.
KERNEL dropout(const float* x, float* y, u64 key, u32 keep_last, float scale, i64 n) {
    EACH(i, n) y[i] = x[i] * factor(plane_mask(key, keep_last, scale, i >> 14), (u32)(i & 16383));
}
FREE(dropout)

// A factor for each plane, drawn as the elements of plane 0.
KERNEL dropout_planes(const float* x, float* y, u64 key, u32 keep_last, float scale, i64 size, i64 pieces) {
    Piece p = piece_of(size, pieces);
    float by = factor(plane_mask(key, keep_last, scale, 0), (u32)p.plane);
    WITHIN(i, p.first, p.last) y[p.plane * size + i] = x[p.plane * size + i] * by;
}
FREE(dropout_planes)

// out = Σ by·term[0] (+ what it holds), over up to eight scalars.
KERNEL weighted_sum(float* out, i64 add, const float* a, const float* b, const float* c, const float* d, double fa,
                    double fb, double fc, double fd) {
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        double sum = add ? (double)out[0] : 0.0;
        if (a) sum += fa * (double)a[0];
        if (b) sum += fb * (double)b[0];
        if (c) sum += fc * (double)c[0];
        if (d) sum += fd * (double)d[0];
        out[0] = (float)sum;
    }
}
FREE(weighted_sum)
