//! The heart as a function of position: left ventricle with papillary muscles, myocardium, crescent right ventricle,
//! the chambers above the base, and the fat around all of it.

use super::Tissue;

/// Label of the background.
const BACKGROUND: u8 = 0;
/// Label of the right ventricle.
const RV: u8 = 1;
/// Label of the myocardium.
const MYO: u8 = 2;
/// Label of the left ventricle, its papillary muscles included.
const LV: u8 = 3;

/// How far the atria reach above the base, in mm.
const ATRIA: f32 = 35.0;
/// Thickness of the right ventricle's free wall, in mm.
const RV_WALL: f32 = 2.8;

/// A papillary muscle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Papillary {
    /// Direction from the centre of the ventricle.
    pub(super) angle: f32,
    /// Distance from it, as a fraction of the cavity's radius.
    pub(super) distance: f32,
    /// Radius in mm.
    pub(super) radius: f32,
    /// Where it begins and ends, as fractions of the way from base to apex.
    pub(super) start: f32,
    /// See `start`.
    pub(super) end: f32,
}

/// A heart at one phase. Two-element arrays that belong to harmonics hold (cosine, sine) amplitudes.
#[derive(Clone, Debug)]
pub(super) struct Heart {
    /// Centre of the left ventricle at the base (x, y), mm.
    pub(super) centre: [f32; 2],
    /// Shift of that centre for each mm towards the apex.
    pub(super) tilt: [f32; 2],
    /// Position of the base on the long axis, mm.
    pub(super) base: f32,
    /// Length of the cavity from base to apex, mm.
    pub(super) length: f32,
    /// Radius of the cavity at the base, mm.
    pub(super) radius: f32,
    /// Thickness of the wall, mm.
    pub(super) wall: f32,
    /// Second harmonic of the outline, relative.
    pub(super) oval: [f32; 2],
    /// Third harmonic of the outline, relative.
    pub(super) triangle: [f32; 2],
    /// First harmonic of the wall's thickness, relative.
    pub(super) thick_side: [f32; 2],
    /// A scar: its angle, cosine of its half width, and the share of the wall that is gone.
    pub(super) scar: Option<(f32, f32, f32)>,
    /// Direction of the right ventricle.
    pub(super) rv_angle: f32,
    /// How far it reaches beyond the myocardium, mm.
    pub(super) rv_reach: f32,
    /// Half its height in units of the left ventricle's outer radius.
    pub(super) rv_across: f32,
    /// Its base relative to that of the left ventricle, mm.
    pub(super) rv_base: f32,
    /// Its length in units of the left ventricle's.
    pub(super) rv_length: f32,
    /// Texture above which its cavity shows trabeculae.
    pub(super) rv_trabeculae: f32,
    /// The papillary muscles.
    pub(super) papillary: [Papillary; 2],
    /// Roughness of the visible (not of the labelled) inner wall, mm.
    pub(super) trabeculae: f32,
    /// Greatest thickness of the fat around the heart, mm.
    pub(super) fat: f32,
    /// The side on which it is thickest.
    pub(super) fat_side: f32,
}

/// What is at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    /// The tissue that is seen.
    pub(super) tissue: Tissue,
    /// The label that is drawn.
    pub(super) label: u8,
}

/// A heart cut at one position of the long axis.
pub(super) struct HeartSlice<'a> {
    heart: &'a Heart,
    centre: [f32; 2],
    /// Radii of cavity and myocardium; 0 beyond the apex.
    inner: f32,
    outer: f32,
    above_base: bool,
    /// Direction of the right ventricle (cosine, sine).
    rv: [f32; 2],
    rv_centre: f32,
    /// Half axes of its outline along and across `rv`; 0 where there is none.
    rv_half: [f32; 2],
    rv_label: u8,
    rv_rough: f32,
    papillary: [[f32; 3]; 2],
    scar: Option<([f32; 2], f32, f32)>,
    fat_side: [f32; 2],
    /// Square of the radius that holds everything.
    reach: f32,
}

impl Heart {
    /// The cut at `u` mm on the long axis, shifted by `shift` (x, y) as by another breath-hold.
    pub(super) fn at(&self, u: f32, shift: [f32; 2]) -> HeartSlice<'_> {
        let depth = u - self.base;
        let above_base = depth < 0.0;
        let present = depth > -ATRIA;
        let outer_base = self.radius + self.wall;
        let inner = if present { self.radius * taper(depth / self.length) } else { 0.0 };
        let outer = if present { outer_base * taper(depth / (self.length + 0.8 * self.wall)) } else { 0.0 };
        let depth_rv = depth - self.rv_base;
        let along = if present { taper(depth_rv / (self.rv_length * self.length)) } else { 0.0 };
        let reach_rv = self.rv_reach * along;
        // The outline's centre lies inside the septum; its far end `reach_rv` beyond the myocardium.
        let rv_centre = 0.5 * outer;
        let rv_half = if reach_rv > 1.0 {
            [outer + reach_rv - rv_centre, outer_base * self.rv_across * (0.35 + 0.65 * along)]
        } else {
            [0.0; 2]
        };
        let place = depth / self.length;
        let papillary = self.papillary.map(|muscle| {
            let distance = muscle.distance * inner;
            let seen = (muscle.start..muscle.end).contains(&place);
            let radius = if seen { muscle.radius.min(0.42 * inner) } else { 0.0 };
            [distance * muscle.angle.cos(), distance * muscle.angle.sin(), radius * radius]
        });
        let reach = (outer * 1.4 + self.fat).max(rv_centre + rv_half[0].max(rv_half[1]) + RV_WALL + self.fat);
        HeartSlice {
            heart: self,
            centre: [
                self.centre[0] + self.tilt[0] * depth + shift[0],
                self.centre[1] + self.tilt[1] * depth + shift[1],
            ],
            inner,
            outer,
            above_base,
            rv: [self.rv_angle.cos(), self.rv_angle.sin()],
            rv_centre,
            rv_half,
            rv_label: if depth_rv < 0.0 { BACKGROUND } else { RV },
            rv_rough: self.rv_trabeculae - 0.35 * (1.0 - along),
            papillary,
            scar: self.scar.map(|(angle, width, loss)| ([angle.cos(), angle.sin()], width, loss)),
            fat_side: [self.fat_side.cos(), self.fat_side.sin()],
            reach: if outer > 0.0 || rv_half[0] > 0.0 { reach * reach } else { 0.0 },
        }
    }
}

impl HeartSlice<'_> {
    /// What the heart shows at (x, y) mm, or nothing outside it. `rough` in about [−1, 1] is the fine texture that
    /// roughens what is seen, but not what is labelled.
    pub(super) fn point(&self, x: f32, y: f32, rough: f32) -> Option<Point> {
        let (dx, dy) = (x - self.centre[0], y - self.centre[1]);
        let square = dx * dx + dy * dy;
        if square > self.reach {
            return None;
        }
        let r = square.sqrt();
        let (c, s) = if r > 1e-3 { (dx / r, dy / r) } else { (1.0, 0.0) };
        let (c2, s2) = (c * c - s * s, 2.0 * s * c);
        let (c3, s3) = (c2 * c - s2 * s, s2 * c + c2 * s);
        let Heart { oval, triangle, .. } = self.heart;
        let outline = 1.0 + oval[0] * c2 + oval[1] * s2 + triangle[0] * c3 + triangle[1] * s3;
        let inner = self.inner * outline;
        let outer = inner + (self.outer - self.inner) * self.thickness(c, s);
        if r < outer {
            return Some(self.left(dx, dy, r, inner, rough));
        }
        self.right(dx, dy, rough).or_else(|| self.fat(r - outer, [c, s]))
    }

    /// The wall's thickness in the direction (c, s), relative to its mean.
    fn thickness(&self, c: f32, s: f32) -> f32 {
        let [a, b] = self.heart.thick_side;
        let scar = self.scar.map_or(1.0, |([cos, sin], width, loss)| {
            let inside = ((c * cos + s * sin - width) / 0.2).clamp(0.0, 1.0);
            1.0 - loss * inside
        });
        (1.0 + a * c + b * s) * scar
    }

    /// Left ventricle and myocardium; above the base, the atrium with a thin wall, which nobody labels.
    fn left(&self, dx: f32, dy: f32, r: f32, inner: f32, rough: f32) -> Point {
        if self.above_base {
            let tissue = if r < inner + 0.5 * self.heart.wall { Tissue::Blood } else { Tissue::Muscle };
            return Point { tissue, label: BACKGROUND };
        }
        let label = if r < inner { LV } else { MYO };
        let muscle = |&[px, py, square]: &[f32; 3]| {
            (dx - px).powi(2) + (dy - py).powi(2) < square * (1.0 + 0.4 * rough)
        };
        let blood = r < inner + self.heart.trabeculae * (rough - 0.35) && !self.papillary.iter().any(muscle);
        Point { tissue: if blood { Tissue::Blood } else { Tissue::Myocardium }, label }
    }

    /// Right ventricle and its thin free wall.
    fn right(&self, dx: f32, dy: f32, rough: f32) -> Option<Point> {
        let [along, across] = self.rv_half;
        if along <= 0.0 {
            return None;
        }
        let p = dx * self.rv[0] + dy * self.rv[1] - self.rv_centre;
        let q = dy * self.rv[0] - dx * self.rv[1];
        // Narrower away from the septum: a crescent with a blunt tip.
        let across = across * (1.0 - 0.28 * (p / along).clamp(-1.0, 1.0));
        if (p / along).powi(2) + (q / across).powi(2) < 1.0 {
            let tissue = if rough > self.rv_rough { Tissue::Myocardium } else { Tissue::Blood };
            return Some(Point { tissue, label: self.rv_label });
        }
        let wall = (p / (along + RV_WALL)).powi(2) + (q / (across + RV_WALL)).powi(2) < 1.0;
        if wall {
            return Some(Point { tissue: Tissue::Myocardium, label: BACKGROUND });
        }
        let fat = RV_WALL + 0.7 * self.heart.fat;
        let near = (p / (along + fat)).powi(2) + (q / (across + fat)).powi(2) < 1.0;
        (near && p > 0.0).then_some(Point { tissue: Tissue::Fat, label: BACKGROUND })
    }

    /// Fat on the heart, `distance` mm outside it in the direction `toward`.
    fn fat(&self, distance: f32, toward: [f32; 2]) -> Option<Point> {
        let side = toward[0] * self.fat_side[0] + toward[1] * self.fat_side[1];
        let thickness = self.heart.fat * (0.5 + 0.6 * side);
        (self.outer > 0.0 && distance < thickness).then_some(Point { tissue: Tissue::Fat, label: BACKGROUND })
    }
}

/// Radius of a ventricle at the fraction `t` of the way from base to apex, relative to that at the base.
fn taper(t: f32) -> f32 {
    if t >= 1.0 {
        0.0
    } else if t <= 0.0 {
        // The chambers above the base narrow a little.
        (1.0 + 0.5 * t).max(0.6)
    } else {
        (1.0 - t.powf(2.6)).powf(0.55)
    }
}
