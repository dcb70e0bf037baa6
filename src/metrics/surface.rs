//! Borders of masks and exact Euclidean distances between them.

/// A voxel as `[z, y, x]`.
type Voxel = [usize; 3];

/// The border voxels of `map == class`, in memory order: those with a 6-neighbour outside the mask or the volume; where
/// the slices are `flat`, with a neighbour in their slice.
pub(super) fn border(map: &[u8], shape: [usize; 3], class: u8, flat: bool) -> Vec<Voxel> {
    let [depth, height, width] = shape;
    let plane = height * width;
    let mut voxels = Vec::new();
    for z in 0..depth {
        for y in 0..height {
            let row = z * plane + y * width;
            let edge_row = (!flat && (z == 0 || z + 1 == depth)) || y == 0 || y + 1 == height;
            for x in 0..width {
                let at = row + x;
                if map[at] != class {
                    continue;
                }
                let all = |neighbours: &[usize]| neighbours.iter().all(|&at| map[at] == class);
                let inner = !edge_row
                    && x > 0
                    && x + 1 < width
                    && all(&[at - 1, at + 1, at - width, at + width])
                    && (flat || all(&[at - plane, at + plane]));
                if !inner {
                    voxels.push([z, y, x]);
                }
            }
        }
    }
    voxels
}

/// The box that a distance transform is computed in.
pub(super) struct Region {
    low: Voxel,
    size: [usize; 3],
}

impl Region {
    /// The smallest box that holds all voxels of all sets, at least one of which is not empty.
    pub(super) fn around(sets: &[&[Voxel]]) -> Self {
        let (mut low, mut high) = ([usize::MAX; 3], [0; 3]);
        for voxel in sets.iter().copied().flatten() {
            for axis in 0..3 {
                low[axis] = low[axis].min(voxel[axis]);
                high[axis] = high[axis].max(voxel[axis]);
            }
        }
        Self { low, size: [0, 1, 2].map(|axis| high[axis] - low[axis] + 1) }
    }
}

/// The distance of each voxel of `from` to the nearest voxel of `to` (not empty), in the order of `from`. All of them
/// lie in `region`; nothing outside it can be nearest, so that the rest of the volume is never visited.
pub(super) fn distances(from: &[Voxel], to: &[Voxel], region: &Region, spacing: [f64; 3]) -> Vec<f64> {
    let [depth, height, width] = region.size;
    let local = |voxel: &Voxel| [0, 1, 2].map(|axis| voxel[axis] - region.low[axis]);
    let mut squares = vec![f64::INFINITY; depth * height * width];
    for voxel in to {
        let [z, y, x] = local(voxel);
        squares[(z * height + y) * width + x] = 0.0;
    }
    for row in squares.chunks_exact_mut(width) {
        along_row(row, spacing[2]);
    }
    let mut envelope = Envelope::new(height, spacing[1]);
    for plane in squares.chunks_exact_mut(height * width) {
        for x in 0..width {
            envelope.transform(plane, x, width);
        }
    }
    // The slow axis is short and only asked at few voxels: search outwards until it cannot get nearer.
    let nearest = |voxel: &Voxel| {
        let [z, y, x] = local(voxel);
        let at = |z: usize| squares[(z * height + y) * width + x];
        let mut best = at(z);
        for step in 1..depth {
            let gap = (step as f64 * spacing[0]).powi(2);
            if gap >= best {
                break;
            }
            if step <= z {
                best = best.min(at(z - step) + gap);
            }
            if z + step < depth {
                best = best.min(at(z + step) + gap);
            }
        }
        best.sqrt()
    };
    from.iter().map(nearest).collect()
}

/// Turns a row of 0 (source) and ∞ into squared distances along the row.
fn along_row(row: &mut [f64], spacing: f64) {
    let mut last: Option<usize> = None;
    for (x, square) in row.iter_mut().enumerate() {
        if *square == 0.0 {
            last = Some(x);
        } else if let Some(source) = last {
            *square = ((x - source) as f64 * spacing).powi(2);
        }
    }
    let mut next: Option<usize> = None;
    for (x, square) in row.iter_mut().enumerate().rev() {
        if *square == 0.0 {
            next = Some(x);
        } else if let Some(source) = next {
            *square = square.min(((source - x) as f64 * spacing).powi(2));
        }
    }
}

/// The lower envelope of parabolas (Felzenszwalb and Huttenlocher, Theory of Computing 8, 2012), with its buffers.
struct Envelope {
    spacing: f64,
    /// Sources of the parabolas on the envelope, from left to right, with their heights.
    parabolas: Vec<(usize, f64)>,
    /// Where each of them takes over from the one before it.
    starts: Vec<f64>,
}

impl Envelope {
    fn new(length: usize, spacing: f64) -> Self {
        Self { spacing, parabolas: Vec::with_capacity(length), starts: Vec::with_capacity(length) }
    }

    /// Replaces the squared distances of the column `values[offset + i·stride]` by their minimum over the column of
    /// value + squared distance.
    fn transform(&mut self, values: &mut [f64], offset: usize, stride: usize) {
        let length = values.len() / stride;
        self.parabolas.clear();
        self.starts.clear();
        for index in 0..length {
            let height = values[offset + index * stride];
            if height.is_finite() {
                self.push(index, height);
            }
        }
        if self.parabolas.is_empty() {
            return;
        }
        let mut current = 0;
        for index in 0..length {
            let position = index as f64 * self.spacing;
            while current + 1 < self.parabolas.len() && self.starts[current + 1] < position {
                current += 1;
            }
            let (source, height) = self.parabolas[current];
            let gap = index.abs_diff(source) as f64 * self.spacing;
            values[offset + index * stride] = height + gap * gap;
        }
    }

    /// Adds a parabola to the right of all others and drops those that it hides.
    fn push(&mut self, index: usize, height: f64) {
        let position = index as f64 * self.spacing;
        let mut start = f64::NEG_INFINITY;
        while let Some(&(source, below)) = self.parabolas.last() {
            let other = source as f64 * self.spacing;
            start = ((height + position * position) - (below + other * other)) / (2.0 * (position - other));
            if start > self.starts[self.parabolas.len() - 1] {
                break;
            }
            self.parabolas.pop();
            self.starts.pop();
            start = f64::NEG_INFINITY;
        }
        self.parabolas.push((index, height));
        self.starts.push(start);
    }
}
