//! What one training step sees.

use std::sync::Arc;

use anyhow::Result;
use candle_core::Tensor;

use crate::ops::{Place, Rows};

/// Images as a network sees them.
pub struct View {
    /// `[B, 1, S, S]` in `[0, 1]`.
    pub image: Tensor,
    /// Diffusion features of the same images, where the method needs them.
    pub features: Option<FeatureMaps>,
}

/// Diffusion features of `B` images at their native resolutions.
pub struct FeatureMaps {
    /// One map for each step and block, step-major.
    pub maps: Maps,
    /// `[B, S, S, 2]`: where in the un-augmented S×S image each pixel of the view came from (y, x); negative y where it
    /// came from outside. `None` where the maps belong to the view as it is.
    pub grid: Option<Tensor>,
}

/// The maps of the images of a batch.
pub enum Maps {
    /// `[B, C, h, h]` each.
    Given(Vec<Tensor>),
    /// These rows of the maps of all slices, which are on the GPU.
    Kept {
        /// The maps of all slices.
        of: Arc<[Rows]>,
        /// The slices of the batch.
        rows: Vec<usize>,
    },
}

impl FromIterator<Tensor> for Maps {
    fn from_iter<I: IntoIterator<Item = Tensor>>(maps: I) -> Self {
        Self::Given(maps.into_iter().collect())
    }
}

impl Maps {
    /// `[B, C, h, h]` each.
    ///
    /// # Errors
    /// Where what is kept cannot be read.
    pub fn tensors(&self) -> Result<Vec<Tensor>> {
        match self {
            Self::Given(maps) => Ok(maps.clone()),
            Self::Kept { of, rows } => of.iter().map(|map| map.gather(rows)).collect(),
        }
    }

    /// Those of the images of this batch and, behind them, of another one.
    ///
    /// # Errors
    /// Where they do not fit together or cannot be read.
    pub fn joined(&self, other: &Self) -> Result<Vec<Tensor>> {
        if let (Self::Kept { of, rows }, Self::Kept { of: others, rows: more }) = (self, other)
            && Arc::ptr_eq(of, others)
        {
            let rows = [&rows[..], more].concat();
            return Self::Kept { of: of.clone(), rows }.tensors();
        }
        let pairs = self.tensors()?.into_iter().zip(other.tensors()?);
        Ok(pairs.map(|(a, b)| Tensor::cat(&[a, b], 0)).collect::<candle_core::Result<_>>()?)
    }

    fn put(&self, place: &Place) -> Result<Self> {
        Ok(match self {
            Self::Given(maps) => Self::Given(maps.iter().map(|map| place.put(map)).collect::<Result<_>>()?),
            Self::Kept { of, rows } => Self::Kept { of: of.clone(), rows: rows.clone() },
        })
    }
}

/// One training batch.
pub struct Batch {
    /// Weak views of labelled images.
    pub labelled: View,
    /// Their labels: u8 `[B, S, S]`.
    pub target: Tensor,
    /// Weak views of unlabelled images.
    pub unlabelled: Option<View>,
    /// Strong views of the unlabelled images.
    pub strong: Option<StrongViews>,
}

impl View {
    fn put(&self, place: &Place) -> Result<Self> {
        let maps = |maps: &FeatureMaps| -> Result<FeatureMaps> {
            Ok(FeatureMaps {
                maps: maps.maps.put(place)?,
                grid: maps.grid.as_ref().map(|grid| place.put(grid)).transpose()?,
            })
        };
        Ok(Self { image: place.put(&self.image)?, features: self.features.as_ref().map(maps).transpose()? })
    }
}

impl Batch {
    /// The same in `place`.
    ///
    /// # Errors
    /// Where it cannot be moved.
    pub fn put(&self, place: &Place) -> Result<Self> {
        let strong = |views: &StrongViews| -> Result<StrongViews> {
            let two = |pair: &[Tensor; 2]| -> Result<[Tensor; 2]> {
                Ok([place.put(&pair[0])?, place.put(&pair[1])?])
            };
            Ok(StrongViews {
                images: two(&views.images)?,
                pasted: two(&views.pasted)?,
                partner: place.put(&views.partner)?,
            })
        };
        Ok(Self {
            labelled: self.labelled.put(place)?,
            target: place.put(&self.target)?,
            unlabelled: self.unlabelled.as_ref().map(|view| view.put(place)).transpose()?,
            strong: self.strong.as_ref().map(strong).transpose()?,
        })
    }
}

/// Two strongly augmented, CutMixed views of the unlabelled images.
pub struct StrongViews {
    /// `[B, 1, S, S]` each.
    pub images: [Tensor; 2],
    /// u8 `[B, S, S]` each: 1 where the pixel was pasted from the mix partner.
    pub pasted: [Tensor; 2],
    /// Weak views of the mix partners, `[B, 1, S, S]`: their pseudo-labels are pasted likewise.
    pub partner: Tensor,
}
