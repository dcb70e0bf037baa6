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
        i64 row = i / width, column = i - row * width;
        i64 image = row / rows;
        y[i] = x[(image * rows + from[row - image * rows]) * width + column];
    }
}
FREE(rearrange)

DEVICE u16 to_bf16(float x) {
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (u16)((bits >> 16) | 64); // a NaN stays one
    return (u16)((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

// [batch, channels, pixels] in single precision to [batch, pixels, channels] in bf16, and back.
KERNEL to_channels_last(const float* x, u16* y, i64 channels, i64 pixels, i64 n) {
    EACH(i, n) {
        i64 at = i / channels, c = i - at * channels;
        i64 image = at / pixels, pixel = at - image * pixels;
        y[i] = to_bf16(x[(image * channels + c) * pixels + pixel]);
    }
}
FREE(to_channels_last)
KERNEL from_channels_last(const u16* x, float* y, i64 channels, i64 pixels, i64 n) {
    EACH(i, n) {
        i64 at = i / pixels, pixel = i - at * pixels;
        i64 image = at / channels, c = at - image * channels;
        y[i] = __uint_as_float((u32)x[(image * pixels + pixel) * channels + c] << 16);
    }
}
FREE(from_channels_last)

// The columns of a transposed 2×2 convolution, rows (o, ky, kx) of h·w pixels, and its pixels 2y + ky, 2x + kx.
KERNEL spread2x2(const float* columns, const float* bias, float* y, i64 outputs, i64 h, i64 w, i64 n) {
    EACH(i, n) {
        i64 plane = i / (4 * h * w), at = i - plane * 4 * h * w;
        i64 row = at / (2 * w), column = at - row * 2 * w;
        i64 tap = 2 * (row % 2) + column % 2;
        float value = columns[(plane * 4 + tap) * h * w + row / 2 * w + column / 2];
        y[i] = bias ? value + bias[plane % outputs] : value;
    }
}
FREE(spread2x2)
KERNEL collect2x2(const float* y, float* columns, i64 h, i64 w, i64 n) {
    EACH(i, n) {
        i64 row = i / (h * w), at = i - row * h * w;
        i64 plane = row / 4, tap = row % 4;
        columns[i] = y[(plane * 2 * h + 2 * (at / w) + tap / 2) * 2 * w + 2 * (at % w) + tap % 2];
    }
}
FREE(collect2x2)

// Values of pixels (image, place) of [B, C, plane] as [n, C], and their gradient.
KERNEL gather_pixels(const float* x, const u32* images, const u32* places, i64 channels, i64 plane, float* y, i64 n) {
    EACH(i, n) {
        i64 row = i / channels, c = i - row * channels;
        y[i] = x[((i64)images[row] * channels + c) * plane + places[row]];
    }
}
FREE(gather_pixels)
// Pixels that are named twice would lose one of their gradients; they are not.
KERNEL gather_pixels_back(const float* g, const u32* images, const u32* places, i64 channels, i64 plane, float* dx, i64 n) {
    EACH(i, n) {
        i64 row = i / channels, c = i - row * channels;
        dx[((i64)images[row] * channels + c) * plane + places[row]] = g[i];
    }
}
FREE(gather_pixels_back)
