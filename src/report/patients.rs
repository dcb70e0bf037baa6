//! Patients: each one's value under two configurations, and how the values of all spread.

use anyhow::{Result, bail};

use super::chart::{self, Area, BELOW, COLUMN, Entry, INK, MOST_SERIES, SOFT, Sample, Scale};
use super::drawing::Drawing;
use super::figures::{self, Asked, Data, Figure, Shown, Source};
use super::rows::Names;
use super::sweep::{Group, Sweep};
use crate::stats;

/// More rows than this are not drawn: a table says more.
const MOST_ROWS: usize = 40;
/// Series of a scatter plot, which lie over each other.
const MOST_CLOUDS: usize = 3;

/// Each patient's value under the reference against its value under other configurations: the best of the others by
/// the mean, up to three.
pub(super) fn scatter(source: &Source, asked: &Asked) -> Result<Option<Figure>> {
    let (sweep, shown) = (source.sweep, asked.shown(source)?);
    let (axes, groups) = asked.configurations(sweep);
    if groups.len() < 2 {
        return Ok(None);
    }
    let reference = asked.reference(sweep, &axes, &groups)?;
    let base = shown.by_patient(source, &groups[reference].points);
    let mut others: Vec<(usize, Vec<Option<f64>>, f64)> = Vec::new();
    for (index, group) in groups.iter().enumerate().filter(|&(index, _)| index != reference) {
        let values = shown.by_patient(source, &group.points);
        if let Some(mean) = stats::mean(&values.iter().flatten().copied().collect::<Vec<_>>()) {
            others.push((index, values, mean));
        }
    }
    let sign = if shown.metric.higher { -1.0 } else { 1.0 };
    others.sort_by(|a, b| (sign * a.2).total_cmp(&(sign * b.2)));
    others.truncate(MOST_CLOUDS);
    let clouds: Vec<Cloud> = others
        .iter()
        .map(|(index, values, _)| Cloud {
            name: sweep.describe(&axes, &groups[*index]),
            pairs: base.iter().zip(values).map(|(x, y)| x.zip(*y)).collect(),
        })
        .filter(|cloud| cloud.pairs.iter().any(Option::is_some))
        .collect();
    if clouds.is_empty() {
        return Ok(None);
    }
    let name = sweep.describe(&axes, &groups[reference]);
    let mut data =
        Data::new(&["patient", "configuration", &format!("{} under {name}", shown.column), &shown.column]);
    for cloud in &clouds {
        for (patient, pair) in source.cases.patients.iter().zip(&cloud.pairs) {
            if let Some((x, y)) = pair {
                data.push([patient.clone(), cloud.name.clone(), figures::cell(*x), figures::cell(*y)]);
            }
        }
    }
    let which = if groups.len() - 1 > clouds.len() {
        format!(" Of {} other configurations, the best {} by the mean.", groups.len() - 1, clouds.len())
    } else {
        String::new()
    };
    let better = if shown.metric.higher { "above" } else { "below" };
    Ok(Some(Figure {
        slug: format!("patients_{}_{}", figures::slugs(sweep, &axes), shown.column),
        caption: format!(
            "{} of each patient (mean over volumes, classes and points) against its value under {name}: {better} the line \
             it is better.{which}",
            shown.name()
        ),
        drawing: plot(&clouds, &name, &shown),
        data,
    }))
}

/// One configuration beside the reference: a pair for each patient that both have.
struct Cloud {
    name: String,
    pairs: Vec<Option<(f64, f64)>>,
}

fn plot(clouds: &[Cloud], reference: &str, shown: &Shown) -> Drawing {
    let entries: Vec<Entry> = chart::entries(clouds.iter().map(|cloud| cloud.name.as_str()));
    let (edge, right) = (8.0, f64::from(COLUMN) - 14.0);
    let top = 8.0 + chart::legend_height(&entries, edge, right);
    let seen: Vec<f64> =
        clouds.iter().flat_map(|cloud| cloud.pairs.iter().flatten()).flat_map(|&(x, y)| [x, y]).collect();
    let limits = shown.limits(&seen);
    let provisional = chart::ticks(&Scale::around(&seen, limits, 1.0, 0.0), 5);
    let left = chart::left_of(&provisional);
    // As wide as high: the line of equal values is at 45 degrees.
    let side = (right - left).min(230.0);
    let area = Area { left, top, right: left + side, bottom: top + side };
    let (x, y) = (
        Scale::around(&seen, limits, area.left, area.right),
        Scale::around(&seen, limits, area.bottom, area.top),
    );
    let mut drawing = Drawing::new(COLUMN, (area.bottom + BELOW) as u32);
    let other = match clouds {
        [one] => format!("{}, {}", shown.title(), one.name),
        _ => shown.title(),
    };
    chart::axis_left(&mut drawing, area, &chart::ticks(&y, 5), &other);
    chart::axis_below(
        &mut drawing,
        area,
        &chart::ticks(&x, 5),
        &format!("{}, {reference}", shown.title()),
        true,
    );
    drawing.line(&[(area.left, area.bottom), (area.right, area.top)], 0.8, SOFT);
    for (index, cloud) in clouds.iter().enumerate() {
        for &(a, b) in cloud.pairs.iter().flatten() {
            chart::style(index).mark(&mut drawing, (x.at(a), y.at(b)), 2.6, 0.8);
        }
    }
    if entries.len() > 1 {
        chart::legend(&mut drawing, &entries, (edge, right), 4.0, Sample::Mark);
    }
    drawing
}

/// What a box shows.
struct Spread {
    /// The first quartile, the median, the third.
    quartiles: [f64; 3],
    /// The farthest values within 1.5 times the box's length of it.
    whiskers: (f64, f64),
    mean: f64,
    /// All values, ascending.
    values: Vec<f64>,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        let mean = stats::mean(&values)?;
        values.sort_by(f64::total_cmp);
        let quartile = |q: f64| stats::quantile(&mut values.clone(), q);
        let quartiles = [quartile(0.25), quartile(0.5), quartile(0.75)];
        let reach = 1.5 * (quartiles[2] - quartiles[0]);
        let low = values.iter().copied().find(|&value| value >= quartiles[0] - reach);
        let high = values.iter().copied().rfind(|&value| value <= quartiles[2] + reach);
        let whiskers = (low.unwrap_or(quartiles[0]), high.unwrap_or(quartiles[2]));
        Some(Self { quartiles, whiskers, mean, values })
    }
}

/// A box for each configuration: quartiles, whiskers of 1.5 times the box, every patient.
pub(super) fn boxes(source: &Source, asked: &Asked) -> Result<Option<Figure>> {
    let (sweep, shown) = (source.sweep, asked.shown(source)?);
    let (axes, mut groups) = asked.configurations(sweep);
    if asked.by.is_some() {
        bail!("a box figure has one box for each value of `x`: name all axes there, not in `by`");
    }
    let left_out = groups.len().saturating_sub(MOST_ROWS);
    groups.truncate(MOST_ROWS);
    let by_patient: Vec<Vec<Option<f64>>> =
        groups.iter().map(|group| shown.by_patient(source, &group.points)).collect();
    let spreads: Vec<Option<Spread>> =
        by_patient.iter().map(|values| Spread::of(values.iter().flatten().copied().collect())).collect();
    if spreads.iter().all(Option::is_none) {
        return Ok(None);
    }
    let paths: Vec<&str> = axes.iter().map(|&axis| sweep.axes[axis].path.as_str()).collect();
    let mut data = Data::new(&[&paths[..], &["patient", shown.column.as_str()]].concat());
    for (group, values) in groups.iter().zip(&by_patient) {
        for (patient, value) in source.cases.patients.iter().zip(values) {
            let Some(value) = value else { continue };
            let raw =
                axes.iter().zip(&group.key).map(|(&axis, &value)| sweep.axes[axis].values[value].raw.clone());
            data.push(raw.chain([patient.clone(), figures::cell(*value)]));
        }
    }
    let more =
        if left_out > 0 { format!(" {left_out} more rows are in the table alone.") } else { String::new() };
    let colours = if ratio(sweep, &axes).is_some() { " Colours: the labelled share." } else { "" };
    Ok(Some(Figure {
        slug: format!("boxes_{}_{}", figures::slugs(sweep, &axes), shown.column),
        caption: format!(
            "{} over patients (each the mean over volumes, classes and points): box: quartiles; line: median; diamond: \
             mean; whiskers: farthest value within 1.5 boxes; dots: patients.{colours}{more}",
            shown.name()
        ),
        drawing: plot_boxes(sweep, &axes, &groups, &spreads, &shown),
        data,
    }))
}

/// The place among `axes` of the label ratio, where it is not the only one: then it gives the colours.
fn ratio(sweep: &Sweep, axes: &[usize]) -> Option<usize> {
    axes.iter().position(|&axis| sweep.axes[axis].path == "label_ratio").filter(|_| axes.len() > 1)
}

fn plot_boxes(
    sweep: &Sweep,
    axes: &[usize],
    groups: &[Group],
    spreads: &[Option<Spread>],
    shown: &Shown,
) -> Drawing {
    let names = Names::new(sweep, axes, groups);
    let height = 21.0;
    let top = names.head();
    let area = Area {
        left: names.left(),
        top,
        right: f64::from(names.sheet()) - 12.0,
        bottom: top + height * groups.len() as f64,
    };
    let mut drawing = Drawing::new(names.sheet(), (area.bottom + BELOW) as u32);
    let seen: Vec<f64> = spreads.iter().flatten().flat_map(|spread| spread.values.iter().copied()).collect();
    let x = Scale::around(&seen, shown.limits(&seen), area.left + 3.0, area.right - 3.0);
    chart::axis_below(&mut drawing, area, &chart::ticks(&x, 5), &shown.title(), true);
    names.draw(&mut drawing, area, height);
    let ratio = ratio(sweep, axes);
    for (row, spread) in spreads.iter().enumerate() {
        let Some(spread) = spread else { continue };
        let middle = area.top + height * (row as f64 + 0.5);
        let style = chart::style(match ratio {
            Some(place) => groups[row].key[place],
            None if groups.len() > MOST_SERIES => 0,
            None => row,
        });
        for (index, &value) in spread.values.iter().enumerate() {
            // Spread over the row's height, the same way each time, so that equal values are seen as several.
            let aside = ((index * 7) % 11) as f64 / 10.0 - 0.5;
            drawing.dot((x.at(value), middle + aside * 9.0), 1.2, INK.with_alpha(0.35));
        }
        let [first, median, third] = spread.quartiles.map(|value| x.at(value));
        let (low, high) = (x.at(spread.whiskers.0), x.at(spread.whiskers.1));
        drawing.rectangle((first, middle - 6.0), (third, middle + 6.0), style.colour.with_alpha(0.35));
        let frame =
            [(first, middle - 6.0), (third, middle - 6.0), (third, middle + 6.0), (first, middle + 6.0)];
        drawing.line(&[&frame[..], &frame[..1]].concat(), 0.9, style.colour);
        for (end, side) in [(low, first), (high, third)] {
            drawing.line(&[(end, middle), (side, middle)], 0.9, style.colour);
            drawing.line(&[(end, middle - 3.0), (end, middle + 3.0)], 0.9, style.colour);
        }
        drawing.line(&[(median, middle - 6.0), (median, middle + 6.0)], 1.6, INK);
        let (mean, r) = (x.at(spread.mean), 2.6);
        drawing.area(&[(mean, middle - r), (mean + r, middle), (mean, middle + r), (mean - r, middle)], INK);
    }
    drawing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_numpys_and_whiskers_tukeys() {
        // numpy.percentile([1, 2, 3, 4, 5, 6, 7, 8, 30], [25, 50, 75]) = 3, 5, 7; 30 is beyond 7 + 1.5 · 4.
        let spread = Spread::of(vec![30.0, 2.0, 1.0, 4.0, 3.0, 6.0, 5.0, 8.0, 7.0]).unwrap();
        assert_eq!(spread.quartiles, [3.0, 5.0, 7.0]);
        assert_eq!(spread.whiskers, (1.0, 8.0));
        assert!(Spread::of(vec![]).is_none());
        assert_eq!(Spread::of(vec![2.0]).unwrap().whiskers, (2.0, 2.0));
    }
}
