//! Halving: maximum and average over 2×2.

use anyhow::{Result, ensure};
use rayon::prelude::*;

use super::buffer::{CHUNK, floats, tensor, uninit};
use super::simd::multiversion;
use super::tape::{Tape, Var};

multiversion! { fn max_plane(x: &[f32], y: &mut [f32], w: usize, ow: usize) {
    for (rows, out) in x.chunks(2 * w).zip(y.chunks_mut(ow)) {
        let (top, bottom) = rows.split_at(w);
        for ((out, t), b) in out.iter_mut().zip(top.chunks_exact(2)).zip(bottom.chunks_exact(2)) {
            let first = if t[1] > t[0] { t[1] } else { t[0] };
            let second = if b[1] > b[0] { b[1] } else { b[0] };
            *out = if second > first { second } else { first };
        }
    }
} }
/// Outputs of one inner block.
const BLOCK: usize = 16;

/// The gradients of two rows of inputs from that of one row of outputs; it goes to the first maximum in reading order,
/// as in PyTorch.
#[expect(clippy::inline_always, reason = "part of functions that are compiled once per kind of vector")]
#[inline(always)]
fn max_row_back<const N: usize>(
    top: &[f32],
    bottom: &[f32],
    g: &[f32],
    out_top: &mut [f32],
    out_bottom: &mut [f32],
) {
    let (top, bottom, g) = (&top[..2 * N], &bottom[..2 * N], &g[..N]);
    let (out_top, out_bottom) = (&mut out_top[..2 * N], &mut out_bottom[..2 * N]);
    let mut parts = [[0.0f32; N]; 4];
    for i in 0..N {
        let right = top[2 * i + 1] > top[2 * i];
        let first = if right { top[2 * i + 1] } else { top[2 * i] };
        let right_below = bottom[2 * i + 1] > bottom[2 * i];
        let second = if right_below { bottom[2 * i + 1] } else { bottom[2 * i] };
        let below = second > first;
        let above = if below { 0.0 } else { g[i] };
        let under = if below { g[i] } else { 0.0 };
        parts[0][i] = if right { 0.0 } else { above };
        parts[1][i] = if right { above } else { 0.0 };
        parts[2][i] = if right_below { 0.0 } else { under };
        parts[3][i] = if right_below { under } else { 0.0 };
    }
    for i in 0..N {
        out_top[2 * i] = parts[0][i];
        out_top[2 * i + 1] = parts[1][i];
    }
    for i in 0..N {
        out_bottom[2 * i] = parts[2][i];
        out_bottom[2 * i + 1] = parts[3][i];
    }
}

multiversion! { fn max_plane_back(x: &[f32], g: &[f32], dx: &mut [f32], w: usize, ow: usize) {
    for ((rows, out), g) in x.chunks(2 * w).zip(dx.chunks_mut(2 * w)).zip(g.chunks(ow)) {
        let (top, bottom) = rows.split_at(w);
        let (out_top, out_bottom) = out.split_at_mut(w);
        let whole = ow / BLOCK * BLOCK;
        for i in (0..whole).step_by(BLOCK) {
            let (t, b) = (&mut out_top[2 * i..], &mut out_bottom[2 * i..]);
            max_row_back::<BLOCK>(&top[2 * i..], &bottom[2 * i..], &g[i..], t, b);
        }
        for i in whole..ow {
            let (t, b) = (&mut out_top[2 * i..], &mut out_bottom[2 * i..]);
            max_row_back::<1>(&top[2 * i..], &bottom[2 * i..], &g[i..], t, b);
        }
    }
} }
multiversion! { fn average_plane(x: &[f32], y: &mut [f32], w: usize, ow: usize) {
    for (rows, out) in x.chunks(2 * w).zip(y.chunks_mut(ow)) {
        let (top, bottom) = rows.split_at(w);
        for ((out, t), b) in out.iter_mut().zip(top.chunks_exact(2)).zip(bottom.chunks_exact(2)) {
            *out = 0.25 * (t[0] + t[1] + b[0] + b[1]);
        }
    }
} }
multiversion! { fn average_plane_back(g: &[f32], dx: &mut [f32], w: usize, ow: usize) {
    for (out, g) in dx.chunks_mut(2 * w).zip(g.chunks(ow)) {
        for row in out.chunks_mut(w) {
            for (pair, &g) in row.chunks_exact_mut(2).zip(g) {
                pair[0] = 0.25 * g;
                pair[1] = 0.25 * g;
            }
        }
    }
} }

/// Sizes of a halving; the rows that a plane of `h` rows gives to it (an odd last row or column is left out).
struct Halving {
    dims: (usize, usize, usize, usize),
    out: (usize, usize),
    used: usize,
    grain: usize,
}

impl Halving {
    fn of(x: &Var) -> Result<Self> {
        let (b, c, h, w) = x.dims4()?;
        ensure!(h >= 2 && w >= 2 && b * c > 0, "cannot halve a value of shape {:?}", x.dims());
        let grain = (CHUNK / (h * w)).max(1);
        Ok(Self { dims: (b, c, h, w), out: (h / 2, w / 2), used: h / 2 * 2 * w, grain })
    }

    fn forward(&self, x: &[f32], kernel: impl Fn(&[f32], &mut [f32]) + Sync) -> Vec<f32> {
        let (b, c, h, w) = self.dims;
        let size = self.out.0 * self.out.1;
        let mut y = uninit(b * c * size);
        let work = y.par_chunks_mut(size).zip(x.par_chunks(h * w)).with_min_len(self.grain);
        work.for_each(|(y, x)| kernel(&x[..self.used], y));
        y
    }

    fn backward(&self, g: &[f32], kernel: impl Fn(usize, &[f32], &mut [f32]) + Sync) -> Vec<f32> {
        let (b, c, h, w) = self.dims;
        let size = self.out.0 * self.out.1;
        let len = b * c * h * w;
        // Odd sizes leave elements that no output depends on.
        let mut dx = if h % 2 + w % 2 == 0 { uninit(len) } else { vec![0.0; len] };
        let work = dx.par_chunks_mut(h * w).zip(g.par_chunks(size)).enumerate().with_min_len(self.grain);
        work.for_each(|(plane, (dx, g))| kernel(plane, g, &mut dx[..self.used]));
        dx
    }
}

impl Tape {
    /// The maximum over 2×2 blocks, `[B,C,H,W]` → [B,C,⌊H/2⌋,⌊W/2⌋]; of equal values the first gets the gradient.
    pub fn max_pool2(&self, x: &Var) -> Result<Var> {
        let halving = Halving::of(x)?;
        let (b, c, h, w) = halving.dims;
        let (oh, ow) = halving.out;
        if let Some(gpu) = self.gpu(x)? {
            return gpu.max_pool2(self, x);
        }
        let y = halving.forward(&floats(x.value())?, |x, y| max_plane(x, y, w, ow));
        let input = x.clone();
        self.record(tensor(y, (b, c, oh, ow))?, &[x], move |g, sink| {
            let values = floats(input.value())?;
            let values: &[f32] = &values;
            let dx = halving.backward(&g, |plane, g, dx| {
                max_plane_back(&values[plane * h * w..][..dx.len()], g, dx, w, ow);
            });
            sink.add(input.node, dx);
            Ok(())
        })
    }

    /// The average over 2×2 blocks, `[B,C,H,W]` → [B,C,⌊H/2⌋,⌊W/2⌋].
    pub fn avg_pool2(&self, x: &Var) -> Result<Var> {
        let halving = Halving::of(x)?;
        let (b, c, _, w) = halving.dims;
        let (oh, ow) = halving.out;
        if let Some(gpu) = self.gpu(x)? {
            return gpu.avg_pool2(self, x);
        }
        let y = halving.forward(&floats(x.value())?, |x, y| average_plane(x, y, w, ow));
        let node = x.node;
        self.record(tensor(y, (b, c, oh, ow))?, &[x], move |g, sink| {
            sink.add(node, halving.backward(&g, |_, g, dx| average_plane_back(g, dx, w, ow)));
            Ok(())
        })
    }
}
