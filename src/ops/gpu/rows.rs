//! Rows of half-precision numbers that stay on a GPU: feature maps of all slices, read there once a training and gathered
//! at each step.

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};

use super::{Gpu, Place, Planes, launch, place};

/// Bytes that are read and copied at a time.
const PIECE: usize = 16 << 20;

/// f16 `[N, …]` on a GPU. Clones share it.
#[derive(Clone, Debug)]
pub struct Rows(Tensor);

impl Rows {
    /// Rows of this shape, N first, on the GPU of `place`, with the numbers that `read` fills in: pieces of the little-endian
    /// bytes, one behind the other.
    ///
    /// # Errors
    /// Where `place` is no GPU or has no room for them, and of `read`.
    pub fn load(
        place: &Place,
        shape: &[usize],
        read: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<Self> {
        let gpu = place.gpu()?;
        let all = gpu.backend.empty(DType::F16, &shape.into())?;
        let bytes = 2 * all.elem_count();
        let mut piece = vec![0; PIECE.min(bytes)];
        for start in (0..bytes).step_by(PIECE) {
            let piece = &mut piece[..PIECE.min(bytes - start)];
            read(piece)?;
            gpu.backend.write(&all, start, piece)?;
        }
        Ok(Self(all))
    }

    /// The rows of these indices in single precision, `[indices, …]`.
    ///
    /// # Errors
    /// Where an index is none of a row, or this thread has not opened the GPU.
    pub fn gather(&self, indices: &[usize]) -> Result<Tensor> {
        let rows = self.0.dims()[0];
        for index in indices {
            ensure!(*index < rows, "row {index} of {rows}");
        }
        let mut dims = self.0.dims().to_vec();
        dims[0] = indices.len();
        let gpu = place::opened(&self.0)?;
        let numbers = indices.iter().map(|index| *index as u32).collect::<Vec<_>>();
        let numbers = gpu.here(&Tensor::from_vec(numbers, indices.len(), &Device::Cpu)?)?;
        let y = gpu.empty(dims)?;
        let planes = Planes::new(indices.len(), self.0.elem_count() / rows.max(1));
        launch!(gpu, gather_rows[planes.grid()], &self.0, &numbers, &y, planes.size, planes.pieces)?;
        Ok(y)
    }
}

impl Gpu {
    /// Bytes that can still be had, after what is kept for later has been given back.
    pub(super) fn room(&self) -> Result<usize> {
        self.backend.give_back()?;
        self.backend.room()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn rows_come_in_any_order_and_as_they_were() {
        let Ok(place) = Place::emulated() else { return println!("skipped: no C++ compiler") };
        // All sizes of numbers, two smallest ones and zeros of both signs among them.
        let special = [0x0001u16, 0x8001, 0x0000, 0x8000, 0x03FF, 0x0400, 0x7BFF, 0xFBFF].map(f16::from_bits);
        let numbers =
            (0..4 * 10u32).map(|i| f16::from_f32((i as f32 - 17.0) * 0.37 * 1.9f32.powi(i as i32 % 19 - 9)));
        let numbers: Vec<f16> = special.into_iter().chain(numbers).collect();
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut rest = &bytes[..];
        let rows = Rows::load(&place, &[6, 2, 2, 2], &mut |piece| {
            let (now, then) = rest.split_at(piece.len());
            piece.copy_from_slice(now);
            rest = then;
            Ok(())
        });
        let rows = rows.unwrap();
        assert!(rest.is_empty());
        place.run(|| {
            let found = rows.gather(&[5, 0, 5]).unwrap();
            assert_eq!(found.dims(), [3, 2, 2, 2]);
            let found = found.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let expected = [5, 0, 5].map(|row| numbers[8 * row..8 * row + 8].to_vec()).concat();
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found.to_bits(), expected.to_f32().to_bits(), "{expected}");
            }
            assert_eq!(rows.gather(&[6]).unwrap_err().to_string(), "row 6 of 6");
        });
        assert!(Rows::load(&Place::cpu(), &[1], &mut |_| Ok(())).is_err(), "the processor keeps none");
    }
}
