// What only moves numbers.

// Column `from`.. of rows of `source_row` numbers to column `to`.. of rows of `target_row`; `add` adds to what is there.
KERNEL copy_columns(const float* source, i64 source_row, i64 from, float* target, i64 target_row, i64 to, i64 width,
                    i64 add, i64 pieces) {
    Piece p = piece_of(width, pieces);
    const float* s = source + p.plane * source_row + from;
    float* t = target + p.plane * target_row + to;
    WITHIN(i, p.first, p.last) t[i] = add ? t[i] + s[i] : s[i];
}
FREE(copy_columns)

// Row i of an image is row from[i] of it in the source.
KERNEL rearrange(const float* x, const u32* from, i64 rows, i64 width, float* y, i64 n) {
    EACH(i, n) {
        i64 row = over(i, width), column = i - row * width;
        i64 image = over(row, rows);
        y[i] = x[(image * rows + from[row - image * rows]) * width + column];
    }
}
FREE(rearrange)

DEVICE u16 to_bf16(float x) {
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (u16)((bits >> 16) | 64); // a NaN stays one
    return (u16)((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

// Matrices of channels by positions, cut into squares that a block turns over each: where a block's square begins and how
// much of it there is.
#define TILE 32
struct Square {
    i64 first, turned;
    int channels, positions;
};
DEVICE Square square_of(i64 channels, i64 positions, i64 rows, i64 columns) {
    i64 matrix = blockIdx.x / (rows * columns), at = blockIdx.x - matrix * rows * columns;
    i64 channel = at / columns * TILE, position = at % columns * TILE;
    Square s;
    s.first = (matrix * channels + channel) * positions + position;
    s.turned = (matrix * positions + position) * channels + channel;
    s.channels = (int)least(TILE, channels - channel);
    s.positions = (int)least(TILE, positions - position);
    return s;
}
// [batch, channels, positions] in single precision to [batch, positions, channels] in bf16, and back.
KERNEL to_channels_last(const float* x, u16* y, i64 channels, i64 positions, i64 rows, i64 columns) {
    __shared__ u16 tile[TILE][TILE + 2]; // columns lie in banks of their own
    Square s = square_of(channels, positions, rows, columns);
    for (int e = threadIdx.x; e < TILE * TILE; e += blockDim.x) {
        int c = e / TILE, p = e % TILE;
        if (c < s.channels && p < s.positions) tile[c][p] = to_bf16(x[s.first + c * positions + p]);
    }
    __syncthreads();
    for (int e = threadIdx.x; e < TILE * TILE; e += blockDim.x) {
        int p = e / TILE, c = e % TILE;
        if (c < s.channels && p < s.positions) y[s.turned + p * channels + c] = tile[c][p];
    }
}
SYNC(to_channels_last)
KERNEL from_channels_last(const u16* x, float* y, i64 channels, i64 positions, i64 rows, i64 columns) {
    __shared__ u16 tile[TILE][TILE + 2];
    Square s = square_of(channels, positions, rows, columns);
    for (int e = threadIdx.x; e < TILE * TILE; e += blockDim.x) {
        int p = e / TILE, c = e % TILE;
        if (c < s.channels && p < s.positions) tile[c][p] = x[s.turned + p * channels + c];
    }
    __syncthreads();
    for (int e = threadIdx.x; e < TILE * TILE; e += blockDim.x) {
        int c = e / TILE, p = e % TILE;
        if (c < s.channels && p < s.positions) y[s.first + c * positions + p] = __uint_as_float((u32)tile[c][p] << 16);
    }
}
SYNC(from_channels_last)

DEVICE float from_half(u16 x) {
    u32 sign = (u32)(x & 0x8000u) << 16, rest = (u32)(x & 0x7FFFu) << 13;
    if (rest >= 0x0F800000u) return __uint_as_float(sign | rest | 0x7F800000u); // infinite, or no number
    float size = __uint_as_float(rest) * 5.192296858534828e33f;                 // 2¹¹²: the exponents' distance
    return sign ? -size : size;
}
// Row k of y is row rows[k] of x, from half to single precision; a row is a plane.
KERNEL gather_rows(const u16* x, const u32* rows, float* y, i64 size, i64 pieces) {
    Piece p = piece_of(size, pieces);
    const u16* from = x + (i64)rows[p.plane] * size;
    float* to = y + p.plane * size;
    WITHIN(i, p.first, p.last) to[i] = from_half(from[i]);
}
FREE(gather_rows)

// The columns of a transposed 2×2 convolution, rows (o, ky, kx) of h·w pixels, and its pixels 2y + ky, 2x + kx.
KERNEL spread2x2(const float* columns, const float* bias, float* y, i64 outputs, i64 h, i64 w, i64 n) {
    EACH(i, n) {
        i64 plane = over(i, 4 * h * w), at = i - plane * 4 * h * w;
        i64 row = over(at, 2 * w), column = at - row * 2 * w;
        i64 tap = 2 * (row % 2) + column % 2;
        float value = columns[(plane * 4 + tap) * h * w + row / 2 * w + column / 2];
        y[i] = bias ? value + bias[plane % outputs] : value;
    }
}
FREE(spread2x2)
KERNEL collect2x2(const float* y, float* columns, i64 h, i64 w, i64 n) {
    EACH(i, n) {
        i64 row = over(i, h * w), at = i - row * h * w, line = over(at, w);
        i64 plane = row / 4, tap = row % 4;
        columns[i] = y[(plane * 2 * h + 2 * line + tap / 2) * 2 * w + 2 * (at - line * w) + tap % 2];
    }
}
FREE(collect2x2)

// Values of pixels (image, place) of [B, C, plane] as [n, C], and their gradient.
KERNEL gather_pixels(const float* x, const u32* images, const u32* places, i64 channels, i64 plane, float* y, i64 n) {
    EACH(i, n) {
        i64 row = over(i, channels), c = i - row * channels;
        y[i] = x[((i64)images[row] * channels + c) * plane + places[row]];
    }
}
FREE(gather_pixels)
// Pixels that are named twice would lose one of their gradients; they are not.
KERNEL gather_pixels_back(const float* g, const u32* images, const u32* places, i64 channels, i64 plane, float* dx, i64 n) {
    EACH(i, n) {
        i64 row = over(i, channels), c = i - row * channels;
        dx[((i64)images[row] * channels + c) * plane + places[row]] = g[i];
    }
}
FREE(gather_pixels_back)
