//! Losses over class maps.

use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

use super::{Gpu, Grid, launch};
use crate::ops::tape::{Tape, Var};

/// The classes and pixels of class maps `[B,C,H,W]`, and the pixels of all images.
#[derive(Clone, Copy)]
pub(super) struct Maps {
    pub(super) classes: usize,
    pub(super) pixels: usize,
    pub(super) all: usize,
}

impl Maps {
    pub(super) fn of(maps: &Tensor) -> Result<Self> {
        let (b, classes, h, w) = maps.dims4()?;
        ensure!(maps.elem_count() > 0, "class maps of shape {:?} are empty", maps.dims());
        Ok(Self { classes, pixels: h * w, all: b * h * w })
    }
}

impl Gpu {
    pub(in crate::ops) fn softmax_eval(&self, logits: &Tensor) -> Result<Tensor> {
        let (x, Maps { classes, pixels, all }) = (self.here(logits)?, Maps::of(logits)?);
        let y = self.empty(x.shape())?;
        launch!(self, softmax[Grid::Each(all)], &x, &y, classes, pixels, all)?;
        Ok(y)
    }

    pub(in crate::ops) fn softmax_confidence(&self, logits: &Tensor) -> Result<(Tensor, Tensor)> {
        let (x, Maps { classes, pixels, all }) = (self.here(logits)?, Maps::of(logits)?);
        ensure!(classes <= 256, "{classes} classes do not fit a byte");
        let (b, _, h, w) = x.dims4()?;
        let (label, sure) = (self.backend.empty(DType::U8, &(b, h, w).into())?, self.empty((b, h, w))?);
        launch!(self, confidence[Grid::Each(all)], &x, &label, &sure, classes, pixels, all)?;
        Ok((label, sure))
    }

    pub(in crate::ops) fn softmax(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let y = self.softmax_eval(x.value())?;
        let Maps { classes, pixels, all } = Maps::of(x.value())?;
        let (gpu, node, saved) = (self.clone(), x.node, y.clone());
        tape.record_on(self, y, &[x], move |g, sink| {
            let dx = gpu.empty(saved.shape())?;
            launch!(gpu, softmax_back[Grid::Each(all)], &saved, &*g, &dx, classes, pixels, all)?;
            sink.give(node, dx)
        })
    }

    /// Cross-entropy over the pixels that are kept: Σ/(count + `eps`).
    pub(in crate::ops) fn cross_entropy(
        &self,
        tape: &Tape,
        logits: &Var,
        target: &Tensor,
        keep: Option<&Tensor>,
        eps: f64,
    ) -> Result<Var> {
        let Maps { classes, pixels, all } = Maps::of(logits.value())?;
        let target = self.here(target)?;
        let keep = keep.map(|keep| self.here(keep)).transpose()?;
        let gradient = match logits.node {
            Some(_) => Some(self.empty(logits.value().shape())?),
            None => None,
        };
        let blocks = self.parts(all);
        let (parts, total) = (self.doubles(2 * blocks)?, self.doubles(2)?);
        launch!(
            self,
            cross_entropy[Grid::Blocks(blocks)],
            logits.value(),
            &target,
            keep.as_ref(),
            gradient.as_ref(),
            &parts,
            classes,
            pixels,
            all
        )?;
        launch!(self, total_of_parts[Grid::Blocks(2)], &parts, blocks, 2usize, &total)?;
        // The loss and the weight of a pixel.
        let both = self.empty(2)?;
        launch!(self, mean_of_kept[Grid::Blocks(1)], &total, eps, &both)?;
        let loss = both.narrow(0, 0, 1)?.reshape(())?;
        let weight = both.narrow(0, 1, 1)?;
        let (gpu, node) = (self.clone(), logits.node);
        tape.record_on(self, loss, &[logits], move |g, sink| match gradient {
            Some(gradient) => sink.give(node, gpu.scaled_by(&gradient, 1.0, &g, Some(&weight))?),
            None => Ok(()),
        })
    }

    pub(in crate::ops) fn dice(
        &self,
        tape: &Tape,
        logits: &Var,
        target: &Tensor,
        keep: Option<&Tensor>,
        eps: f64,
    ) -> Result<Var> {
        let Maps { classes, pixels, all } = Maps::of(logits.value())?;
        let target = self.here(target)?;
        let keep = keep.map(|keep| self.here(keep)).transpose()?;
        let p = self.softmax_eval(logits.value())?;
        let (blocks, width) = (self.parts(all), 3 * classes);
        let (parts, sums) = (self.doubles(blocks * width)?, self.doubles(width)?);
        let grid = Grid::Blocks(blocks);
        launch!(self, dice_sums[grid], &p, &target, keep.as_ref(), &parts, classes, pixels, all)?;
        launch!(self, total_of_parts[Grid::Blocks(width)], &parts, blocks, width, &sums)?;
        let (loss, factors) = (self.empty(())?, self.empty((classes, 2))?);
        launch!(self, dice_factors[Grid::Blocks(1)], &sums, classes, eps, &loss, &factors)?;
        let (gpu, node) = (self.clone(), logits.node);
        tape.record_on(self, loss, &[logits], move |g, sink| {
            let dx = gpu.empty(p.shape())?;
            launch!(
                gpu,
                dice_back[Grid::Each(all)],
                &p,
                &target,
                keep.as_ref(),
                &factors,
                &*g,
                &dx,
                classes,
                pixels,
                all
            )?;
            sink.give(node, dx)
        })
    }

    /// `factor`·Σ(x − target)², over the pixels of `[B,C,H,W]` that are kept.
    pub(in crate::ops) fn squares(
        &self,
        tape: &Tape,
        x: &Var,
        target: &Tensor,
        keep: Option<&Tensor>,
        factor: f64,
    ) -> Result<Var> {
        let maps = match keep {
            Some(_) => Maps::of(x.value())?,
            None => Maps { classes: 1, pixels: x.len(), all: x.len() },
        };
        let target = self.here(target)?;
        let keep = keep.map(|keep| self.here(keep)).transpose()?;
        let (n, blocks) = (x.len(), self.parts(x.len()));
        let (gradient, parts) = (self.empty(x.value().shape())?, self.doubles(blocks)?);
        launch!(
            self,
            squares[Grid::Blocks(blocks)],
            x.value(),
            &target,
            keep.as_ref(),
            &gradient,
            &parts,
            maps.classes,
            maps.pixels,
            n
        )?;
        let loss = self.total(&parts, factor, 0.0)?;
        let (gpu, node) = (self.clone(), x.node);
        tape.record_on(self, loss, &[x], move |g, sink| {
            sink.give(node, gpu.scaled_by(&gradient, (2.0 * factor) as f32, &g, None)?)
        })
    }
}
