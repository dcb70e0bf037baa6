//! Largest connected components of label maps.

use anyhow::Result;
use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// `labels`, u8 `[B, S, S]`, with only the largest 8-connected component of each class above 0 in each image; of equally
/// large ones the first in reading order. Everything else becomes 0.
pub(crate) fn largest(labels: &Tensor) -> Result<Tensor> {
    let (b, h, w) = labels.dims3()?;
    let mut values = labels.flatten_all()?.to_vec1::<u8>()?;
    values.par_chunks_mut((h * w).max(1)).for_each(|image| keep_largest(image, w));
    Ok(Tensor::from_vec(values, (b, h, w), &Device::Cpu)?)
}

/// The same on one image, rows of `width`.
fn keep_largest(image: &mut [u8], width: usize) {
    let mut component = vec![0u32; image.len()];
    // Of each class: the size and number of its largest component.
    let mut best = [(0usize, 0u32); 256];
    let mut stack = Vec::new();
    let mut count = 0;
    for start in 0..image.len() {
        if image[start] == 0 || component[start] != 0 {
            continue;
        }
        let class = image[start];
        count += 1;
        component[start] = count;
        stack.push(start);
        let mut size = 0;
        while let Some(at) = stack.pop() {
            size += 1;
            let (row, column) = (at / width, at % width);
            for y in row.saturating_sub(1)..=(row + 1).min(image.len() / width - 1) {
                for x in column.saturating_sub(1)..=(column + 1).min(width - 1) {
                    let next = y * width + x;
                    if image[next] == class && component[next] == 0 {
                        component[next] = count;
                        stack.push(next);
                    }
                }
            }
        }
        let best = &mut best[usize::from(class)];
        if size > best.0 {
            *best = (size, count);
        }
    }
    for (label, component) in image.iter_mut().zip(component) {
        if best[usize::from(*label)].1 != component {
            *label = 0;
        }
    }
}
