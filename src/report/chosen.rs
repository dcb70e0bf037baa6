//! Which figures a report has where the sweep file names none.

use super::sweep::{Kind, Sweep};
use crate::spec::report::{FigureKind, FigureSettings};

/// A line for each numeric axis and the heat map of two, the configurations, the modules of an ablation, methods over label
/// ratios, patients, ranks.
pub(super) fn chosen(sweep: &Sweep) -> Vec<FigureSettings> {
    let (numeric, other): (Vec<usize>, Vec<usize>) =
        sweep.varying().into_iter().partition(|&axis| sweep.axes[axis].kind == Kind::Number);
    let names =
        |axes: &[usize]| -> Vec<String> { axes.iter().map(|&axis| sweep.axes[axis].path.clone()).collect() };
    let flags: Vec<usize> =
        other.iter().copied().filter(|&axis| sweep.axes[axis].kind == Kind::Flag).collect();
    let methods = sweep.axis("method").filter(|axis| other.contains(axis));
    let ratios = sweep.axis("label_ratio").filter(|axis| numeric.contains(axis));
    let modules = modules(sweep, &flags, &other);
    let mut figures = Vec::new();
    for metric in ["dice", "hd95"] {
        let mut push = |kind: FigureKind, x: &[usize], only: Vec<(String, Vec<String>)>| {
            let y = Some(metric.to_owned());
            figures.push(FigureSettings { y, only, ..FigureSettings::of(kind, names(x)) });
        };
        if let (Some(_), Some(ratios)) = (methods, ratios) {
            push(FigureKind::Ratio, &[ratios], vec![]);
        }
        for &axis in numeric.iter().filter(|&&axis| methods.is_none() || Some(axis) != ratios) {
            push(FigureKind::Sensitivity, &[axis], vec![]);
        }
        if let [first, second] = numeric[..] {
            push(FigureKind::Heatmap, &[first, second], vec![]);
        }
        if let Some(only) = &modules {
            push(FigureKind::Ablation, &flags, only.clone());
        }
        // Bars say all of a sweep that has nothing but modules.
        let only_modules = modules.is_some() && flags.len() == other.len();
        if !other.is_empty() && !only_modules {
            push(FigureKind::Category, &other, vec![]);
        }
    }
    for kind in [FigureKind::Box, FigureKind::Scatter, FigureKind::Ranks] {
        figures.extend(by_ratio(sweep, kind));
    }
    figures
}

/// What the bars of an ablation are about, where the sweep is one: several axes are on or off, and beside them at most the
/// method varies, one of which has them (the others are what it is compared with).
fn modules(sweep: &Sweep, flags: &[usize], other: &[usize]) -> Option<Vec<(String, Vec<String>)>> {
    if flags.len() < 2 {
        return None;
    }
    match other.iter().filter(|axis| !flags.contains(axis)).collect::<Vec<_>>()[..] {
        [] => Some(vec![]),
        [&method] if sweep.axes[method].path == "method" => {
            let groups = sweep.groups(&[method]);
            let ablated = groups.iter().filter(|group| sweep.groups_of(&group.points, flags).len() > 1);
            let [group] = ablated.collect::<Vec<_>>()[..] else { return None };
            let axis = &sweep.axes[method];
            Some(vec![(axis.path.clone(), vec![axis.values[group.key[0]].raw.clone()])])
        }
        _ => None,
    }
}

/// A figure that sets configurations beside each other: where both methods and label ratios vary, one for each ratio that
/// several methods have, for nobody compares a method at 10 % with another at 20 %.
pub(super) fn by_ratio(sweep: &Sweep, kind: FigureKind) -> Vec<FigureSettings> {
    let all = || FigureSettings::of(kind, Vec::new());
    let varying = sweep.varying();
    let varies = |path: &str| sweep.axis(path).filter(|axis| varying.contains(axis));
    let (Some(method), Some(ratio)) = (varies("method"), varies("label_ratio")) else { return vec![all()] };
    let axis = &sweep.axes[ratio];
    let mut groups = sweep.groups(&[ratio]);
    groups.sort_by_key(|group| group.key[0]);
    let (several, single): (Vec<_>, Vec<_>) =
        groups.into_iter().partition(|group| sweep.groups_of(&group.points, &[method]).len() > 1);
    let shown = |group: &super::sweep::Group| axis.values[group.key[0]].shown.clone();
    let left: Vec<String> = single.iter().map(shown).collect();
    let left = if left.is_empty() {
        String::new()
    } else {
        format!(" (not shown: {}, which one method alone has)", left.join(", "))
    };
    let figure = |group: &super::sweep::Group| FigureSettings {
        only: vec![(axis.path.clone(), vec![axis.values[group.key[0]].raw.clone()])],
        caption: Some(format!("{} labelled{left}", shown(group))),
        ..all()
    };
    if several.is_empty() { vec![all()] } else { several.iter().map(figure).collect() }
}
