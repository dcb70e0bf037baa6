//! The diffusion model: its network, its noise schedule and training loss, sampling, and features for segmentation.

pub mod unet;
pub mod schedule;
pub mod sample;
pub mod features;
pub mod reduction;
