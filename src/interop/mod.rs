//! What comes from and goes to other programs: weights of PyTorch, volumes and label maps on a researcher's disk.

pub mod compare;
pub mod predict;
pub mod volumes;
pub mod weights;
