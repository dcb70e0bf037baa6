//! One patient: a heart at two phases in a body, drawn at random. Lengths in mm, angles in radians; x to the right and
//! y down in the image plane, u along the long axis from the base of the heart towards its apex.

use std::f32::consts::{PI, TAU};

use rand::Rng;

use super::body::Body;
use super::heart::{Heart, Papillary};
use super::noise::normal;
use super::{Phase, between};

/// What a patient suffers from, as in ACDC: one fifth of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pathology {
    Normal,
    Infarction,
    Dilated,
    Hypertrophic,
    RightVentricle,
}

const PATHOLOGIES: [Pathology; 5] = [
    Pathology::Normal,
    Pathology::Infarction,
    Pathology::Dilated,
    Pathology::Hypertrophic,
    Pathology::RightVentricle,
];

/// A patient on the table.
pub(super) struct Anatomy {
    diastole: Heart,
    systole: Heart,
    /// Everything around the heart.
    pub(super) body: Body,
    /// How far the first slice lies above the base at end-diastole.
    pub(super) above_base: f32,
    /// Length from the first to the last slice.
    pub(super) coverage: f32,
}

impl Anatomy {
    /// Draws a patient for images of `field_of_view` (height, width).
    pub(super) fn draw(rng: &mut impl Rng, field_of_view: [f32; 2]) -> Self {
        let pathology = PATHOLOGIES[rng.random_range(0..PATHOLOGIES.len())];
        let reach = [field_of_view[0] * 0.09, field_of_view[1] * 0.09];
        let centre = [
            normal(rng, 0.0, 0.5).clamp(-1.0, 1.0) * reach[1],
            normal(rng, 0.0, 0.5).clamp(-1.0, 1.0) * reach[0],
        ];
        let diastole = draw_heart(rng, pathology, centre);
        let systole = contract(rng, &diastole, pathology);
        let body = Body::draw(rng, centre);
        let above_base = between(rng, -6.0, 5.0);
        let below_apex = between(rng, -13.0, 3.0);
        let coverage = above_base + diastole.length + 0.8 * diastole.wall + below_apex;
        Self { diastole, systole, body, above_base, coverage }
    }

    /// The heart at `phase`.
    pub(super) fn heart(&self, phase: Phase) -> &Heart {
        match phase {
            Phase::Diastole => &self.diastole,
            Phase::Systole => &self.systole,
        }
    }
}

/// The heart at end-diastole.
fn draw_heart(rng: &mut impl Rng, pathology: Pathology, centre: [f32; 2]) -> Heart {
    let scale = normal(rng, 1.0, 0.08);
    let (radius, wall) = match pathology {
        Pathology::Dilated => (between(rng, 28.0, 34.0), between(rng, 6.5, 8.5)),
        Pathology::Hypertrophic => (between(rng, 19.0, 23.0), between(rng, 11.5, 16.0)),
        _ => (between(rng, 21.5, 27.0), between(rng, 7.5, 10.5)),
    };
    let (rv_reach, rv_across) = match pathology {
        Pathology::RightVentricle => (between(rng, 33.0, 44.0), between(rng, 1.15, 1.4)),
        _ => (between(rng, 20.0, 32.0), between(rng, 0.98, 1.25)),
    };
    // The septum faces up and left in most images.
    let rv_angle = PI + 0.35 + normal(rng, 0.0, 0.4);
    let harmonic = |rng: &mut _, size: f32| {
        let (sin, cos) = between(rng, 0.0, TAU).sin_cos();
        let size = size * between(rng, 0.2, 1.0);
        [size * cos, size * sin]
    };
    let thick_side = if pathology == Pathology::Hypertrophic { 0.35 } else { 0.15 };
    let papillary = [1.0f32, -1.0].map(|side| Papillary {
        angle: rv_angle + PI + side * between(rng, 0.75, 1.3),
        distance: between(rng, 0.58, 0.74),
        radius: scale * between(rng, 3.4, 5.6),
        start: between(rng, 0.12, 0.3),
        end: between(rng, 0.6, 0.8),
    });
    Heart {
        centre,
        tilt: [normal(rng, 0.0, 0.09), normal(rng, 0.0, 0.09)],
        base: 0.0,
        length: scale * between(rng, 70.0, 88.0),
        radius: scale * radius,
        wall: scale * wall,
        oval: harmonic(rng, 0.07),
        triangle: harmonic(rng, 0.035),
        thick_side: harmonic(rng, thick_side),
        scar: (pathology == Pathology::Infarction)
            .then(|| (between(rng, 0.0, TAU), between(rng, 0.35, 0.65), between(rng, 0.3, 0.75))),
        rv_angle,
        rv_reach: scale * rv_reach,
        rv_across,
        rv_base: between(rng, -6.0, 8.0),
        rv_length: between(rng, 0.72, 0.92),
        rv_trabeculae: between(rng, 0.35, 0.8),
        papillary,
        trabeculae: scale * between(rng, 0.8, 2.4),
        fat: between(rng, 1.0, 11.0),
        fat_side: between(rng, 0.0, TAU),
    }
}

/// The same heart at end-systole: narrower, shorter, its wall thicker by what incompressibility asks for.
fn contract(rng: &mut impl Rng, diastole: &Heart, pathology: Pathology) -> Heart {
    let (narrow, shorten) = match pathology {
        Pathology::Dilated => (between(rng, 0.84, 0.94), between(rng, 0.92, 0.97)),
        Pathology::Infarction => (between(rng, 0.74, 0.88), between(rng, 0.88, 0.95)),
        Pathology::Hypertrophic => (between(rng, 0.5, 0.64), between(rng, 0.83, 0.9)),
        _ => (between(rng, 0.6, 0.74), between(rng, 0.82, 0.89)),
    };
    let rv_narrow = match pathology {
        Pathology::RightVentricle => between(rng, 0.82, 0.95),
        _ => between(rng, 0.6, 0.8),
    };
    let radius = diastole.radius * narrow;
    let area = ((diastole.radius + diastole.wall).powi(2) - diastole.radius.powi(2)) / shorten;
    let wall = (radius * radius + 0.95 * area).sqrt() - radius;
    let descent = diastole.length * (1.0 - shorten);
    Heart {
        centre: [diastole.centre[0] + normal(rng, 0.0, 1.5), diastole.centre[1] + normal(rng, 0.0, 1.5)],
        base: descent,
        length: diastole.length - 1.05 * descent,
        radius,
        wall,
        rv_reach: diastole.rv_reach * rv_narrow,
        rv_across: diastole.rv_across * 0.97,
        papillary: diastole.papillary.map(|muscle| Papillary {
            // In systole they touch the wall and each other.
            distance: muscle.distance + 0.08,
            radius: muscle.radius * between(rng, 0.95, 1.1),
            ..muscle
        }),
        ..diastole.clone()
    }
}
