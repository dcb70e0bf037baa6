//! What one training step sees.

use anyhow::Result;
use candle_core::Tensor;

use crate::ops::Place;

/// Images as a network sees them.
pub struct View {
    /// `[B, 1, S, S]` in `[0, 1]`.
    pub image: Tensor,
    /// Diffusion features of the same images, where the method needs them.
    pub features: Option<FeatureMaps>,
}

/// Diffusion features of `B` images at their native resolutions.
pub struct FeatureMaps {
    /// One `[B, C, h, h]` for each step and block, step-major.
    pub maps: Vec<Tensor>,
    /// `[B, S, S, 2]`: where in the un-augmented S×S image each pixel of the view came from (y, x); negative y where it
    /// came from outside. `None` where the maps belong to the view as it is.
    pub grid: Option<Tensor>,
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
                maps: maps.maps.iter().map(|map| place.put(map)).collect::<Result<_>>()?,
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
