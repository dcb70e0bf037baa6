// Attention and layer normalisation.

// Softmax of rows, in place: row r of `width` numbers, times `by`. With `bias` [heads, rows of a window, width] and
// `regions` of the windows: Swin's scores, rows ordered (head, window, token); tokens of other regions are masked.
KERNEL softmax_rows(float* x, i64 width, float by, const float* bias, const u8* regions, i64 windows, i64 of_image) {
    float* row = x + (i64)blockIdx.x * width;
    i64 token = blockIdx.x % width, window = blockIdx.x / width % (windows > 0 ? windows : 1);
    i64 head = windows > 0 ? blockIdx.x / width / windows : 0;
    const float* add = bias ? bias + (head * width + token) * width : nullptr;
    const u8* region = regions ? regions + window % of_image * width : nullptr;
    float largest = -INFINITY;
    WITHIN(i, 0, width) {
        float value = row[i] * by;
        if (add) value += add[i];
        if (region && region[i] != region[token]) value += -100.0f;
        row[i] = value;
        largest = value > largest ? value : largest;
    }
    largest = block_max(largest);
    double total = 0.0;
    WITHIN(i, 0, width) {
        row[i] = expf(row[i] - largest);
        total += (double)row[i];
    }
    float scale = (float)(1.0 / block_sum(total));
    WITHIN(i, 0, width) row[i] *= scale;
}
SYNC(softmax_rows)
// dS = P·(dP − Σ dP·P)·by, in place in dP.
KERNEL softmax_rows_back(const float* p, float* g, i64 width, float by) {
    i64 start = (i64)blockIdx.x * width;
    double dot = 0.0;
    WITHIN(i, 0, width) dot += (double)(p[start + i] * g[start + i]);
    float all = (float)block_sum(dot);
    WITHIN(i, 0, width) g[start + i] = p[start + i] * (g[start + i] - all) * by;
}
SYNC(softmax_rows_back)

// Biases of pairs of tokens from the table of relative positions, [offsets, heads] to [heads, pairs].
KERNEL spread_table(const float* table, const u32* pairs, float* bias, i64 heads, i64 count, i64 n) {
    EACH(i, n) bias[i] = table[pairs[i % count] * heads + i / count];
}
FREE(spread_table)
// Their gradient: `ds` [heads, windows, pairs] before it was scaled, summed over the windows and over the pairs of an
// offset; one block for each number of the table.
KERNEL gather_table(const float* ds, const u32* pairs, float* table, i64 heads, i64 windows, i64 count) {
    i64 offset = blockIdx.x / heads, head = blockIdx.x % heads;
    double sum = 0.0;
    WITHIN(pair, 0, count)
        if (pairs[pair] == offset)
            for (i64 w = 0; w < windows; w++) sum += (double)ds[(head * windows + w) * count + pair];
    sum = block_sum(sum);
    if (threadIdx.x == 0) table[blockIdx.x] = (float)sum;
}
SYNC(gather_table)

// (x − mean)/√(variance + ε)·γ + β of each row of d numbers, by one block each; `moments` keeps mean and inverse.
KERNEL layer_norm(const float* x, const float* gamma, const float* beta, float* y, float* moments, i64 d, float eps) {
    const float* row = x + (i64)blockIdx.x * d;
    double sum = 0.0, squares = 0.0;
    WITHIN(i, 0, d) sum += (double)row[i];
    float mean = (float)(block_sum(sum) / (double)d);
    WITHIN(i, 0, d) squares += (double)((row[i] - mean) * (row[i] - mean));
    float inverse = (float)(1.0 / sqrt(block_sum(squares) / (double)d + (double)eps));
    WITHIN(i, 0, d) y[(i64)blockIdx.x * d + i] = (row[i] - mean) * inverse * gamma[i] + beta[i];
    if (threadIdx.x == 0) {
        moments[2 * blockIdx.x] = mean;
        moments[2 * blockIdx.x + 1] = inverse;
    }
}
SYNC(layer_norm)
KERNEL layer_norm_back(const float* x, const float* gamma, const float* g, const float* moments, float* dx, i64 d) {
    i64 start = (i64)blockIdx.x * d;
    float mean = moments[2 * blockIdx.x], inverse = moments[2 * blockIdx.x + 1];
    double sum = 0.0, dot = 0.0;
    WITHIN(i, 0, d) {
        float value = g[start + i] * gamma[i];
        sum += (double)value;
        dot += (double)(value * (x[start + i] - mean));
    }
    float first = (float)(block_sum(sum) / (double)d);
    float second = (float)(block_sum(dot) / (double)d) * inverse * inverse;
    WITHIN(i, 0, d)
        dx[start + i] = (g[start + i] * gamma[i] - first - (x[start + i] - mean) * second) * inverse;
}
SYNC(layer_norm_back)
// Parts of dγ and dβ over `rows_each` rows: [parts, 2, d]; a grid of parts × columns.
KERNEL layer_norm_parameters(const float* x, const float* g, const float* moments, double* parts, i64 rows, i64 rows_each,
                             i64 d, i64 n) {
    EACH(i, n) {
        i64 part = over(i, d), column = i - part * d;
        double dgamma = 0.0, dbeta = 0.0;
        for (i64 r = part * rows_each; r < least((part + 1) * rows_each, rows); r++) {
            float value = g[r * d + column];
            dgamma += (double)(value * (x[r * d + column] - moments[2 * r]) * moments[2 * r + 1]);
            dbeta += (double)value;
        }
        parts[part * 2 * d + column] = dgamma;
        parts[(part * 2 + 1) * d + column] = dbeta;
    }
}
FREE(layer_norm_parameters)
KERNEL to_single(const double* x, float* y, i64 n) { EACH(i, n) y[i] = (float)x[i]; }
FREE(to_single)
// Parts of the sums of columns over `rows_each` rows: [parts, d].
KERNEL column_parts(const float* x, double* parts, i64 rows, i64 rows_each, i64 d, i64 n) {
    EACH(i, n) {
        i64 part = over(i, d), column = i - part * d;
        double sum = 0.0;
        for (i64 r = part * rows_each; r < least((part + 1) * rows_each, rows); r++) sum += (double)x[r * d + column];
        parts[i] = sum;
    }
}
FREE(column_parts)
// x + bias of its column, in place.
KERNEL add_bias(float* x, const float* bias, i64 d, i64 n) { EACH(i, n) x[i] += bias[i % d]; }
FREE(add_bias)
