//! `sweep`: YAML grids over semi-supervised segmentation of cardiac MR (MCSD), from the data to the paper's tables.
//!
//! Modules in reading order: [`spec`] (a sweep file as points), [`plan`] (points as stages), [`exec`] (stages as
//! processes), [`store`] (their results on disk), [`stage`] (what a stage does), and below it the science: [`data`],
//! [`ops`], [`nn`], [`diffusion`], [`methods`], [`train`], [`metrics`]; then [`results`], [`stats`] and [`report`]; beside them [`interop`],
//! for weights, volumes and label maps of other programs.

pub mod spec;
pub mod plan;
pub mod exec;
pub mod store;
pub mod stage;
pub mod data;
pub mod ops;
pub mod nn;
pub mod diffusion;
pub mod methods;
pub mod train;
pub mod cost;
pub mod bench;
pub mod metrics;
pub mod results;
pub mod stats;
pub mod report;
pub mod interop;
pub mod cli;
pub mod rng;
