//! What surrounds the heart: chest wall with fat and ribs, lungs, liver, stomach, spine, great vessels, and rings that
//! look like ventricles and are none.

use rand::Rng;

use super::noise::{Field, normal};
use super::{Tissue, between};

/// An ellipse of tissue with a rim of another.
#[derive(Clone, Copy, Debug)]
struct Organ {
    centre: [f32; 2],
    half: [f32; 2],
    turn: [f32; 2],
    inside: Tissue,
    rim: Tissue,
    /// Width of the rim, mm.
    rim_width: f32,
    /// Waviness of the outline, relative.
    wavy: f32,
    /// Where its size is greatest on the long axis, and its half length there, mm.
    at: f32,
    length: f32,
}

/// The body of a patient.
pub(super) struct Body {
    centre: [f32; 2],
    turn: [f32; 2],
    half: [f32; 2],
    fat: f32,
    wall: f32,
    /// Texture above which lungs show vessels.
    lung_vessels: f32,
    /// Half width of the soft tissue between the lungs, mm.
    mediastinum: f32,
    organs: Vec<Organ>,
}

/// A body cut at one position of the long axis.
pub(super) struct BodySlice<'a> {
    body: &'a Body,
    organs: Vec<Organ>,
}

impl Body {
    /// Draws the body around a heart at `heart` (x, y) mm.
    pub(super) fn draw(rng: &mut impl Rng, heart: [f32; 2]) -> Self {
        let centre = [heart[0] - between(rng, 5.0, 32.0), heart[1] + between(rng, 8.0, 30.0)];
        let (sin, cos) = normal(rng, 0.0, 0.22).sin_cos();
        Self {
            centre,
            turn: [cos, sin],
            half: [between(rng, 140.0, 180.0), between(rng, 98.0, 126.0)],
            fat: between(rng, 5.0, 22.0),
            wall: between(rng, 9.0, 17.0),
            lung_vessels: between(rng, 0.56, 0.78),
            mediastinum: between(rng, 22.0, 40.0),
            organs: draw_organs(rng),
        }
    }

    /// The cut at `u` mm on the long axis.
    pub(super) fn at(&self, u: f32) -> BodySlice<'_> {
        let organs = self
            .organs
            .iter()
            .filter_map(|organ| {
                let t = (u - organ.at) / organ.length;
                let size = (1.0 - t * t).max(0.0).sqrt();
                (size > 0.15).then(|| Organ { half: organ.half.map(|half| half * size), ..*organ })
            })
            .collect();
        BodySlice { body: self, organs }
    }
}

/// Length of what runs along the whole long axis, mm.
const LONG: f32 = 1e4;

/// The organs in the body's frame (heart at about (18, −18)); earlier ones hide later ones.
fn draw_organs(rng: &mut impl Rng) -> Vec<Organ> {
    let mut organs = Vec::new();
    let mut add =
        |rng: &mut _, centre: [f32; 2], spread: f32, half: [f32; 2], inside, rim, rim_width, at, length| {
            let (sin, cos) = normal(rng, 0.0, 0.4).sin_cos();
            let size = normal(rng, 1.0, 0.14);
            organs.push(Organ {
                centre: [normal(rng, centre[0], spread), normal(rng, centre[1], spread)],
                half: half.map(|half| half * size),
                turn: [cos, sin],
                inside,
                rim,
                rim_width,
                wavy: between(rng, 0.05, 0.3),
                at,
                length,
            });
        };
    // Descending aorta, caval vein, oesophagus.
    add(rng, [42.0, 48.0], 7.0, [12.0, 12.0], Tissue::Blood, Tissue::Muscle, 1.8, 0.0, LONG);
    add(rng, [-42.0, 22.0], 9.0, [12.0, 10.0], Tissue::Blood, Tissue::Muscle, 1.2, 0.0, LONG);
    add(rng, [18.0, 46.0], 5.0, [8.0, 6.0], Tissue::Muscle, Tissue::Muscle, 2.0, 0.0, LONG);
    // Vertebra with its canal.
    add(rng, [4.0, 88.0], 4.0, [8.0, 6.0], Tissue::Fluid, Tissue::Bone, 1.5, 0.0, LONG);
    add(rng, [4.0, 68.0], 4.0, [20.0, 16.0], Tissue::Bone, Tissue::Air, 1.6, 0.0, LONG);
    // Ascending aorta, pulmonary artery and veins, near the base.
    for (centre, half) in
        [([-18.0, -34.0], 15.0), ([6.0, -48.0], 13.0), ([58.0, 22.0], 7.0), ([-30.0, 8.0], 7.5)]
    {
        let at = between(rng, -45.0, -22.0);
        add(rng, centre, 10.0, [half, half * 0.9], Tissue::Blood, Tissue::Muscle, 1.5, at, 38.0);
    }
    // Rings of bright content in a wall as of muscle: stomach, gut, and what a ventricle is mistaken for.
    let rings = rng.random_range(1..4);
    for _ in 0..rings {
        let (sin, cos) = between(rng, -0.6, 3.4).sin_cos();
        let centre = [18.0 + 84.0 * cos, -5.0 + 72.0 * sin];
        let half = [between(rng, 14.0, 30.0), between(rng, 13.0, 26.0)];
        let inside = [Tissue::Fluid, Tissue::Vessel, Tissue::Blood, Tissue::Air][rng.random_range(0..4)];
        let (at, length, rim) = (between(rng, 10.0, 100.0), between(rng, 35.0, 80.0), between(rng, 3.0, 9.0));
        add(rng, centre, 8.0, half, inside, Tissue::Muscle, rim, at, length);
    }
    // Spleen and liver; the liver fills more of the image towards the apex.
    add(rng, [105.0, 35.0], 9.0, [26.0, 42.0], Tissue::Liver, Tissue::Liver, 1.0, 70.0, 75.0);
    let (at, length) = (between(rng, 85.0, 130.0), between(rng, 85.0, 140.0));
    add(rng, [-62.0, 52.0], 14.0, [92.0, 66.0], Tissue::Liver, Tissue::Muscle, 1.5, at, length);
    organs
}

impl BodySlice<'_> {
    /// The tissue at (x, y) mm. `wave` and `fine`, both in about [−1, 1], are a coarse and a fine texture.
    pub(super) fn tissue(&self, x: f32, y: f32, wave: f32, fine: f32) -> Tissue {
        let body = self.body;
        let (dx, dy) = (x - body.centre[0], y - body.centre[1]);
        let (dx, dy) = (body.turn[0] * dx + body.turn[1] * dy, body.turn[0] * dy - body.turn[1] * dx);
        let (px, py) = ((dx / body.half[0]).abs(), (dy / body.half[1]).abs());
        let depth = (1.0 - (px * px * px + py * py * py).cbrt()) * body.half[1];
        if depth < 0.0 {
            return Tissue::Air;
        }
        if depth < body.fat * (1.0 + 0.35 * wave) {
            return Tissue::Fat;
        }
        let inside = depth - body.fat - body.wall * (1.0 + 0.3 * wave);
        if inside < 0.0 {
            // Ribs and cartilage interrupt the muscle; thin fat lies between its layers.
            return match (fine + wave, inside) {
                (rib, _) if rib > 0.55 => Tissue::Bone,
                (_, inside) if inside > -0.25 * body.wall => Tissue::Fat,
                _ => Tissue::Muscle,
            };
        }
        for organ in &self.organs {
            if let Some(tissue) = organ.tissue(dx, dy, wave, fine) {
                return tissue;
            }
        }
        // Soft tissue between the lungs.
        if (dx - 12.0).abs() < body.mediastinum + 8.0 * wave && dy > -20.0 {
            return if 0.5 * fine + wave > 0.1 { Tissue::Fat } else { Tissue::Muscle };
        }
        if fine > body.lung_vessels { Tissue::Vessel } else { Tissue::Lung }
    }
}

impl Organ {
    /// The tissue that the organ shows at (x, y) in the body's frame, where it is.
    fn tissue(&self, x: f32, y: f32, wave: f32, fine: f32) -> Option<Tissue> {
        let (dx, dy) = (x - self.centre[0], y - self.centre[1]);
        let reach = 1.25 * self.half[0].max(self.half[1]);
        if dx.abs() > reach || dy.abs() > reach {
            return None;
        }
        let (p, q) = (self.turn[0] * dx + self.turn[1] * dy, self.turn[0] * dy - self.turn[1] * dx);
        let square = (p / self.half[0]).powi(2) + (q / self.half[1]).powi(2) + self.wavy * wave;
        if square >= 1.0 {
            return None;
        }
        let core = (1.0 - self.rim_width / self.half[0].min(self.half[1])).max(0.0);
        if square > core * core {
            return Some(self.rim);
        }
        // The liver has vessels.
        Some(if self.inside == Tissue::Liver && fine > 0.62 { Tissue::Vessel } else { self.inside })
    }
}

/// The two textures of a volume, sampled in mm.
pub(super) struct Textures {
    coarse: Field,
    fine: Field,
}

impl Textures {
    /// Draws both.
    pub(super) fn draw(rng: &mut impl Rng) -> Self {
        Self { coarse: Field::draw(rng), fine: Field::draw(rng) }
    }

    /// (coarse, fine) at (x, y) of the slice at `u`, all in mm: features of about 22 mm and 5 mm.
    pub(super) fn at(&self, x: f32, y: f32, u: f32) -> (f32, f32) {
        let coarse = self.coarse.at(x / 22.0 + u / 90.0, y / 22.0 + u / 140.0);
        let fine = self.fine.at(x / 4.6 + u / 11.0, y / 4.6 - u / 13.0);
        (coarse, fine)
    }
}
