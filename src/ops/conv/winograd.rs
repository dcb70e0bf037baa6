//! The 3×3 convolution (padding 1, stride 1) of many channels by Winograd's F(2×2, 3×3), forward and backward: 16
//! products instead of 36 for each tile of 2×2 outputs (Lavin and Gray, "Fast algorithms for convolutional neural
//! networks", 2016).
//!
//! With U = G·w·Gᵀ, V = Bᵀ·d·B and Y = Aᵀ·(Σ U∘V)·A, the sums over channels are sixteen products of matrices,
//! V [tile][input] · U [input][output]. The gradient of the weights is the exact transpose: Σ over tiles of
//! (A·g·Aᵀ)·V, then Gᵀ·dU·G. Pixels are packed with their channels side by side, so that every vector is full
//! whatever the size of the maps. Work is cut into groups of rows of tiles whose matrices fit the second cache; where
//! there are more weights than pixels, into the sixteen matrices instead, so that the weights are read once. Every
//! sum has a fixed order either way.

use rayon::prelude::*;

use super::Shape;
use super::direct::with_scratch;
use super::product::{self, COLUMNS, PANEL, Product};
use super::tiles::{self, Source, Target, Tiles};
use super::weights::{self, Weights};
use crate::ops::buffer::{Shared, uninit};
use crate::ops::simd::{Level, level};

/// Numbers of the matrices of a group: they fit the second cache together with what is multiplied with them.
const GROUP: usize = 240 << 10;
/// Numbers of all matrices up to which they may be kept at once.
const WHOLE: usize = 6 << 20;
/// Numbers of transformed weights from which on they are read once rather than for each group.
const MANY_WEIGHTS: usize = 400 << 10;

/// Fewer channels than this do not pay for the transforms.
const FEWEST: usize = 8;

/// Whether this module serves the convolution.
pub(super) fn serves(s: &Shape) -> bool {
    s.kernel == 3 && s.stride == 1 && s.padding == 1 && s.input.0 >= FEWEST && s.output.0 >= FEWEST
}

/// Maps of a batch as rows of tiles, image after image.
#[derive(Clone, Copy)]
struct Grid {
    batch: usize,
    height: usize,
    width: usize,
}

/// Some rows of tiles of one image: the first of all rows, and where they are in their image.
#[derive(Clone, Copy)]
struct Run {
    start: usize,
    image: usize,
    first: usize,
    rows: usize,
}

impl Grid {
    fn of(s: &Shape) -> Self {
        Self { batch: s.batch, height: s.input.1, width: s.input.2 }
    }

    /// Rows of tiles of an image.
    fn rows(self) -> usize {
        self.height.div_ceil(2)
    }

    /// Tiles of a row.
    fn row(self) -> usize {
        self.width.div_ceil(2)
    }

    fn all_rows(self) -> usize {
        self.batch * self.rows()
    }

    fn tiles(self) -> usize {
        self.all_rows() * self.row()
    }

    fn plane(self) -> usize {
        self.height * self.width
    }

    /// The runs of rows `first..first + count` of all images.
    fn runs(self, first: usize, count: usize) -> impl Iterator<Item = Run> {
        let mut next = first;
        std::iter::from_fn(move || {
            if next == first + count {
                return None;
            }
            let (image, row) = (next / self.rows(), next % self.rows());
            let rows = (self.rows() - row).min(first + count - next);
            let run = Run { start: next, image, first: row, rows };
            next += rows;
            Some(run)
        })
    }

    /// Pixels of a row with what is around it.
    fn pitch(self, margin: usize) -> usize {
        2 * self.row() + 2 * margin
    }

    /// Pixels that a run of `rows` rows of tiles takes, with `margin` pixels around.
    fn pixels(self, rows: usize, margin: usize) -> usize {
        (2 * rows + 2 * margin) * self.pitch(margin)
    }

    /// The pixels of a run, with `margin` around them: their number before it in their plane, and the place of each.
    fn places(self, run: Run, margin: usize, places: &mut Vec<u32>) -> usize {
        let top = 2 * run.first;
        let first = top.saturating_sub(margin);
        let last = (top + 2 * run.rows + margin).min(self.height);
        places.clear();
        for y in first..last {
            let start = (y + margin - top) * self.pitch(margin) + margin;
            places.extend(start as u32..(start + self.width) as u32);
        }
        first * self.width
    }
}

/// One operand: maps of `channels`, packed as `padded` channels, in groups of tiles.
#[derive(Clone, Copy)]
struct Maps<'a> {
    grid: Grid,
    values: &'a [f32],
    channels: usize,
    padded: usize,
    level: Level,
}

impl<'a> Maps<'a> {
    fn new(level: Level, grid: Grid, values: &'a [f32], channels: usize) -> Self {
        Self { grid, values, channels, padded: channels.next_multiple_of(COLUMNS), level }
    }

    /// Packs a run with zeros around it; `pixels` holds [`Grid::pixels`]·padded numbers.
    #[expect(unsafe_code, reason = "kernels take pointers; their extents are checked here")]
    fn pack(&self, run: Run, margin: usize, places: &mut Vec<u32>, pixels: &mut [f32]) {
        let pixels = &mut pixels[..self.grid.pixels(run.rows, margin) * self.padded];
        let image = &self.values[run.image * self.channels * self.grid.plane()..];
        let image = &image[..self.channels * self.grid.plane()];
        let first = self.grid.places(run, margin, places);
        self.clear_around(places, margin, pixels);
        let source = Source { values: image.as_ptr(), plane: self.grid.plane(), channels: self.channels };
        // SAFETY: the pixels from `first` on are those of whole rows of the plane; places lie within `pixels`.
        unsafe { tiles::pack(self.level, source, first, places, self.padded, pixels.as_mut_ptr()) }
    }

    /// Zeroes what is not the place of a pixel.
    fn clear_around(&self, places: &[u32], margin: usize, pixels: &mut [f32]) {
        if margin == 0 && 2 * self.grid.row() == self.grid.width && places.len() * self.padded == pixels.len()
        {
            return;
        }
        let mut done = 0;
        for row in places.chunks(self.grid.width) {
            pixels[done..row[0] as usize * self.padded].fill(0.0);
            done = (row[0] as usize + row.len()) * self.padded;
        }
        pixels[done..].fill(0.0);
    }

    /// The tiles of a run, in sixteen matrices `stride` apart; the run's first tile is at `at`.
    fn tiles(&self, run: Run, margin: usize, matrices: *mut f32, stride: usize) -> Tiles {
        let (row, pitch) = (self.grid.row(), self.grid.pitch(margin));
        Tiles { rows: run.rows, row, channels: self.padded, pitch, matrices, stride }
    }

    /// Writes the transformed tiles of a run behind `to`.
    ///
    /// # Safety
    /// The sixteen matrices, `stride` apart from `to` on, hold the run's tiles, which nobody else uses.
    #[expect(unsafe_code, reason = "matrices are shared between tasks by runs")]
    unsafe fn transform(&self, run: Run, kind: Kind, to: *mut f32, stride: usize) {
        let margin = usize::from(kind == Kind::Input);
        with_places(|places| {
            with_scratch(self.grid.pixels(run.rows, margin) * self.padded, |pixels| {
                self.pack(run, margin, places, pixels);
                let tiles = self.tiles(run, margin, to, stride);
                // SAFETY: `pack` filled all pixels of the run; the matrices are the caller's promise.
                unsafe {
                    match kind {
                        Kind::Input => tiles::input(self.level, tiles, pixels.as_ptr()),
                        Kind::Gradient => tiles::gradient(self.level, tiles, pixels.as_ptr()),
                    }
                }
            });
        });
    }

    /// The transformed tiles of all maps, and the distance of the matrices.
    #[expect(unsafe_code, reason = "tasks write disjoint tiles")]
    fn transform_all(&self, kind: Kind) -> (Vec<f32>, usize) {
        let stride = stride(self.grid.tiles(), self.padded);
        let mut matrices = uninit(16 * stride);
        let shared = Shared::new(&mut matrices);
        // Whole images where there are enough of them, else rows of tiles.
        let rows = if self.grid.batch >= 4 { self.grid.rows() } else { 1 };
        let tasks = self.grid.all_rows().div_ceil(rows);
        (0..tasks).into_par_iter().for_each(|task| {
            let first = task * rows;
            for run in self.grid.runs(first, rows.min(self.grid.all_rows() - first)) {
                // SAFETY: each task has rows of its own, all of them within the matrices.
                unsafe {
                    let to = shared.at(run.start * self.grid.row() * self.padded);
                    self.transform(run, kind, to, stride);
                }
            }
        });
        (matrices, stride)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Input,
    Gradient,
}

/// Numbers from one matrix to the next: they do not fall on the same lines of a cache.
fn stride(tiles: usize, channels: usize) -> usize {
    tiles * channels + COLUMNS
}

/// Calls `f` with a list of places of this thread.
fn with_places<R>(f: impl FnOnce(&mut Vec<u32>) -> R) -> R {
    thread_local! {
        static PLACES: std::cell::Cell<Vec<u32>> = const { std::cell::Cell::new(Vec::new()) };
    }
    let mut places = PLACES.take();
    let result = f(&mut places);
    PLACES.set(places);
    result
}

/// A convolution with transformed weights.
struct Pass<'a> {
    x: Maps<'a>,
    outputs: usize,
    u: &'a [f32],
    /// For every output up to the next multiple of 16.
    bias: Vec<f32>,
    /// What a negative result is multiplied with, at most 1.
    slope: f32,
}

impl Pass<'_> {
    fn run(&self) -> Vec<f32> {
        let grid = self.x.grid;
        let mut y = uninit(grid.batch * self.outputs * grid.plane());
        let out = Shared::new(&mut y);
        let (inputs, outputs) = (self.x.padded, self.bias.len());
        let all = grid.tiles() * 16 * (inputs + outputs);
        if self.u.len() > MANY_WEIGHTS && all <= WHOLE {
            self.by_matrices(out);
            return y;
        }
        let rows = (GROUP / (16 * (inputs + outputs) * grid.row())).clamp(1, grid.all_rows());
        (0..grid.all_rows().div_ceil(rows)).into_par_iter().for_each(|group| {
            let first = group * rows;
            self.group(first, rows.min(grid.all_rows() - first), out);
        });
        y
    }

    /// `count` rows of tiles from `first` on.
    #[expect(unsafe_code, reason = "kernels take pointers into scratch of the right size")]
    fn group(&self, first: usize, count: usize, out: Shared) {
        let grid = self.x.grid;
        let tiles = count * grid.row();
        let (v_stride, m_stride) = (stride(tiles, self.x.padded), stride(tiles, self.bias.len()));
        with_scratch(16 * (v_stride + m_stride), |scratch| {
            let (v, m) = scratch.split_at_mut(16 * v_stride);
            for run in grid.runs(first, count) {
                let at = (run.start - first) * grid.row() * self.x.padded;
                // SAFETY: the matrices hold all tiles of the group.
                unsafe { self.x.transform(run, Kind::Input, v.as_mut_ptr().add(at), v_stride) };
            }
            for matrix in 0..16 {
                let (v, m) = (v[matrix * v_stride..].as_ptr(), m[matrix * m_stride..].as_mut_ptr());
                for panel in (0..self.bias.len()).step_by(PANEL) {
                    // SAFETY: both matrices have a row for each tile.
                    unsafe { self.product(matrix, panel, tiles, v, m) };
                }
            }
            for run in grid.runs(first, count) {
                let at = (run.start - first) * grid.row() * self.bias.len();
                // SAFETY: the products above filled the matrices.
                unsafe { self.finish(run, m.as_mut_ptr().add(at), m_stride, out) };
            }
        });
    }

    /// All tiles at once, matrix by matrix.
    #[expect(unsafe_code, reason = "tasks write disjoint columns of the matrices")]
    fn by_matrices(&self, out: Shared) {
        let grid = self.x.grid;
        let (v, v_stride) = self.x.transform_all(Kind::Input);
        let v: &[f32] = &v;
        let m_stride = stride(grid.tiles(), self.bias.len());
        let mut m = uninit(16 * m_stride);
        let shared = Shared::new(&mut m);
        let panels = self.bias.len().div_ceil(PANEL);
        (0..16 * panels).into_par_iter().for_each(|task| {
            let (matrix, panel) = (task / panels, task % panels * PANEL);
            // SAFETY: each task has columns of a matrix of its own.
            unsafe {
                let to = shared.at(matrix * m_stride);
                self.product(matrix, panel, grid.tiles(), v[matrix * v_stride..].as_ptr(), to);
            }
        });
        let rows = if grid.batch >= 4 { grid.rows() } else { 1 };
        (0..grid.all_rows().div_ceil(rows)).into_par_iter().for_each(|task| {
            let first = task * rows;
            for run in grid.runs(first, rows.min(grid.all_rows() - first)) {
                // SAFETY: the products above filled the matrices; each task reads its own tiles.
                unsafe {
                    let from = shared.at(run.start * grid.row() * self.bias.len());
                    self.finish(run, from, m_stride, out);
                }
            }
        });
    }

    /// Columns `panel`.. of one of the sixteen products.
    ///
    /// # Safety
    /// `v` and `m` have `tiles` rows of all inputs and outputs; nobody else uses these columns.
    #[expect(unsafe_code, reason = "kernels take pointers")]
    unsafe fn product(&self, matrix: usize, panel: usize, tiles: usize, v: *const f32, m: *mut f32) {
        let (inputs, outputs) = (self.x.padded, self.bias.len());
        let width = PANEL.min(outputs - panel);
        let u = &self.u[matrix * inputs * outputs + panel * inputs..][..inputs * width];
        // SAFETY: the panel of U is complete, the rest is the caller's promise.
        unsafe {
            let product = Product {
                rows: tiles,
                columns: width,
                depth: inputs,
                left: (v, inputs, 1),
                right: (u.as_ptr(), width),
                out: (m.add(panel), outputs),
                add: false,
            };
            product::run(self.x.level, &product);
        }
    }

    /// Transforms the products of a run back and writes its pixels.
    ///
    /// # Safety
    /// The sixteen matrices from `m` on hold the run's tiles; nobody else writes its pixels.
    #[expect(unsafe_code, reason = "tasks write disjoint rows of the output")]
    unsafe fn finish(&self, run: Run, m: *mut f32, m_stride: usize, out: Shared) {
        let (grid, level) = (self.x.grid, self.x.level);
        let to = Maps { channels: self.outputs, padded: self.bias.len(), ..self.x };
        with_places(|places| {
            with_scratch(grid.pixels(run.rows, 0) * to.padded, |pixels| {
                let first = grid.places(run, 0, places);
                // SAFETY: the scratch holds all pixels of the run, the output all of the image.
                unsafe {
                    tiles::output(
                        level,
                        to.tiles(run, 0, m, m_stride),
                        &self.bias,
                        self.slope,
                        pixels.as_mut_ptr(),
                    );
                    let values = out.at(run.image * self.outputs * grid.plane());
                    let target = Target { values, plane: grid.plane(), channels: self.outputs };
                    tiles::unpack(level, target, first, places, to.padded, pixels.as_ptr());
                }
            });
        });
    }
}

/// y = w * x + b, times `slope` (at most 1) where it is negative.
pub(super) fn forward(s: &Shape, x: &[f32], w: &[f32], bias: Option<&[f32]>, slope: f32) -> Vec<f32> {
    forward_at(level(), s, x, w, bias, slope)
}

pub(super) fn forward_at(
    level: Level,
    s: &Shape,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    slope: f32,
) -> Vec<f32> {
    let (inputs, outputs) = (s.input.0, s.output.0);
    let u = Weights { values: w, axes: (outputs, inputs), turned: false }.transformed(level);
    let mut padded = vec![0.0; outputs.next_multiple_of(COLUMNS)];
    if let Some(bias) = bias {
        padded[..outputs].copy_from_slice(bias);
    }
    Pass { x: Maps::new(level, Grid::of(s), x, inputs), outputs, u: &u, bias: padded, slope }.run()
}

/// The gradient of x: the convolution of g with the weights turned by 180° and their channels swapped.
pub(super) fn backward_data(s: &Shape, w: &[f32], g: &[f32]) -> Vec<f32> {
    backward_data_at(level(), s, w, g)
}

pub(super) fn backward_data_at(level: Level, s: &Shape, w: &[f32], g: &[f32]) -> Vec<f32> {
    let (inputs, outputs) = (s.output.0, s.input.0);
    let u = Weights { values: w, axes: (inputs, outputs), turned: true }.transformed(level);
    let bias = vec![0.0; outputs.next_multiple_of(COLUMNS)];
    Pass { x: Maps::new(level, Grid::of(s), g, inputs), outputs, u: &u, bias, slope: 1.0 }.run()
}

/// The gradient of w.
pub(super) fn backward_weights(s: &Shape, x: &[f32], g: &[f32]) -> Vec<f32> {
    backward_weights_at(level(), s, x, g)
}

pub(super) fn backward_weights_at(level: Level, s: &Shape, x: &[f32], g: &[f32]) -> Vec<f32> {
    let grid = Grid::of(s);
    let x = Maps::new(level, grid, x, s.input.0);
    let g = Maps::new(level, grid, g, s.output.0);
    let matrix = x.padded * g.padded;
    let all = grid.tiles() * 16 * (x.padded + g.padded);
    let parts = if 16 * matrix > MANY_WEIGHTS / 2 && all <= WHOLE {
        vec![weights_by_matrices(x, g)]
    } else {
        let count = if 16 * matrix <= MANY_WEIGHTS / 4 { 16 } else { 4 };
        let count = count.min(grid.all_rows());
        let part = |part: usize| {
            let first = part * grid.all_rows() / count;
            weights_of_rows(x, g, first, (part + 1) * grid.all_rows() / count - first)
        };
        (0..count).into_par_iter().map(part).collect()
    };
    weights::gradient(level, &parts, (s.input.0, s.output.0), x.padded, matrix)
}

/// dU [matrix][output][input] = Σ over tiles of gradient × input, for one matrix from transformed tiles.
///
/// # Safety
/// The operands have `tiles` rows, `out` holds a matrix and nobody else uses it.
#[expect(unsafe_code, reason = "kernels take pointers")]
unsafe fn weights_product(
    (x, g): (Maps<'_>, Maps<'_>),
    tiles: usize,
    v: *const f32,
    m: *const f32,
    out: *mut f32,
    add: bool,
) {
    let product = Product {
        rows: g.padded,
        columns: x.padded,
        depth: tiles,
        left: (m, 1, g.padded),
        right: (v, x.padded),
        out: (out, x.padded),
        add,
    };
    // SAFETY: the caller's promise.
    unsafe { product::run(x.level, &product) }
}

/// dU over some rows of tiles, group by group.
#[expect(unsafe_code, reason = "kernels take pointers into scratch of the right size")]
fn weights_of_rows(x: Maps<'_>, g: Maps<'_>, first: usize, count: usize) -> Vec<f32> {
    let grid = x.grid;
    let matrix = x.padded * g.padded;
    let rows = (GROUP / (16 * (x.padded + g.padded) * grid.row())).clamp(1, count.max(1));
    let mut du = uninit(16 * matrix);
    for start in (first..first + count).step_by(rows) {
        let rows = rows.min(first + count - start);
        let tiles = rows * grid.row();
        let (v_stride, m_stride) = (stride(tiles, x.padded), stride(tiles, g.padded));
        with_scratch(16 * (v_stride + m_stride), |scratch| {
            let (v, m) = scratch.split_at_mut(16 * v_stride);
            for run in grid.runs(start, rows) {
                let at = (run.start - start) * grid.row();
                // SAFETY: the matrices hold all tiles of the group.
                unsafe {
                    x.transform(run, Kind::Input, v.as_mut_ptr().add(at * x.padded), v_stride);
                    g.transform(run, Kind::Gradient, m.as_mut_ptr().add(at * g.padded), m_stride);
                }
            }
            for (index, du) in du.chunks_exact_mut(matrix).enumerate() {
                let (v, m) = (v[index * v_stride..].as_ptr(), m[index * m_stride..].as_ptr());
                // SAFETY: the transforms above filled both operands.
                unsafe { weights_product((x, g), tiles, v, m, du.as_mut_ptr(), start > first) };
            }
        });
    }
    du
}

/// dU of all tiles at once, a task per matrix.
#[expect(unsafe_code, reason = "kernels take pointers")]
fn weights_by_matrices(x: Maps<'_>, g: Maps<'_>) -> Vec<f32> {
    let matrix = x.padded * g.padded;
    let ((v, v_stride), (m, m_stride)) = (x.transform_all(Kind::Input), g.transform_all(Kind::Gradient));
    let (v, m): (&[f32], &[f32]) = (&v, &m);
    let mut du = uninit(16 * matrix);
    du.par_chunks_exact_mut(matrix).enumerate().for_each(|(index, du)| {
        let (v, m) = (v[index * v_stride..].as_ptr(), m[index * m_stride..].as_ptr());
        // SAFETY: the transforms filled both operands.
        unsafe { weights_product((x, g), x.grid.tiles(), v, m, du.as_mut_ptr(), false) };
    });
    du
}

#[cfg(test)]
mod tests;
