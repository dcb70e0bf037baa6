// Losses over class maps [B, C, pixels]: one thread for a pixel, which goes over its classes. Losses are summed block by
// block and then joined by one block (scaled_total), always in the same order.

struct Pixel {
    i64 image, at;
};
DEVICE Pixel pixel_of(i64 i, i64 pixels) {
    Pixel p;
    p.image = over(i, pixels);
    p.at = i - p.image * pixels;
    return p;
}

DEVICE float largest_of(const float* x, i64 classes, i64 stride) {
    float largest = x[0];
    for (i64 c = 1; c < classes; c++) largest = x[c * stride] > largest ? x[c * stride] : largest;
    return largest;
}
DEVICE float total_of(const float* x, i64 classes, i64 stride, float largest) {
    float total = 0.0f;
    for (i64 c = 0; c < classes; c++) total += expf(x[c * stride] - largest);
    return total;
}

KERNEL softmax(const float* x, float* y, i64 classes, i64 pixels, i64 n) {
    EACH(i, n) {
        Pixel p = pixel_of(i, pixels);
        i64 start = p.image * classes * pixels + p.at;
        float largest = largest_of(x + start, classes, pixels), total = total_of(x + start, classes, pixels, largest);
        for (i64 c = 0; c < classes; c++) y[start + c * pixels] = expf(x[start + c * pixels] - largest) / total;
    }
}
FREE(softmax)
KERNEL softmax_back(const float* y, const float* g, float* dx, i64 classes, i64 pixels, i64 n) {
    EACH(i, n) {
        Pixel p = pixel_of(i, pixels);
        i64 start = p.image * classes * pixels + p.at;
        float dot = 0.0f;
        for (i64 c = 0; c < classes; c++) dot += g[start + c * pixels] * y[start + c * pixels];
        for (i64 c = 0; c < classes; c++) dx[start + c * pixels] = y[start + c * pixels] * (g[start + c * pixels] - dot);
    }
}
FREE(softmax_back)
// The most likely class (the first of equal ones) and its probability.
KERNEL confidence(const float* x, u8* classes_out, float* confidence_out, i64 classes, i64 pixels, i64 n) {
    EACH(i, n) {
        Pixel p = pixel_of(i, pixels);
        const float* own = x + p.image * classes * pixels + p.at;
        float largest = largest_of(own, classes, pixels), total = total_of(own, classes, pixels, largest);
        float best = expf(own[0] - largest) / total;
        u8 winner = 0;
        for (i64 c = 1; c < classes; c++) {
            float q = expf(own[c * pixels] - largest) / total;
            if (q > best) {
                best = q;
                winner = (u8)c;
            }
        }
        classes_out[i] = winner;
        confidence_out[i] = best;
    }
}
FREE(confidence)

// Cross-entropy over kept pixels (`keep` absent: all): parts (Σ loss, count) of each block, and softmax − hit in `g`, where
// it is wanted. A class that does not exist makes the loss no number.
KERNEL cross_entropy(const float* x, const u8* target, const u8* keep, float* g, double* parts, i64 classes, i64 pixels,
                     i64 n) {
    double loss = 0.0, count = 0.0;
    EACH(i, n) {
        Pixel p = pixel_of(i, pixels);
        i64 start = p.image * classes * pixels + p.at;
        const float* own = x + start;
        float largest = largest_of(own, classes, pixels), total = total_of(own, classes, pixels, largest);
        int on = !keep || keep[i] != 0;
        i64 t = target[i];
        if (on) {
            loss += t < classes ? (double)(largest + logf(total)) - (double)own[t * pixels] : (double)NAN;
            count += 1.0;
        }
        if (g)
            for (i64 c = 0; c < classes; c++) {
                float q = expf(own[c * pixels] - largest) / total;
                g[start + c * pixels] = on ? (c == t ? q - 1.0f : q) : 0.0f;
            }
    }
    loss = block_sum(loss);
    count = block_sum(count);
    if (threadIdx.x == 0) {
        parts[2 * blockIdx.x] = loss;
        parts[2 * blockIdx.x + 1] = count;
    }
}
SYNC(cross_entropy)
// The loss, and what each pixel weighs: out = [Σ loss/(count + eps), 1/(count + eps)].
KERNEL mean_of_kept(const double* total, double eps, float* out) {
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        out[0] = (float)(total[0] / (total[1] + eps));
        out[1] = (float)(1.0 / (total[1] + eps));
    }
}
FREE(mean_of_kept)

// Parts of Σst, Σs², Σt of each class over kept pixels: [blocks, classes, 3].
KERNEL dice_sums(const float* p, const u8* target, const u8* keep, double* parts, i64 classes, i64 pixels, i64 n) {
    for (i64 c = 0; c < classes; c++) {
        float both = 0.0f, square = 0.0f, hits = 0.0f;
        EACH(i, n) {
            Pixel at = pixel_of(i, pixels);
            float q = p[(at.image * classes + c) * pixels + at.at];
            float on = !keep || keep[i] != 0 ? 1.0f : 0.0f, hit = target[i] == c ? on : 0.0f;
            both += q * hit;
            square += q * q * on;
            hits += hit;
        }
        double a = block_sum(both), b = block_sum(square), h = block_sum(hits);
        if (threadIdx.x == 0) {
            double* out = parts + (blockIdx.x * classes + c) * 3;
            out[0] = a;
            out[1] = b;
            out[2] = h;
        }
    }
}
SYNC(dice_sums)
// The loss, and (factor of t, factor of p) of each class.
KERNEL dice_factors(const double* sums, i64 classes, double eps, float* loss, float* factors) {
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        double all = 0.0;
        for (i64 c = 0; c < classes; c++) {
            double top = 2.0 * sums[3 * c] + eps, bottom = sums[3 * c + 1] + sums[3 * c + 2] + eps;
            double by = 2.0 / (bottom * (double)classes);
            all += (1.0 - top / bottom) / (double)classes;
            factors[2 * c] = (float)-by;
            factors[2 * c + 1] = (float)(by * top / bottom);
        }
        loss[0] = (float)all;
    }
}
FREE(dice_factors)
KERNEL dice_back(const float* p, const u8* target, const u8* keep, const float* factors, const float* upstream, float* dx,
                 i64 classes, i64 pixels, i64 n) {
    float by = upstream[0];
    EACH(i, n) {
        Pixel at = pixel_of(i, pixels);
        i64 start = at.image * classes * pixels + at.at;
        float on = !keep || keep[i] != 0 ? by : 0.0f, dot = 0.0f;
        for (i64 c = 0; c < classes; c++) {
            float q = p[start + c * pixels];
            dot += ((target[i] == c ? factors[2 * c] : 0.0f) + factors[2 * c + 1] * q) * on * q;
        }
        for (i64 c = 0; c < classes; c++) {
            float q = p[start + c * pixels];
            float slope = ((target[i] == c ? factors[2 * c] : 0.0f) + factors[2 * c + 1] * q) * on;
            dx[start + c * pixels] = q * (slope - dot);
        }
    }
}
FREE(dice_back)

// g = x − target over kept pixels of [B, C, pixels] (0 elsewhere), parts of Σg².
KERNEL squares(const float* x, const float* target, const u8* keep, float* g, double* parts, i64 classes, i64 pixels,
               i64 n) {
    double sum = 0.0;
    EACH(i, n) {
        float d = x[i] - target[i];
        if (keep) {
            i64 plane = over(i, pixels);
            if (keep[over(plane, classes) * pixels + (i - plane * pixels)] == 0) d = 0.0f;
        }
        g[i] = d;
        sum += (double)(d * d);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}
SYNC(squares)
