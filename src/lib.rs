//! `sweep`: YAML grids over semi-supervised segmentation of cardiac MR (MCSD), from the data to the paper's tables.

pub mod spec;
pub mod ops;
pub mod nn;
pub mod diffusion;
pub mod metrics;
pub mod stats;
pub mod rng;
