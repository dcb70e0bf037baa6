// Batch and group normalisation with what follows them. Per plane (image × channel): z = (x − mean)·a + b, then the
// activation, then the mask. `planes` holds (mean, inverse, a, b) of each plane.

// Mean and Σ(x − mean)² of each piece of each plane, around its first number, so that a large mean costs no digits.
KERNEL plane_moments(const float* x, i64 size, i64 pieces, double* out) {
    Piece p = piece_of(size, pieces);
    const float* plane = x + p.plane * size;
    float centre = plane[p.first], sum = 0.0f, squares = 0.0f;
    WITHIN(i, p.first, p.last) {
        float d = plane[i] - centre;
        sum += d;
        squares += d * d;
    }
    double s = block_sum(sum), q = block_sum(squares);
    if (threadIdx.x == 0) {
        double n = (double)(p.last - p.first), rest = s / n;
        double spread = q - n * rest * rest;
        out[2 * blockIdx.x] = centre + rest;
        out[2 * blockIdx.x + 1] = spread > 0.0 ? spread : 0.0;
    }
}
SYNC(plane_moments)

// Mean and Σ(x − mean)² of `count` planes from `first` on, `step` planes apart.
DEVICE void join_moments(const double* moments, i64 first, i64 step, i64 count, i64 size, i64 pieces, double* mean,
                         double* squares) {
    double sum = 0.0, spread = 0.0;
    WITHIN(k, 0, count * pieces) {
        i64 at = (first + k / pieces * step) * pieces + k % pieces;
        sum += moments[2 * at] * (double)piece_length(size, k % pieces);
    }
    *mean = block_sum(sum) / (double)(count * size);
    WITHIN(k, 0, count * pieces) {
        i64 at = (first + k / pieces * step) * pieces + k % pieces;
        double d = moments[2 * at] - *mean;
        spread += moments[2 * at + 1] + d * d * (double)piece_length(size, k % pieces);
    }
    *squares = block_sum(spread);
}

DEVICE void write_plane(float* planes, i64 plane, double mean, double inverse, double a, float b) {
    planes[4 * plane] = (float)mean;
    planes[4 * plane + 1] = (float)inverse;
    planes[4 * plane + 2] = (float)a;
    planes[4 * plane + 3] = b;
}

// One block for each channel. With `moments` of the batch: its statistics, and the running ones move; else the running ones.
// A `bias` that was left out before, for the norm takes it away again, stands in the running mean.
KERNEL batch_statistics(const double* moments, const float* bias, const float* gamma, const float* beta, float* running_mean,
                        float* running_var, float* planes, i64 batch, i64 channels, i64 size, i64 pieces, double eps,
                        double momentum) {
    i64 c = blockIdx.x;
    double mean, var;
    if (moments) {
        double squares, count = (double)(batch * size);
        join_moments(moments, c, channels, batch, size, pieces, &mean, &squares);
        var = squares / count;
        if (threadIdx.x == 0) {
            double unbiased = squares / (count - 1.0);
            double all = bias ? mean + (double)bias[c] : mean;
            running_mean[c] = (float)((1.0 - momentum) * (double)running_mean[c] + momentum * all);
            running_var[c] = (float)((1.0 - momentum) * (double)running_var[c] + momentum * unbiased);
        }
    } else {
        mean = running_mean[c];
        var = running_var[c];
    }
    double inverse = 1.0 / sqrt(var + eps);
    WITHIN(image, 0, batch) write_plane(planes, image * channels + c, mean, inverse, inverse * gamma[c], beta[c]);
}
SYNC(batch_statistics)

// One block for each group of each image. `scale` and `shift`, [batch, channels], may be absent.
KERNEL group_statistics(const double* moments, const float* gamma, const float* beta, const float* scale,
                        const float* shift, float* planes, i64 channels, i64 width, i64 size, i64 pieces, double eps) {
    i64 first = blockIdx.x * width;
    double mean, squares;
    join_moments(moments, first, 1, width, size, pieces, &mean, &squares);
    double inverse = 1.0 / sqrt(squares / (double)(width * size) + eps);
    WITHIN(k, 0, width) {
        i64 plane = first + k, c = plane % channels;
        float by = scale ? 1.0f + scale[plane] : 1.0f;
        float b = beta[c] * by + (shift ? shift[plane] : 0.0f);
        write_plane(planes, plane, mean, inverse, inverse * gamma[c] * by, b);
    }
}
SYNC(group_statistics)

// z = x·(1 + scale) + shift and the like as planes: mean 0, inverse 1.
KERNEL affine_planes(const float* scale, const float* shift, float* planes, i64 n) {
    EACH(i, n) write_plane(planes, i, 0.0, 1.0, scale ? 1.0f + scale[i] : 1.0f, shift ? shift[i] : 0.0f);
}
FREE(affine_planes)

// activation: 0 for LeakyReLU with `slope` (1: none), 1 for SiLU.
DEVICE float activate(float z, i64 activation, float slope) {
    if (activation) return z * sigmoid(z);
    return z > 0.0f ? z : z * slope;
}
DEVICE float activation_slope(float z, i64 activation, float slope) {
    if (activation) {
        float s = sigmoid(z);
        return s * (1.0f + z * (1.0f - s));
    }
    return z > 0.0f ? 1.0f : slope;
}

KERNEL normalise(const float* x, const float* planes, float* y, i64 size, i64 pieces, i64 activation, float slope, i64 masked,
            u64 key, u32 keep_last, float keep_scale) {
    Piece p = piece_of(size, pieces);
    const float* plane = planes + 4 * p.plane;
    float mean = plane[0], a = plane[2], b = plane[3];
    Mask mask = plane_mask(key, keep_last, keep_scale, p.plane);
    WITHIN(i, p.first, p.last) {
        float value = activate((x[p.plane * size + i] - mean) * a + b, activation, slope);
        y[p.plane * size + i] = masked ? value * factor(mask, (u32)i) : value;
    }
}
FREE(normalise)

// Σdz and Σdz·x̂ of each piece; dz itself is computed again by norm_combine, which is cheaper than to keep it.
KERNEL norm_back(const float* x, const float* g, const float* planes, i64 size, i64 pieces, i64 activation,
                 float slope, i64 masked, u64 key, u32 keep_last, float keep_scale, double* sums) {
    Piece p = piece_of(size, pieces);
    const float* plane = planes + 4 * p.plane;
    float mean = plane[0], inverse = plane[1], a = plane[2], b = plane[3];
    Mask mask = plane_mask(key, keep_last, keep_scale, p.plane);
    float sum = 0.0f, dot = 0.0f;
    WITHIN(i, p.first, p.last) {
        float d = x[p.plane * size + i] - mean;
        float slope_here = activation_slope(d * a + b, activation, slope);
        float value = g[p.plane * size + i] * (masked ? slope_here * factor(mask, (u32)i) : slope_here);
        sum += value;
        dot += value * d;
    }
    double s = block_sum(sum), t = block_sum(dot);
    if (threadIdx.x == 0) {
        sums[2 * blockIdx.x] = s;
        sums[2 * blockIdx.x + 1] = t * inverse;
    }
}
SYNC(norm_back)

// Σdz and Σdz·x̂ of each plane, by one thread each: there are few pieces.
KERNEL plane_totals(const double* sums, i64 pieces, double* totals, i64 n) {
    EACH(plane, n) {
        double first = 0.0, second = 0.0;
        for (i64 k = 0; k < pieces; k++) {
            first += sums[2 * (plane * pieces + k)];
            second += sums[2 * (plane * pieces + k) + 1];
        }
        totals[2 * plane] = first;
        totals[2 * plane + 1] = second;
    }
}
FREE(plane_totals)

// One block for each channel: its parameters' gradients. `scale` as in group_statistics.
KERNEL norm_parameters(const double* totals, const float* scale, float* dgamma, float* dbeta, i64 batch, i64 channels) {
    i64 c = blockIdx.x;
    double first = 0.0, second = 0.0;
    WITHIN(image, 0, batch) {
        i64 plane = image * channels + c;
        double by = scale ? (double)(1.0f + scale[plane]) : 1.0;
        first += totals[2 * plane] * by;
        second += totals[2 * plane + 1] * by;
    }
    first = block_sum(first);
    second = block_sum(second);
    if (threadIdx.x == 0) {
        if (dbeta) dbeta[c] = (float)first;
        if (dgamma) dgamma[c] = (float)second;
    }
}
SYNC(norm_parameters)

// Those of a scale and shift for each plane.
KERNEL modulation_parameters(const double* totals, const float* gamma, const float* beta, float* dscale, float* dshift,
                             i64 channels, i64 n) {
    EACH(plane, n) {
        i64 c = plane % channels;
        double g = gamma ? gamma[c] : 1.0, b = beta ? beta[c] : 0.0;
        if (dscale) dscale[plane] = (float)(g * totals[2 * plane + 1] + b * totals[2 * plane]);
        if (dshift) dshift[plane] = (float)totals[2 * plane];
    }
}
FREE(modulation_parameters)

// What the mean and the variance hand back, (first, second) for each plane: dx = dz·a − first − (x − mean)·second.
// One block for each channel of a batch norm.
KERNEL batch_means(const double* totals, const float* planes, float* means, i64 batch, i64 channels, double count) {
    i64 c = blockIdx.x;
    double first = 0.0, second = 0.0;
    WITHIN(image, 0, batch) {
        first += totals[2 * (image * channels + c)];
        second += totals[2 * (image * channels + c) + 1];
    }
    first = block_sum(first);
    second = block_sum(second);
    WITHIN(image, 0, batch) {
        i64 plane = image * channels + c;
        double inverse = planes[4 * plane + 1], a = planes[4 * plane + 2];
        means[2 * plane] = (float)(first / count * a);
        means[2 * plane + 1] = (float)(second / count * inverse * a);
    }
}
SYNC(batch_means)
// One block for each group of each image.
KERNEL group_means(const double* totals, const float* planes, const float* gamma, const float* scale, float* means,
                   i64 channels, i64 width, double count) {
    double first = 0.0, second = 0.0;
    i64 start = blockIdx.x * width;
    WITHIN(k, 0, width) {
        i64 plane = start + k;
        double by = (double)gamma[plane % channels] * (scale ? (double)(1.0f + scale[plane]) : 1.0);
        first += totals[2 * plane] * by;
        second += totals[2 * plane + 1] * by;
    }
    first = block_sum(first);
    second = block_sum(second);
    WITHIN(k, 0, width) {
        double inverse = planes[4 * (start + k) + 1];
        means[2 * (start + k)] = (float)(first / count * inverse);
        means[2 * (start + k) + 1] = (float)(second / count * inverse * inverse);
    }
}
SYNC(group_means)

// dx; `means` may be absent (statistics that do not depend on x).
KERNEL norm_combine(const float* x, const float* g, float* dx, const float* planes, const float* means, i64 size,
                    i64 pieces, i64 activation, float slope, i64 masked, u64 key, u32 keep_last, float keep_scale) {
    Piece p = piece_of(size, pieces);
    float mean = planes[4 * p.plane], a = planes[4 * p.plane + 2], b = planes[4 * p.plane + 3];
    Mask mask = plane_mask(key, keep_last, keep_scale, p.plane);
    float first = means ? means[2 * p.plane] : 0.0f, second = means ? means[2 * p.plane + 1] : 0.0f;
    WITHIN(i, p.first, p.last) {
        i64 at = p.plane * size + i;
        float d = x[at] - mean;
        float slope_here = activation_slope(d * a + b, activation, slope);
        float dz = g[at] * (masked ? slope_here * factor(mask, (u32)i) : slope_here);
        dx[at] = dz * a - first - d * second;
    }
}
FREE(norm_combine)

// Σ over each piece of each plane.
KERNEL piece_sums(const float* x, i64 size, i64 pieces, double* sums) {
    Piece p = piece_of(size, pieces);
    float sum = 0.0f;
    WITHIN(i, p.first, p.last) sum += x[p.plane * size + i];
    double all = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = all;
}
SYNC(piece_sums)
// Their sums over the images (or the outer index) of each channel, by one block each.
KERNEL channel_totals(const double* sums, i64 batch, i64 channels, i64 pieces, float* out) {
    i64 c = blockIdx.x;
    double sum = 0.0;
    WITHIN(k, 0, batch * pieces) sum += sums[(k / pieces * channels + c) * pieces + k % pieces];
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[c] = (float)sum;
}
SYNC(channel_totals)

// y + bias of its channel, then LeakyReLU (slope 1: none), in place.
KERNEL bias_leaky(float* y, const float* bias, float slope, i64 channels, i64 size, i64 pieces) {
    Piece p = piece_of(size, pieces);
    float by = bias ? bias[p.plane % channels] : 0.0f;
    WITHIN(i, p.first, p.last) {
        float value = y[p.plane * size + i] + by;
        y[p.plane * size + i] = value > 0.0f ? value : value * slope;
    }
}
FREE(bias_leaky)

// A convolution's weights and bias with the running statistics of the norm behind it folded in; one block a channel.
KERNEL fold_norm(const float* w, const float* b, const float* gamma, const float* beta, const float* mean,
                 const float* var, float* folded, float* bias, i64 each, double eps) {
    i64 o = blockIdx.x;
    double by = (double)gamma[o] / sqrt((double)var[o] + eps);
    WITHIN(i, 0, each) folded[o * each + i] = w[o * each + i] * (float)by;
    if (threadIdx.x == 0) bias[o] = (float)((double)(b[o] - mean[o]) * by + (double)beta[o]);
}
FREE(fold_norm)
