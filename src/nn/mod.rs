//! Networks: named parameters, layers, and the U-Net of SSL4MIS.

pub mod params;
pub mod file;
pub mod layers;
pub mod unet;
pub mod mcnet;
pub mod pyramid;
pub mod swin;

#[cfg(test)]
pub(crate) mod testing;
