//! Batch and group normalisation, and affine maps of planes.

use anyhow::Result;
use candle_core::Tensor;

use super::{Gpu, Grid, MaskArguments, Planes, launch};
use crate::ops::norm::{Activation, After, BatchNorm};
use crate::ops::tape::{Sink, Tape, Var};

/// What follows a norm, as arguments of a kernel.
#[derive(Clone, Copy)]
struct Behind {
    silu: bool,
    slope: f32,
    mask: MaskArguments,
}

impl From<After> for Behind {
    fn from(after: After) -> Self {
        let (silu, slope) = match after.activation {
            Activation::Leaky(slope) => (false, slope),
            Activation::Silu => (true, 1.0),
        };
        Self { silu, slope, mask: after.mask.into() }
    }
}

/// A value as planes, and the map of each (mean, inverse, a, b).
struct Normed {
    input: Var,
    planes: Planes,
    maps: Tensor,
    batch: usize,
    channels: usize,
    behind: Behind,
}

impl Normed {
    fn new(gpu: &Gpu, x: &Var, after: After) -> Result<Self> {
        let (batch, channels) = (x.dims()[0], x.dims()[1]);
        let count = batch * channels;
        let planes = Planes::new(count, x.len() / count);
        let maps = gpu.empty((count, 4))?;
        Ok(Self { input: x.clone(), planes, maps, batch, channels, behind: after.into() })
    }

    /// Mean and Σ(x − mean)² of the pieces of all planes.
    fn moments(&self, gpu: &Gpu) -> Result<Tensor> {
        let planes = self.planes;
        let out = gpu.doubles(2 * planes.count * planes.pieces)?;
        launch!(gpu, plane_moments[planes.grid()], self.input.value(), planes.size, planes.pieces, &out)?;
        Ok(out)
    }

    fn forward(&self, gpu: &Gpu) -> Result<Tensor> {
        let (planes, Behind { silu, slope, mask }) = (self.planes, self.behind);
        let y = gpu.empty(self.input.value().shape())?;
        launch!(
            gpu,
            normalise[planes.grid()],
            self.input.value(),
            &self.maps,
            &y,
            planes.size,
            planes.pieces,
            silu,
            slope,
            mask.on,
            mask.key,
            mask.keep_last,
            mask.scale
        )?;
        Ok(y)
    }

    /// Σdz and Σdz·x̂ of each plane.
    fn totals(&self, gpu: &Gpu, g: &Tensor) -> Result<Tensor> {
        let (planes, Behind { silu, slope, mask }) = (self.planes, self.behind);
        let sums = gpu.doubles(2 * planes.count * planes.pieces)?;
        launch!(
            gpu,
            norm_back[planes.grid()],
            self.input.value(),
            g,
            &self.maps,
            planes.size,
            planes.pieces,
            silu,
            slope,
            mask.on,
            mask.key,
            mask.keep_last,
            mask.scale,
            &sums
        )?;
        let totals = gpu.doubles(2 * planes.count)?;
        let n = planes.count;
        launch!(gpu, plane_totals[Grid::Each(n)], &sums, planes.pieces, &totals, n)?;
        Ok(totals)
    }

    /// The gradient of x.
    fn backward(&self, gpu: &Gpu, g: &Tensor, means: Option<&Tensor>) -> Result<Tensor> {
        let (planes, Behind { silu, slope, mask }) = (self.planes, self.behind);
        let dx = gpu.empty(self.input.value().shape())?;
        launch!(
            gpu,
            norm_combine[planes.grid()],
            self.input.value(),
            g,
            &dx,
            &self.maps,
            means,
            planes.size,
            planes.pieces,
            silu,
            slope,
            mask.on,
            mask.key,
            mask.keep_last,
            mask.scale
        )?;
        Ok(dx)
    }

    /// The gradients of γ and β.
    fn parameters(&self, gpu: &Gpu, totals: &Tensor, scale: Option<&Tensor>) -> Result<[Tensor; 2]> {
        let (dgamma, dbeta) = (gpu.empty(self.channels)?, gpu.empty(self.channels)?);
        let (batch, channels) = (self.batch, self.channels);
        let grid = Grid::Blocks(channels);
        launch!(gpu, norm_parameters[grid], totals, scale, &dgamma, &dbeta, batch, channels)?;
        Ok([dgamma, dbeta])
    }
}

impl Gpu {
    /// With the `bias` of x that was left out: the norm takes it away again, so it stands in the running mean alone and its
    /// gradient is 0.
    #[expect(clippy::too_many_arguments, reason = "three ops in one")]
    pub(in crate::ops) fn batch_norm(
        &self,
        tape: &Tape,
        x: &Var,
        bias: Option<&Var>,
        gamma: &Var,
        beta: &Var,
        running_mean: &Tensor,
        running_var: &Tensor,
        settings: BatchNorm,
        after: After,
    ) -> Result<Var> {
        let normed = Normed::new(self, x, after)?;
        let trains = tape.mode().trains();
        let moments = if trains { Some(normed.moments(self)?) } else { None };
        let Planes { size, pieces, .. } = normed.planes;
        launch!(
            self,
            batch_statistics[Grid::Blocks(normed.channels)],
            moments.as_ref(),
            bias.map(Var::value),
            gamma.value(),
            beta.value(),
            running_mean,
            running_var,
            &normed.maps,
            normed.batch,
            normed.channels,
            size,
            pieces,
            settings.eps,
            settings.momentum
        )?;
        let y = normed.forward(self)?;
        let (gpu, scale, shift, left_out) = (self.clone(), gamma.node, beta.node, bias.and_then(|b| b.node));
        let inputs: Vec<&Var> = [x, gamma, beta].into_iter().chain(bias).collect();
        tape.record_on(self, y, &inputs, move |g, sink| {
            let totals = normed.totals(&gpu, &g)?;
            if left_out.is_some() {
                sink.give(left_out, gpu.filled(normed.channels, 0.0)?)?;
            }
            let [dgamma, dbeta] = normed.parameters(&gpu, &totals, None)?;
            sink.give(scale, dgamma)?;
            sink.give(shift, dbeta)?;
            if normed.input.node.is_some() {
                let (batch, channels, planes) = (normed.batch, normed.channels, normed.planes);
                let means = if trains {
                    let means = gpu.empty((planes.count, 2))?;
                    let count = (batch * planes.size) as f64;
                    let grid = Grid::Blocks(channels);
                    launch!(gpu, batch_means[grid], &totals, &normed.maps, &means, batch, channels, count)?;
                    Some(means)
                } else {
                    None
                };
                sink.give(normed.input.node, normed.backward(&gpu, &g, means.as_ref())?)?;
            }
            Ok(())
        })
    }

    #[expect(clippy::too_many_arguments, reason = "four ops in one")]
    pub(in crate::ops) fn group_norm(
        &self,
        tape: &Tape,
        x: &Var,
        gamma: &Var,
        beta: &Var,
        modulation: Option<(&Var, &Var)>,
        groups: usize,
        eps: f64,
        after: After,
    ) -> Result<Var> {
        let normed = Normed::new(self, x, after)?;
        let (channels, width) = (normed.channels, normed.channels / groups);
        let Planes { count, size, pieces } = normed.planes;
        let scale = modulation.map(|(scale, _)| scale.clone());
        launch!(
            self,
            group_statistics[Grid::Blocks(count / width)],
            &normed.moments(self)?,
            gamma.value(),
            beta.value(),
            modulation.map(|(scale, _)| scale.value()),
            modulation.map(|(_, shift)| shift.value()),
            &normed.maps,
            channels,
            width,
            size,
            pieces,
            eps
        )?;
        let y = normed.forward(self)?;
        let inputs: Vec<&Var> =
            [x, gamma, beta].into_iter().chain(modulation.into_iter().flat_map(|(s, t)| [s, t])).collect();
        let (gpu, gamma, beta) = (self.clone(), gamma.clone(), beta.clone());
        let nodes = modulation.map(|(scale, shift)| (scale.node, shift.node));
        tape.record_on(self, y, &inputs, move |g, sink: &mut Sink| {
            let totals = normed.totals(&gpu, &g)?;
            let scale = scale.as_ref().map(Var::value);
            let [dgamma, dbeta] = normed.parameters(&gpu, &totals, scale)?;
            sink.give(gamma.node, dgamma)?;
            sink.give(beta.node, dbeta)?;
            if let Some((scale_node, shift_node)) = nodes {
                let (dscale, dshift) =
                    (gpu.empty((normed.batch, channels))?, gpu.empty((normed.batch, channels))?);
                launch!(
                    gpu,
                    modulation_parameters[Grid::Each(count)],
                    &totals,
                    gamma.value(),
                    beta.value(),
                    &dscale,
                    &dshift,
                    channels,
                    count
                )?;
                sink.give(scale_node, dscale)?;
                sink.give(shift_node, dshift)?;
            }
            if normed.input.node.is_some() {
                let means = gpu.empty((count, 2))?;
                launch!(
                    gpu,
                    group_means[Grid::Blocks(count / width)],
                    &totals,
                    &normed.maps,
                    gamma.value(),
                    scale,
                    &means,
                    channels,
                    width,
                    (width * size) as f64
                )?;
                sink.give(normed.input.node, normed.backward(&gpu, &g, Some(&means))?)?;
            }
            Ok(())
        })
    }

    /// x·(1 + scale) + shift of each plane; either may be absent.
    pub(in crate::ops) fn affine(
        &self,
        tape: &Tape,
        x: &Var,
        scale: Option<&Var>,
        shift: Option<&Var>,
    ) -> Result<Var> {
        let identity = After { activation: Activation::Leaky(1.0), mask: None };
        let normed = Normed::new(self, x, identity)?;
        let n = normed.planes.count;
        let (factors, shifts) = (scale.map(Var::value), shift.map(Var::value));
        launch!(self, affine_planes[Grid::Each(n)], factors, shifts, &normed.maps, n)?;
        let y = normed.forward(self)?;
        let inputs: Vec<&Var> = [x].into_iter().chain(scale).chain(shift).collect();
        let (gpu, scales) = (self.clone(), scale.is_some());
        let (scale, shift) = (scale.and_then(|v| v.node), shift.and_then(|v| v.node));
        tape.record_on(self, y, &inputs, move |g, sink| {
            let totals = normed.totals(&gpu, &g)?;
            let shape = (normed.batch, normed.channels);
            let (dscale, dshift) = (gpu.empty(shape)?, gpu.empty(shape)?);
            let none = None::<&Tensor>;
            let grid = Grid::Each(n);
            launch!(
                gpu,
                modulation_parameters[grid],
                &totals,
                none,
                none,
                &dscale,
                &dshift,
                normed.channels,
                n
            )?;
            sink.give(scale, dscale)?;
            sink.give(shift, dshift)?;
            if !scales {
                return sink.give(normed.input.node, g);
            }
            if normed.input.node.is_some() {
                sink.give(normed.input.node, normed.backward(&gpu, &g, None)?)?;
            }
            Ok(())
        })
    }
}
