//! Names of lines at their ends, where there are too many for a legend.

use super::chart::{Area, FAINT, INK, Style, TICK};
use super::drawing::{Align, At, Drawing, text_width};

/// Where names begin, from the right edge of the data.
const ASIDE: f64 = 24.0;
/// The distance of a name from the next.
pub(super) const LINE: f64 = 11.5;

/// The end of a line, and what the line is called.
pub(super) struct End<'a> {
    pub(super) at: At,
    pub(super) name: &'a str,
    pub(super) style: Style,
}

/// The width that the names take at the right of the data.
pub(super) fn width<'a>(names: impl IntoIterator<Item = &'a str>) -> f64 {
    names.into_iter().map(|name| text_width(name, TICK, false)).fold(0.0, f64::max) + ASIDE
}

/// Writes the names at the right of `area`, from above to below as the lines end, each behind its line's mark. A thin grey
/// leader joins it to a line that ends at the right edge: grey, for what is coloured is data.
pub(super) fn draw(drawing: &mut Drawing, mut ends: Vec<End>, area: Area) {
    ends.sort_by(|a, b| a.at.1.total_cmp(&b.at.1));
    let last = ends.iter().map(|end| end.at.0).fold(f64::NEG_INFINITY, f64::max);
    let wanted: Vec<f64> = ends.iter().map(|end| end.at.1).collect();
    for (end, at) in ends.iter().zip(spread(&wanted, LINE, (area.top, area.bottom))) {
        let (from, to) = (end.at.0 + 5.0, area.right + ASIDE - 11.0);
        if end.at.0 > last - 1.0 {
            drawing.line(&[(from, end.at.1), (area.right.max(from), at), (to, at)], 0.5, FAINT);
        }
        end.style.mark(drawing, (area.right + ASIDE - 6.0, at), 2.8, 1.0);
        drawing.text(end.name, (area.right + ASIDE, at + TICK * 0.36), TICK, Align::Left, INK);
    }
}

/// Places near `wanted` (in ascending order), at least `gap` apart, within the limits as far as there is room.
fn spread(wanted: &[f64], gap: f64, (top, bottom): (f64, f64)) -> Vec<f64> {
    let mut places = wanted.to_vec();
    let mut free = top;
    for place in &mut places {
        *place = place.max(free);
        free = *place + gap;
    }
    let mut free = bottom;
    for place in places.iter_mut().rev() {
        *place = place.min(free);
        free = *place - gap;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_apart_within_the_limits_and_where_they_belong_if_there_is_room() {
        assert_eq!(spread(&[20.0, 50.0], 10.0, (0.0, 100.0)), [20.0, 50.0]);
        assert_eq!(spread(&[20.0, 21.0, 22.0], 10.0, (0.0, 100.0)), [20.0, 30.0, 40.0]);
        assert_eq!(spread(&[95.0, 96.0, 99.0], 10.0, (0.0, 100.0)), [80.0, 90.0, 100.0]);
    }
}
