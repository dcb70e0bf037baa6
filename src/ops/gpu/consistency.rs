//! Terms among several predictions.

use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

use super::loss::Maps;
use super::{Gpu, Grid, MOST_PREDICTIONS, check_classes, launch};
use crate::ops::tape::{NodeId, Sink, Tape, Var};

/// Predictions of equal shape, one behind the other.
struct Stack {
    maps: Maps,
    count: usize,
    nodes: Vec<Option<NodeId>>,
}

impl Stack {
    fn of(logits: &[Var]) -> Result<Self> {
        let maps = Maps::of(logits[0].value())?;
        check_classes(maps.classes)?;
        ensure!(
            logits.len() <= MOST_PREDICTIONS,
            "{} predictions: this loss takes at most {MOST_PREDICTIONS} on a GPU; say `--device cpu`",
            logits.len()
        );
        Ok(Self { maps, count: logits.len(), nodes: logits.iter().map(|l| l.node).collect() })
    }

    /// Hands each prediction its part of a gradient of all.
    fn give(self, gradient: &Tensor, sink: &mut Sink) -> Result<()> {
        for (k, node) in self.nodes.into_iter().enumerate() {
            if node.is_some() {
                // Parts of one buffer, which nobody else uses.
                sink.give(node, gradient.get(k)?)?;
            }
        }
        Ok(())
    }
}

impl Gpu {
    pub(in crate::ops) fn mutual_consistency(&self, tape: &Tape, logits: &[Var], power: f32) -> Result<Var> {
        let stack = Stack::of(logits)?;
        let Maps { classes, pixels, all } = stack.maps;
        let p = logits.iter().map(|l| self.softmax_eval(l.value())).collect::<Result<Vec<_>>>()?;
        let p = Tensor::stack(&p, 0)?.contiguous()?;
        let (gradient, blocks) = (self.empty(p.shape())?, self.parts(all));
        let parts = self.doubles(blocks)?;
        let grid = Grid::Blocks(blocks);
        launch!(self, mutual[grid], &p, &gradient, &parts, stack.count, classes, pixels, power, all)?;
        let n = (all * classes) as f64;
        let loss = self.total(&parts, 1.0 / n, 0.0)?;
        let (gpu, inputs) = (self.clone(), logits.iter().collect::<Vec<_>>());
        tape.record_on(self, loss, &inputs, move |g, sink| {
            stack.give(&gpu.scaled_by(&gradient, (2.0 / n) as f32, &g, None)?, sink)
        })
    }

    pub(in crate::ops) fn pyramid_consistency(&self, tape: &Tape, scales: &[Var], eps: f64) -> Result<Var> {
        let stack = Stack::of(scales)?;
        let (Maps { classes, pixels, all }, count) = (stack.maps, stack.count);
        let mut logs = Vec::with_capacity(count);
        for scale in scales {
            let y = self.empty(scale.value().shape())?;
            launch!(self, log_softmax[Grid::Each(all)], scale.value(), &y, classes, pixels, all)?;
            logs.push(y);
        }
        let logs = Tensor::stack(&logs, 0)?.contiguous()?;
        let (blocks, width) = (self.parts(all), 3 * count);
        let (parts, sums) = (self.doubles(blocks * width)?, self.doubles(width)?);
        launch!(self, pyramid_sums[Grid::Blocks(blocks)], &logs, &parts, count, classes, pixels, all)?;
        launch!(self, total_of_parts[Grid::Blocks(width)], &parts, blocks, width, &sums)?;
        let (loss, slopes) = (self.empty(())?, self.empty((count, 3))?);
        launch!(
            self,
            pyramid_slopes[Grid::Blocks(1)],
            &sums,
            count,
            all as f64,
            classes as f64,
            eps,
            &loss,
            &slopes
        )?;
        let (gpu, inputs) = (self.clone(), scales.iter().collect::<Vec<_>>());
        tape.record_on(self, loss, &inputs, move |g, sink| {
            let dx = gpu.empty(logs.shape())?;
            let grid = Grid::Each(all);
            launch!(gpu, pyramid_back[grid], &logs, &slopes, &*g, &dx, count, classes, pixels, all)?;
            stack.give(&dx, sink)
        })
    }

    /// The Gaussian mean of planes of h×w.
    fn blurred(&self, x: &Tensor, taps: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = x.dims4()?;
        let (line, y, n) = (self.empty(x.shape())?, self.empty(x.shape())?, x.elem_count());
        launch!(self, blur[Grid::Each(n)], x, taps, &line, h, w, true, n)?;
        launch!(self, blur[Grid::Each(n)], &line, taps, &y, h, w, false, n)?;
        Ok(y)
    }

    pub(in crate::ops) fn dissimilarity(
        &self,
        tape: &Tape,
        x: &Var,
        target: &Tensor,
        taps: &[f32],
    ) -> Result<Var> {
        let (a, b, n) = (x.value(), self.here(target)?, x.len());
        let bits = taps.iter().map(|t| t.to_bits()).collect::<Vec<_>>();
        let taps = self.order(&bits)?;
        ensure!(taps.dtype() == DType::U32, "taps are kept as bits");
        let mean = |x: &Tensor| self.blurred(x, &taps);
        let (mx, my) = (mean(a)?, mean(&b)?);
        let mxx = mean(&self.square(a, a)?)?;
        let myy = mean(&self.square(&b, &b)?)?;
        let mxy = mean(&self.square(a, &b)?)?;
        let blocks = self.parts(n);
        let parts = self.doubles(blocks)?;
        launch!(self, ssim[Grid::Blocks(blocks)], &mx, &my, &mxx, &myy, &mxy, &parts, n)?;
        let (of_mean, of_square, of_product) = (mean(&mx)?, mean(&mxx)?, mean(&mxy)?);
        let gradient = self.empty(a.shape())?;
        launch!(self, ssim_back[Grid::Each(n)], a, &b, &of_mean, &of_square, &of_product, &gradient, n)?;
        let loss = self.total(&parts, -1.0 / n as f64, 1.0)?;
        let (gpu, node) = (self.clone(), x.node);
        tape.record_on(self, loss, &[x], move |g, sink| {
            sink.give(node, gpu.scaled_by(&gradient, (-1.0 / n as f64) as f32, &g, None)?)
        })
    }
}
