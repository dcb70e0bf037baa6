// Terms among several predictions: MC-Net's mutual consistency, URPC's pyramid, structural similarity.

#define MOST_CLASSES 16
#define MOST_PREDICTIONS 4

// q = p^r/(p^r + (1 − p)^r), and dq/dp.
DEVICE void sharpen(float p, float power, float* q, float* slope) {
    float rest = 1.0f - p;
    float inside = p > 1e-30f ? p : 1e-30f, outside = rest > 1e-30f ? rest : 1e-30f;
    float sharp = sigmoid(power * (logf(inside) - logf(outside)));
    *q = sharp;
    *slope = power * sharp * (1.0f - sharp) / (inside * outside);
}

// p: probabilities [count, B, C, pixels]; g likewise: what the logits get, without 2/n. Parts of Σ(p_i − q_j)².
KERNEL mutual(const float* p, float* g, double* parts, i64 count, i64 classes, i64 pixels, float power, i64 n) {
    double sum = 0.0;
    EACH(i, n) {
        Pixel at = pixel_of(i, pixels);
        i64 start = at.image * classes * pixels + at.at, one = n * classes;
        float dot[MOST_PREDICTIONS] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (i64 c = 0; c < classes; c++) {
            float own[MOST_PREDICTIONS], q[MOST_PREDICTIONS], slope[MOST_PREDICTIONS], total_p = 0.0f, total_q = 0.0f;
            for (i64 k = 0; k < count; k++) {
                own[k] = p[k * one + start + c * pixels];
                sharpen(own[k], power, &q[k], &slope[k]);
                total_p += own[k];
                total_q += q[k];
            }
            for (i64 k = 0; k < count; k++) {
                float others = (float)(count - 1);
                float of_p = others * own[k] - (total_q - q[k]), of_q = others * q[k] - (total_p - own[k]);
                float value = of_p + of_q * slope[k];
                g[k * one + start + c * pixels] = value;
                dot[k] += value * own[k];
                for (i64 j = 0; j < count; j++)
                    if (j != k) sum += (double)((own[k] - q[j]) * (own[k] - q[j]));
            }
        }
        for (i64 k = 0; k < count; k++)
            for (i64 c = 0; c < classes; c++) {
                i64 e = k * one + start + c * pixels;
                g[e] = p[e] * (g[e] - dot[k]);
            }
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}
SYNC(mutual)

KERNEL log_softmax(const float* x, float* y, i64 classes, i64 pixels, i64 n) {
    EACH(i, n) {
        Pixel p = pixel_of(i, pixels);
        i64 start = p.image * classes * pixels + p.at;
        float largest = largest_of(x + start, classes, pixels);
        float by = largest + logf(total_of(x + start, classes, pixels, largest));
        for (i64 c = 0; c < classes; c++) y[start + c * pixels] = x[start + c * pixels] - by;
    }
}
FREE(log_softmax)

// The mean prediction of a pixel from the logarithms l of all: q and ln q of a class.
DEVICE void mean_prediction(const float* l, i64 count, i64 one, float part, float* q, float* log_q) {
    float sum = 0.0f;
    for (i64 s = 0; s < count; s++) sum += expf(l[s * one]) * part;
    *q = sum;
    *log_q = logf(sum > 1e-37f ? sum : 1e-37f);
}
// Of scale s of a pixel: v = Σ q(ln q − l) and d = Σ (q − p)².
DEVICE void spread(const float* l, const float* q, const float* log_q, i64 classes, i64 pixels, float* v, float* d) {
    *v = 0.0f;
    *d = 0.0f;
    for (i64 c = 0; c < classes; c++) {
        float rest = q[c] - expf(l[c * pixels]);
        *v += q[c] * (log_q[c] - l[c * pixels]);
        *d += rest * rest;
    }
}
// logs: [count, B, C, pixels]. Parts of Σ e·d, Σ e, Σ v of each scale: [blocks, count, 3].
KERNEL pyramid_sums(const float* logs, double* parts, i64 count, i64 classes, i64 pixels, i64 n) {
    double sums[MOST_PREDICTIONS][3];
    for (int s = 0; s < MOST_PREDICTIONS; s++) sums[s][0] = sums[s][1] = sums[s][2] = 0.0;
    i64 one = n * classes;
    EACH(i, n) {
        Pixel at = pixel_of(i, pixels);
        const float* l = logs + at.image * classes * pixels + at.at;
        float q[MOST_CLASSES], log_q[MOST_CLASSES], v, d;
        for (i64 c = 0; c < classes; c++) mean_prediction(l + c * pixels, count, one, 1.0f / (float)count, q + c, log_q + c);
        for (i64 s = 0; s < count; s++) {
            spread(l + s * one, q, log_q, classes, pixels, &v, &d);
            float e = expf(-v);
            sums[s][0] += (double)(e * d);
            sums[s][1] += (double)e;
            sums[s][2] += (double)v;
        }
    }
    for (i64 s = 0; s < count; s++)
        for (int k = 0; k < 3; k++) {
            double sum = block_sum(sums[s][k]);
            if (threadIdx.x == 0) parts[(blockIdx.x * count + s) * 3 + k] = sum;
        }
}
SYNC(pyramid_sums)
// The loss, and of each scale how it changes with e·d, with e in the denominator, with v.
KERNEL pyramid_slopes(const double* sums, i64 count, double pixels, double classes, double eps, float* loss, float* slopes) {
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        double value = 0.0, weight = 1.0 / (double)count;
        for (i64 s = 0; s < count; s++) {
            double a = sums[3 * s] / (pixels * classes), m = sums[3 * s + 1] / pixels + eps;
            value += weight * (a / m + sums[3 * s + 2] / pixels);
            slopes[3 * s] = (float)(weight / (pixels * classes * m));
            slopes[3 * s + 1] = (float)(weight * a / (m * m * pixels));
            slopes[3 * s + 2] = (float)(weight / pixels);
        }
        loss[0] = (float)value;
    }
}
FREE(pyramid_slopes)
KERNEL pyramid_back(const float* logs, const float* slopes, const float* upstream, float* dx, i64 count, i64 classes,
                    i64 pixels, i64 n) {
    i64 one = n * classes;
    float by = upstream[0], share = 1.0f / (float)count;
    EACH(i, n) {
        Pixel at = pixel_of(i, pixels);
        i64 start = at.image * classes * pixels + at.at;
        const float* l = logs + start;
        float q[MOST_CLASSES], log_q[MOST_CLASSES], of_q[MOST_CLASSES], w[MOST_PREDICTIONS], k[MOST_PREDICTIONS];
        for (i64 c = 0; c < classes; c++) {
            mean_prediction(l + c * pixels, count, one, share, q + c, log_q + c);
            of_q[c] = 0.0f;
        }
        for (i64 s = 0; s < count; s++) {
            float v, d;
            spread(l + s * one, q, log_q, classes, pixels, &v, &d);
            float e = expf(-v);
            w[s] = 2.0f * slopes[3 * s] * by * e;
            k[s] = slopes[3 * s + 2] * by + e * (slopes[3 * s + 1] * by - slopes[3 * s] * by * d);
            for (i64 c = 0; c < classes; c++) {
                float own = l[s * one + c * pixels];
                of_q[c] += w[s] * (q[c] - expf(own)) + k[s] * (log_q[c] - own + 1.0f);
            }
        }
        for (i64 s = 0; s < count; s++) {
            float dot = 0.0f;
            for (i64 c = 0; c < classes; c++) {
                float p = expf(l[s * one + c * pixels]);
                dot += (of_q[c] * share - w[s] * (q[c] - p)) * p;
            }
            for (i64 c = 0; c < classes; c++) {
                float p = expf(l[s * one + c * pixels]), g = of_q[c] * share - w[s] * (q[c] - p);
                dx[s * one + start + c * pixels] = p * (g - dot) + k[s] * (p - q[c]);
            }
        }
    }
}
FREE(pyramid_back)

// The Gaussian mean along rows (step 1) or columns (step w) of planes of `length` lines, zeros outside; its own adjoint.
KERNEL blur(const float* x, const float* taps, float* y, i64 h, i64 w, i64 along_rows, i64 n) {
    EACH(i, n) {
        i64 line = over(i, w), column = i - line * w, row = line - over(line, h) * h;
        i64 place = along_rows ? column : row, length = along_rows ? w : h, step = along_rows ? 1 : w;
        float sum = 0.0f;
        for (i64 k = 0; k < 11; k++) {
            i64 from = place + k - 5;
            if (from >= 0 && from < length) sum += taps[k] * x[i + (k - 5) * step];
        }
        y[i] = sum;
    }
}
FREE(blur)
// From the means of x, y, x², y², xy: parts of Σ SSIM; the slopes by the means of x, of x² and of xy take the place of
// mx, mxx and mxy.
KERNEL ssim(float* mx, const float* my, float* mxx, const float* myy, float* mxy, double* parts, i64 n) {
    const float c1 = 1e-4f, c2 = 9e-4f;
    double sum = 0.0;
    EACH(i, n) {
        float a = mx[i], b = my[i];
        float top1 = 2.0f * a * b + c1, top2 = 2.0f * (mxy[i] - a * b) + c2;
        float bottom1 = a * a + b * b + c1, bottom2 = mxx[i] - a * a + (myy[i] - b * b) + c2;
        float bottom = bottom1 * bottom2, value = top1 * top2 / bottom;
        sum += (double)value;
        mx[i] = 2.0f * (b * (top2 - top1) / bottom + value * a * (1.0f / bottom2 - 1.0f / bottom1));
        mxx[i] = -value / bottom2;
        mxy[i] = 2.0f * top1 / bottom;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}
SYNC(ssim)
KERNEL ssim_back(const float* x, const float* y, const float* of_mean, const float* of_square, const float* of_product,
                 float* g, i64 n) {
    EACH(i, n) g[i] = of_mean[i] + 2.0f * x[i] * of_square[i] + y[i] * of_product[i];
}
FREE(ssim_back)
