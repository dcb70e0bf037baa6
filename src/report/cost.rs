//! What a sweep cost: stages, work, memory and disk by kind, and what sharing stages saved.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::html::escape;
use super::sweep::Sweep;
use crate::results::stages::{Stages, State};

/// The stages of one kind.
#[derive(Default)]
struct Sum {
    stages: usize,
    done: usize,
    seconds: f64,
    longest: f64,
    bytes: u64,
    memory: u64,
}

/// The section; empty where nothing is known.
pub(super) fn section(sweep: &Sweep, stages: &Stages) -> String {
    if stages.all.is_empty() {
        return String::new();
    }
    let mut kinds: BTreeMap<_, Sum> = BTreeMap::new();
    for stage in &stages.all {
        let sum = kinds.entry(stage.kind).or_default();
        sum.stages += 1;
        sum.done += usize::from(stage.state == State::Done);
        sum.seconds += stage.seconds;
        sum.longest = sum.longest.max(stage.seconds);
        sum.bytes += stage.bytes;
        let memory = stage.provenance.as_ref().and_then(|found| found.peak_memory);
        sum.memory = sum.memory.max(memory.unwrap_or(0));
    }
    let mut out = String::from(
        "<section id=\"cost\">\n<h2>Cost</h2>\n<div class=\"scroll\">\n<table>\n<thead><tr><th scope=\"col\">Stages</th>\
         <th scope=\"col\" class=\"num\">Done</th><th scope=\"col\" class=\"num\">Work</th>\
         <th scope=\"col\" class=\"num\">Longest</th><th scope=\"col\" class=\"num\">Peak memory</th>\
         <th scope=\"col\" class=\"num\">On disk</th></tr></thead>\n<tbody>\n",
    );
    let mut row = |name: &str, sum: &Sum| {
        let done = if sum.done == sum.stages {
            sum.done.to_string()
        } else {
            format!("{} of {}", sum.done, sum.stages)
        };
        let memory = if sum.memory > 0 { bytes(sum.memory) } else { "–".to_owned() };
        let _ = writeln!(
            out,
            "<tr><td>{name}</td><td class=\"num\">{done}</td><td class=\"num\" data-value=\"{}\">{}</td>\
             <td class=\"num\" data-value=\"{}\">{}</td><td class=\"num\" data-value=\"{}\">{memory}</td>\
             <td class=\"num\" data-value=\"{}\">{}</td></tr>",
            sum.seconds,
            time(sum.seconds),
            sum.longest,
            time(sum.longest),
            sum.memory,
            sum.bytes,
            bytes(sum.bytes)
        );
    };
    let mut all = Sum::default();
    for (kind, sum) in &kinds {
        row(kind.name(), sum);
        all.stages += sum.stages;
        all.done += sum.done;
        all.seconds += sum.seconds;
        all.longest = all.longest.max(sum.longest);
        all.bytes += sum.bytes;
        all.memory = all.memory.max(sum.memory);
    }
    row("<b>all</b>", &all);
    out.push_str("</tbody>\n</table>\n</div>\n");
    out.push_str(&shared(sweep, stages, all.seconds));
    out.push_str(&queue(stages));
    out.push_str(&circumstances(stages));
    out.push_str("</section>\n");
    out
}

/// What the points would have taken if each had computed all of its stages.
fn shared(sweep: &Sweep, stages: &Stages, spent: f64) -> String {
    let mut alone = 0.0;
    for point in sweep.points.iter().filter(|point| point.done()) {
        let Some(places) = stages.behind([point.train_key.as_str(), &point.evaluate_key]) else {
            return String::new();
        };
        alone += places.iter().map(|&place| stages.all[place].seconds).sum::<f64>();
    }
    if alone <= spent * 1.001 {
        return String::new();
    }
    format!(
        "<p class=\"note\">Work is the sum over stages, whatever ran side by side. Without sharing stages the evaluated \
         points would have taken {}, {:.1} times as much.</p>\n",
        time(alone),
        alone / spent
    )
}

/// What the jobs of a cluster waited for and how long they ran; empty where there were none.
fn queue(stages: &Stages) -> String {
    let jobs = by_job(stages.all.iter().filter_map(|stage| {
        let queue = stage.provenance.as_ref()?.queue.as_ref()?;
        Some((queue.job.as_str(), queue.seconds, stage.seconds))
    }));
    if jobs.is_empty() {
        return String::new();
    }
    let waited = jobs.values().map(|(waited, _)| waited);
    let (all, longest) = (waited.clone().sum::<f64>(), waited.fold(0.0, |a: f64, &b| a.max(b)));
    let ran = jobs.values().map(|(_, ran)| ran).sum::<f64>();
    format!(
        "<p class=\"note\">{} of a cluster waited {} in the queue ({} at most) and ran {}, in the sum over jobs.</p>\n",
        if jobs.len() == 1 { "One job".to_owned() } else { format!("{} jobs", jobs.len()) },
        time(all),
        time(longest),
        time(ran)
    )
}

/// Of each job the seconds that it waited and ran, from those that each of its stages waited and ran. They waited once, and
/// ran for the sum of their parts.
fn by_job<'a>(stages: impl Iterator<Item = (&'a str, f64, f64)>) -> BTreeMap<&'a str, (f64, f64)> {
    let mut jobs: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (job, waited, ran) in stages {
        let (all_waited, all_ran) = jobs.entry(job).or_default();
        *all_waited = all_waited.max(waited);
        *all_ran += ran;
    }
    jobs
}

/// Machines, versions and dates of all stages, each once.
fn circumstances(stages: &Stages) -> String {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut versions: BTreeMap<String, usize> = BTreeMap::new();
    let (mut first, mut last) = (String::new(), String::new());
    for stage in &stages.all {
        let Some(found) = &stage.provenance else { continue };
        let model = found.model.as_ref().map(|model| format!(" ({model})")).unwrap_or_default();
        *places.entry(format!("{}{model}", found.device)).or_default() += 1;
        let commit = found.commit.as_ref().map(|commit| format!(", commit {commit}")).unwrap_or_default();
        *versions.entry(format!("sweep {}{commit}", stage.code.1)).or_default() += 1;
        if first.is_empty() || found.start < first {
            first.clone_from(&found.start);
        }
        if found.end > last {
            last.clone_from(&found.end);
        }
    }
    if first.is_empty() {
        return String::new();
    }
    let list = |counts: &BTreeMap<String, usize>| {
        let items: Vec<String> =
            counts.iter().map(|(text, count)| format!("{} ({count})", escape(text))).collect();
        items.join("; ")
    };
    format!(
        "<dl>\n<dt>When</dt><dd>{} to {}</dd>\n<dt>Where</dt><dd>{}</dd>\n<dt>Program</dt><dd>{}</dd>\n</dl>\n",
        escape(&first),
        escape(&last),
        list(&places),
        list(&versions)
    )
}

/// `42 s`, `5 min 54 s`, `2 h 05 min`.
fn time(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    match whole {
        0..60 if seconds < 9.95 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// `512 B`, `1.5 KiB`, `432 MiB`.
fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1023.95 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.95 {
        format!("{value:.0} {}", units[unit])
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_of_a_job_waited_once_and_ran_one_after_the_other() {
        let jobs = by_job([("7_0", 5.0, 20.0), ("7_0", 5.0, 10.0), ("7_1", 8.0, 1.0)].into_iter());
        assert_eq!(jobs.into_iter().collect::<Vec<_>>(), [("7_0", (5.0, 30.0)), ("7_1", (8.0, 1.0))]);
    }

    #[test]
    fn times_and_sizes_are_short() {
        let times =
            [(0.04, "0.0 s"), (9.9, "9.9 s"), (42.4, "42 s"), (354.0, "5 min 54 s"), (7_500.0, "2 h 05 min")];
        for (seconds, text) in times {
            assert_eq!(time(seconds), text);
        }
        assert_eq!([bytes(1023), bytes(1536), bytes(452_984_832)], ["1023 B", "1.5 KiB", "432 MiB"]);
    }
}
