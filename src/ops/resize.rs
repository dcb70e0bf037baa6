//! Up-sampling (nearest ×2, bilinear to any size) and sampling at given positions.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

use super::buffer::{CHUNK, floats, tensor, uninit};
use super::simd::multiversion;
use super::tape::{Tape, Var};

/// One output position of a linear interpolation: its two sources and the weight of the second.
#[derive(Clone, Copy, Debug)]
struct Tap {
    low: usize,
    high: usize,
    weight: f32,
}

/// The taps of an axis of `from` pixels resized to `to`, as PyTorch's `interpolate`.
fn taps(from: usize, to: usize, align_corners: bool) -> Vec<Tap> {
    let (n, m) = (from as f64, to as f64);
    (0..to)
        .map(|i| {
            let position = if align_corners {
                if to > 1 { (i as f64) * (n - 1.0) / (m - 1.0) } else { 0.0 }
            } else {
                (((i as f64) + 0.5) * n / m - 0.5).max(0.0)
            };
            tap(position, from)
        })
        .collect()
}

/// An axis as the GPU's kernels read it: of each output low, high and the bits of the weight of high; of each input the
/// first output that reads it, and the number of those up to the last.
pub(super) fn axis_table(from: usize, to: usize, align_corners: bool) -> Vec<u32> {
    let taps = taps(from, to, align_corners);
    let mut table: Vec<u32> = taps.iter().map(|tap| tap.low as u32).collect();
    table.extend(taps.iter().map(|tap| tap.high as u32));
    table.extend(taps.iter().map(|tap| tap.weight.to_bits()));
    let reads = |tap: &Tap, i: usize| tap.low == i || tap.high == i;
    let first = |i: usize| taps.iter().position(|tap| reads(tap, i)).unwrap_or(0);
    let end = |i: usize| taps.iter().rposition(|tap| reads(tap, i)).map_or(0, |last| last + 1);
    table.extend((0..from).map(|i| first(i) as u32));
    table.extend((0..from).map(|i| end(i).saturating_sub(first(i)) as u32));
    table
}

/// The tap of a position in [0, n − 1]; beyond it the border is repeated.
fn tap(position: f64, n: usize) -> Tap {
    let position = position.clamp(0.0, (n - 1) as f64);
    let low = (position as usize).min(n - 1);
    Tap { low, high: (low + 1).min(n - 1), weight: (position - low as f64) as f32 }
}

multiversion! { fn blend_rows(top: &[f32], bottom: &[f32], weight: f32, out: &mut [f32]) {
    for ((out, &t), &b) in out.iter_mut().zip(top).zip(bottom) {
        *out = t * (1.0 - weight) + b * weight;
    }
} }
multiversion! { fn add_scaled(out: &mut [f32], x: &[f32], factor: f32) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out += x * factor;
    }
} }

/// A bilinear resize as two linear ones; a line is a row of the input resized to the width of the output.
struct Bilinear {
    input: (usize, usize),
    rows: Vec<Tap>,
    columns: Vec<Tap>,
    /// The transposed columns: the first output that reads each input column, ...
    firsts: Vec<usize>,
    /// ... and the weights of `reach` outputs from there on, zero behind the last reader.
    weights: Vec<f32>,
    reach: usize,
}

impl Bilinear {
    fn new(input: (usize, usize), output: (usize, usize), align_corners: bool) -> Self {
        let columns = taps(input.1, output.1, align_corners);
        let reads = |tap: &Tap, i: usize| tap.low == i || tap.high == i;
        let weight = |tap: &Tap, i: usize| {
            let (low, high) = (usize::from(tap.low == i) as f32, usize::from(tap.high == i) as f32);
            low * (1.0 - tap.weight) + high * tap.weight
        };
        // Taps ascend: the readers of a column are neighbours.
        let first = |i: usize| columns.iter().position(|tap| reads(tap, i)).unwrap_or(0);
        let firsts: Vec<usize> = (0..input.1).map(first).collect();
        let count =
            |(i, &first): (usize, &usize)| columns[first..].iter().take_while(|tap| reads(tap, i)).count();
        // At least 4, which ×2 needs, and which has a loop of its own.
        let reach = firsts.iter().enumerate().map(count).max().unwrap_or(0).max(4);
        let mut weights = vec![0.0; reach * firsts.len()];
        for (i, (weights, &first)) in weights.chunks_mut(reach).zip(&firsts).enumerate() {
            for (w, tap) in weights.iter_mut().zip(&columns[first..]) {
                *w = weight(tap, i);
            }
        }
        Self { input, rows: taps(input.0, output.0, align_corners), columns, firsts, weights, reach }
    }

    /// Two lines of scratch, with room for zeros behind their end.
    fn lines(&self) -> [Vec<f32>; 2] {
        let line = || vec![0.0; self.columns.len() + self.reach];
        [line(), line()]
    }

    fn widen(&self, x: &[f32], line: &mut [f32]) {
        for (out, c) in line.iter_mut().zip(&self.columns) {
            *out = x[c.low] * (1.0 - c.weight) + x[c.high] * c.weight;
        }
    }

    fn narrow(&self, line: &[f32], dx: &mut [f32]) {
        let columns = dx.iter_mut().zip(&self.firsts).zip(self.weights.chunks_exact(self.reach));
        if self.reach == 4 {
            for ((dx, &first), w) in columns {
                let g = &line[first..first + 4];
                *dx = (g[0] * w[0] + g[1] * w[1]) + (g[2] * w[2] + g[3] * w[3]);
            }
        } else {
            for ((dx, &first), w) in columns {
                *dx = line[first..first + self.reach].iter().zip(w).map(|(g, w)| g * w).sum();
            }
        }
    }

    fn forward(&self, x: &[f32], y: &mut [f32], [low, high]: &mut [Vec<f32>; 2]) {
        let w = self.input.1;
        let line = |row: usize| &x[row * w..][..w];
        let mut at = (usize::MAX, usize::MAX);
        for (row, out) in self.rows.iter().zip(y.chunks_mut(self.columns.len())) {
            if at.0 != row.low {
                if at.1 == row.low {
                    std::mem::swap(low, high);
                    at = (at.1, usize::MAX);
                } else {
                    self.widen(line(row.low), low);
                    at.0 = row.low;
                }
            }
            if at.1 != row.high {
                self.widen(line(row.high), high);
                at.1 = row.high;
            }
            blend_rows(low, high, row.weight, out);
        }
    }

    fn backward(&self, g: &[f32], dx: &mut [f32], [low, high]: &mut [Vec<f32>; 2]) {
        let w = self.input.1;
        low.fill(0.0);
        high.fill(0.0);
        // `low` and `high` gather for input rows `at` and `at + 1`.
        let mut at = 0;
        for (row, g) in self.rows.iter().zip(g.chunks(self.columns.len())) {
            while at < row.low {
                self.narrow(low, &mut dx[at * w..][..w]);
                std::mem::swap(low, high);
                high.fill(0.0);
                at += 1;
            }
            add_scaled(low, g, 1.0 - row.weight);
            // At the border both rows are the same.
            add_scaled(if row.high == row.low { &mut *low } else { &mut *high }, g, row.weight);
        }
        for (i, dx) in dx[at * w..].chunks_mut(w).enumerate() {
            match i {
                0 => self.narrow(low, dx),
                1 => self.narrow(high, dx),
                _ => dx.fill(0.0),
            }
        }
    }
}

/// One pixel of a sampling: four sources with weights; all weights 0 outside.
#[derive(Clone, Copy)]
struct Corner {
    index: [u32; 4],
    weight: [f32; 4],
}

/// The sources of every position of `grid` (`[S,S,2]`, pixels of an S×S image) in a map of h×w.
fn corners(grid: &[f32], side: usize, h: usize, w: usize) -> Vec<Corner> {
    let place = |u: f32, n: usize| tap((f64::from(u) + 0.5) * n as f64 / side as f64 - 0.5, n);
    let corner = |at: &[f32]| {
        if at[0] < 0.0 || at[1] < 0.0 || at[0].is_nan() || at[1].is_nan() {
            return Corner { index: [0; 4], weight: [0.0; 4] };
        }
        let (y, x) = (place(at[0], h), place(at[1], w));
        let index = |y: usize, x: usize| (y * w + x) as u32;
        let (v, u) = (y.weight, x.weight);
        Corner {
            index: [index(y.low, x.low), index(y.low, x.high), index(y.high, x.low), index(y.high, x.high)],
            weight: [(1.0 - v) * (1.0 - u), (1.0 - v) * u, v * (1.0 - u), v * u],
        }
    };
    grid.par_chunks(2).with_min_len(CHUNK / 8).map(corner).collect()
}

impl Tape {
    /// Each pixel four times: `[B,C,H,W]` → `[B,C,2H,2W]`.
    pub fn upsample_nearest2(&self, x: &Var) -> Result<Var> {
        let (b, c, h, w) = x.dims4()?;
        ensure!(!x.is_empty(), "cannot up-sample an empty value {:?}", x.dims());
        if let Some(gpu) = self.gpu(x)? {
            return gpu.upsample_nearest2(self, x);
        }
        let values = floats(x.value())?;
        let input: &[f32] = &values;
        let mut y = uninit(4 * input.len());
        let grain = (CHUNK / (4 * h * w)).max(1);
        let work = y.par_chunks_mut(4 * h * w).zip(input.par_chunks(h * w)).with_min_len(grain);
        work.for_each(|(y, x)| {
            for (out, row) in y.chunks_mut(4 * w).zip(x.chunks(w)) {
                let (top, bottom) = out.split_at_mut(2 * w);
                top.chunks_exact_mut(2).zip(row).for_each(|(pair, &x)| pair.fill(x));
                bottom.copy_from_slice(top);
            }
        });
        let node = x.node;
        self.record(tensor(y, (b, c, 2 * h, 2 * w))?, &[x], move |g, sink| {
            let mut dx = uninit(b * c * h * w);
            let work = dx.par_chunks_mut(w).zip(g.par_chunks(4 * w)).with_min_len((CHUNK / (4 * w)).max(1));
            work.for_each(|(dx, g)| {
                let (top, bottom) = g.split_at(2 * w);
                for ((dx, t), b) in dx.iter_mut().zip(top.chunks_exact(2)).zip(bottom.chunks_exact(2)) {
                    *dx = t[0] + t[1] + b[0] + b[1];
                }
            });
            sink.add(node, dx);
            Ok(())
        })
    }

    /// Bilinear interpolation to `size` = (height, width), as PyTorch's `interpolate` with the same `align_corners`.
    pub fn upsample_bilinear(&self, x: &Var, size: (usize, usize), align_corners: bool) -> Result<Var> {
        let (b, c, h, w) = x.dims4()?;
        ensure!(!x.is_empty() && size.0 * size.1 > 0, "cannot resize {:?} to {size:?}", x.dims());
        if let Some(gpu) = self.gpu(x)? {
            return gpu.upsample_bilinear(self, x, size, align_corners);
        }
        let resize = Bilinear::new((h, w), size, align_corners);
        let values = floats(x.value())?;
        let input: &[f32] = &values;
        let plane = size.0 * size.1;
        let grain = (CHUNK / plane).max(1);
        let mut y = uninit(b * c * plane);
        let work = y.par_chunks_mut(plane).zip(input.par_chunks(h * w)).with_min_len(grain);
        work.for_each_init(|| resize.lines(), |lines, (y, x)| resize.forward(x, y, lines));
        let node = x.node;
        self.record(tensor(y, (b, c, size.0, size.1))?, &[x], move |g, sink| {
            let mut dx = uninit(b * c * h * w);
            let work = dx.par_chunks_mut(h * w).zip(g.par_chunks(plane)).with_min_len(grain);
            work.for_each_init(|| resize.lines(), |lines, (dx, g)| resize.backward(g, dx, lines));
            sink.add(node, dx);
            Ok(())
        })
    }

    /// Samples maps, `[B,C,h,w]`, at the positions of `grid`, `[B,S,S,2]` f32: (y, x) in pixels of an S×S image that
    /// the maps cover; a negative y or x lies outside and gives 0. A position u falls on (u + ½)·h/S − ½, bilinear,
    /// the border repeated; a grid of pixel centres is [`upsample_bilinear`](Self::upsample_bilinear) without
    /// aligned corners. Result `[B,C,S,S]`.
    pub fn sample(&self, x: &Var, grid: &Tensor) -> Result<Var> {
        let (b, c, h, w) = x.dims4()?;
        let (gb, side, width, two) = grid.dims4()?;
        ensure!(
            gb == b && side == width && two == 2 && side > 0 && !x.is_empty(),
            "a grid of shape {:?} does not fit maps of shape {:?}",
            grid.dims(),
            x.dims()
        );
        if let Some(gpu) = self.gpu(x)? {
            return gpu.sample(self, x, grid);
        }
        let pixels = side * side;
        let places = corners(&floats(grid)?, side, h, w);
        let values = floats(x.value())?;
        let input: &[f32] = &values;
        let mut y = uninit(b * c * pixels);
        let work = y.par_chunks_mut(pixels).zip(input.par_chunks(h * w)).enumerate();
        work.for_each(|(plane, (y, x))| {
            let places = &places[plane / c * pixels..][..pixels];
            for (y, p) in y.iter_mut().zip(places) {
                let at = |k: usize| x[p.index[k] as usize] * p.weight[k];
                *y = (at(0) + at(1)) + (at(2) + at(3));
            }
        });
        let node = x.node;
        self.record(tensor(y, (b, c, side, side))?, &[x], move |g, sink| {
            let mut dx = vec![0.0; b * c * h * w];
            let work = dx.par_chunks_mut(h * w).zip(g.par_chunks(pixels)).enumerate();
            work.for_each(|(plane, (dx, g))| {
                let places = &places[plane / c * pixels..][..pixels];
                for (&g, p) in g.iter().zip(places) {
                    for (&i, &weight) in p.index.iter().zip(&p.weight) {
                        dx[i as usize] += g * weight;
                    }
                }
            });
            sink.add(node, dx);
            Ok(())
        })
    }
}
