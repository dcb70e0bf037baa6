// Pooling, up-sampling and sampling of maps.

// Both halvings: y of [planes, oh, ow] from x of [planes, h, w].
KERNEL max_pool2(const float* x, float* y, i64 h, i64 w, i64 n) {
    i64 ow = w / 2, oh = h / 2;
    EACH(i, n) {
        i64 row = over(i, ow), column = i - row * ow, plane = over(row, oh);
        const float* t = x + (plane * h + 2 * (row - plane * oh)) * w + 2 * column;
        float first = t[1] > t[0] ? t[1] : t[0], second = t[w + 1] > t[w] ? t[w + 1] : t[w];
        y[i] = second > first ? second : first;
    }
}
FREE(max_pool2)
// The first maximum in reading order gets the gradient; odd rows and columns at the end get none.
KERNEL max_pool2_back(const float* x, const float* g, float* dx, i64 h, i64 w, i64 n) {
    i64 ow = w / 2, oh = h / 2;
    EACH(i, n) {
        i64 line = over(i, w), column = i - line * w, plane = over(line, h), row = line - plane * h;
        i64 r = row / 2, c = column / 2;
        float value = 0.0f;
        if (r < oh && c < ow) {
            const float* t = x + (plane * h + 2 * r) * w + 2 * c;
            int right = t[1] > t[0], below_right = t[w + 1] > t[w];
            float first = right ? t[1] : t[0], second = below_right ? t[w + 1] : t[w];
            int below = second > first;
            int winner = below ? 2 + below_right : right;
            if (winner == 2 * (int)(row - 2 * r) + (int)(column - 2 * c)) value = g[(plane * oh + r) * ow + c];
        }
        dx[i] = value;
    }
}
FREE(max_pool2_back)
KERNEL avg_pool2(const float* x, float* y, i64 h, i64 w, i64 n) {
    i64 ow = w / 2, oh = h / 2;
    EACH(i, n) {
        i64 row = over(i, ow), column = i - row * ow, plane = over(row, oh);
        const float* t = x + (plane * h + 2 * (row - plane * oh)) * w + 2 * column;
        y[i] = 0.25f * (t[0] + t[1] + t[w] + t[w + 1]);
    }
}
FREE(avg_pool2)
KERNEL avg_pool2_back(const float* g, float* dx, i64 h, i64 w, i64 n) {
    i64 ow = w / 2, oh = h / 2;
    EACH(i, n) {
        i64 line = over(i, w), column = i - line * w, plane = over(line, h), row = line - plane * h;
        i64 r = row / 2, c = column / 2;
        dx[i] = r < oh && c < ow ? 0.25f * g[(plane * oh + r) * ow + c] : 0.0f;
    }
}
FREE(avg_pool2_back)

KERNEL nearest2(const float* x, float* y, i64 w, i64 n) {
    EACH(i, n) {
        i64 line = over(i, 2 * w), column = i - line * 2 * w;
        y[i] = x[line / 2 * w + column / 2];
    }
}
FREE(nearest2)
KERNEL nearest2_back(const float* g, float* dx, i64 w, i64 n) {
    EACH(i, n) {
        i64 line = over(i, w), column = i - line * w;
        const float* t = g + 4 * line * w + 2 * column;
        dx[i] = t[0] + t[1] + t[2 * w] + t[2 * w + 1];
    }
}
FREE(nearest2_back)

// An axis of an interpolation from n to m positions, as ops/resize.rs makes it: of each of the m outputs low, high and the
// bits of the weight of high; of each of the n inputs the first output that reads it and how many do.
struct Axis {
    const u32 *low, *high, *weight, *first, *count;
};
DEVICE Axis axis_of(const u32* table, i64 from, i64 to) {
    Axis a = {table, table + to, table + 2 * to, table + 3 * to, table + 3 * to + from};
    return a;
}

KERNEL bilinear(const float* x, const u32* row_table, const u32* column_table, float* y, i64 h, i64 w, i64 oh, i64 ow,
                i64 n) {
    Axis rows = axis_of(row_table, h, oh), columns = axis_of(column_table, w, ow);
    EACH(i, n) {
        i64 line = over(i, ow), c = i - line * ow, plane = over(line, oh), r = line - plane * oh;
        const float *top = x + (plane * h + rows.low[r]) * w, *bottom = x + (plane * h + rows.high[r]) * w;
        float v = __uint_as_float(rows.weight[r]), u = __uint_as_float(columns.weight[c]);
        u32 low = columns.low[c], high = columns.high[c];
        float upper = top[low] * (1.0f - u) + top[high] * u;
        float lower = bottom[low] * (1.0f - u) + bottom[high] * u;
        y[i] = upper * (1.0f - v) + lower * v;
    }
}
FREE(bilinear)

// How much output o reads of input i.
DEVICE float reads(Axis a, i64 o, i64 i) {
    float weight = __uint_as_float(a.weight[o]), sum = 0.0f;
    if (a.low[o] == i) sum += 1.0f - weight;
    if (a.high[o] == i) sum += weight;
    return sum;
}
KERNEL bilinear_back(const float* g, const u32* row_table, const u32* column_table, float* dx, i64 h, i64 w, i64 oh,
                     i64 ow, i64 n) {
    Axis rows = axis_of(row_table, h, oh), columns = axis_of(column_table, w, ow);
    EACH(i, n) {
        i64 line = over(i, w), c = i - line * w, plane = over(line, h), r = line - plane * h;
        i64 first_row = rows.first[r], last_row = first_row + rows.count[r];
        i64 first_column = columns.first[c], last_column = first_column + columns.count[c];
        float sum = 0.0f;
        for (i64 y = first_row; y < last_row; y++) {
            const float* gradient = g + (plane * oh + y) * ow;
            float part = 0.0f;
            for (i64 z = first_column; z < last_column; z++) part += gradient[z] * reads(columns, z, c);
            sum += part * reads(rows, y, r);
        }
        dx[i] = sum;
    }
}
FREE(bilinear_back)

// The four sources of a position of a grid, pixels of an S×S image, in a map of h×w; weights 0 outside.
struct Corner {
    i64 index[4];
    float weight[4];
};
DEVICE void tap(double position, i64 n, i64* low, i64* high, float* weight) {
    if (position < 0.0) position = 0.0;
    if (position > (double)(n - 1)) position = (double)(n - 1);
    *low = least((i64)position, n - 1);
    *high = least(*low + 1, n - 1);
    *weight = (float)(position - (double)*low);
}
DEVICE Corner corner_of(const float* at, i64 side, i64 h, i64 w) {
    Corner c;
    for (int k = 0; k < 4; k++) {
        c.index[k] = 0;
        c.weight[k] = 0.0f;
    }
    if (!(at[0] >= 0.0f) || !(at[1] >= 0.0f)) return c; // negative, or no number
    i64 top, bottom, left, right;
    float v, u;
    tap(((double)at[0] + 0.5) * (double)h / (double)side - 0.5, h, &top, &bottom, &v);
    tap(((double)at[1] + 0.5) * (double)w / (double)side - 0.5, w, &left, &right, &u);
    c.index[0] = top * w + left;
    c.index[1] = top * w + right;
    c.index[2] = bottom * w + left;
    c.index[3] = bottom * w + right;
    c.weight[0] = (1.0f - v) * (1.0f - u);
    c.weight[1] = (1.0f - v) * u;
    c.weight[2] = v * (1.0f - u);
    c.weight[3] = v * u;
    return c;
}
// One thread for a pixel of an image, all its channels.
KERNEL sample(const float* x, const float* grid, float* y, i64 channels, i64 h, i64 w, i64 side, i64 n) {
    i64 pixels = side * side;
    EACH(i, n) {
        i64 image = over(i, pixels), pixel = i - image * pixels;
        Corner p = corner_of(grid + 2 * i, side, h, w);
        for (i64 c = 0; c < channels; c++) {
            const float* plane = x + (image * channels + c) * h * w;
            float first = plane[p.index[0]] * p.weight[0] + plane[p.index[1]] * p.weight[1];
            float second = plane[p.index[2]] * p.weight[2] + plane[p.index[3]] * p.weight[3];
            y[(image * channels + c) * pixels + pixel] = first + second;
        }
    }
}
FREE(sample)
// The largest size of a number that each block meets; infinite where one is infinite or none.
KERNEL largest_parts(const float* x, float* parts, i64 n) {
    float most = 0.0f;
    EACH(i, n) {
        float size = fabsf(x[i]);
        if (!(size < 3.4e38f)) size = __uint_as_float(0x7F800000u);
        if (size > most) most = size;
    }
    most = block_max(most);
    if (threadIdx.x == 0) parts[blockIdx.x] = most;
}
SYNC(largest_parts)
// One block: by which power of two numbers up to the largest become whole ones up to 2⁴⁰; 0 where that is infinite.
KERNEL fixed_point(const float* parts, i64 count, double* scale) {
    float most = 0.0f;
    WITHIN(i, 0, count) if (parts[i] > most) most = parts[i];
    most = block_max(most);
    if (threadIdx.x == 0) {
        int exponent = 0;
        frexp((double)most, &exponent);
        scale[0] = most > 3.4e38f ? 0.0 : most > 0.0f ? ldexp(1.0, 40 - exponent) : 1.0;
    }
}
SYNC(fixed_point)
// Adds whole numbers, which come to the same in any order; sums start at zero. A pixel adds its gradient once in all, so sums
// of 2²² pixels fit 63 bits.
KERNEL sample_back(const float* g, const float* grid, const double* scale, u64* sums, i64 channels, i64 h, i64 w, i64 side,
                   i64 n) {
    i64 pixels = side * side;
    double by = scale[0];
    EACH(i, n) {
        i64 image = over(i, pixels), pixel = i - image * pixels;
        Corner p = corner_of(grid + 2 * i, side, h, w);
        for (i64 c = 0; c < channels; c++) {
            i64 plane = image * channels + c;
            double value = by * (double)g[plane * pixels + pixel];
            for (int k = 0; k < 4; k++)
                if (p.weight[k] != 0.0f)
                    atomicAdd(sums + plane * h * w + p.index[k], (u64)llrint(value * (double)p.weight[k]));
        }
    }
}
FREE(sample_back)
KERNEL from_fixed_point(const u64* sums, const double* scale, float* y, i64 n) {
    double by = scale[0];
    EACH(i, n) y[i] = by > 0.0 ? (float)((double)(i64)sums[i] / by) : __uint_as_float(0x7FC00000u);
}
FREE(from_fixed_point)
