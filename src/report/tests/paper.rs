//! The sweep files of the paper, on make-believe frames of exactly their points.

use super::*;
use crate::report::drawing::Shape;
use crate::report::figures::{Figure, Source, draw};
use crate::results::facts;
use crate::spec;

/// The frames that a run of `sweeps/NAME.yaml` would leave, and what its report shall show.
fn run(dir: &Path, name: &str, sets: &[&str]) -> (Frames, ReportSettings) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("sweeps/{name}.yaml"));
    let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
    let sweep = spec::load(&path, &sets).unwrap_or_else(|errors| panic!("{errors}"));
    let mut points = Vec::new();
    for point in &sweep.points {
        let text = serde_json::to_string(&point.axes).unwrap();
        // Points that differ in nothing but the seed are alike; MCSD and what it has more are better.
        let dice = 0.7 + 0.15 * f64::from(u8::from(text.contains("mcsd")))
            - 0.02 * f64::from(u8::from(text.contains("false")));
        let mut record = record(dir, points.len(), &Wanted { axes: vec![], dice, status: Status::Done });
        record.axes = point.axes.iter().map(|(path, value)| (path.to_owned(), value.clone())).collect();
        record.facts = facts(&point.settings);
        points.push(record);
    }
    (collect(name, &points, &[]).unwrap(), sweep.report)
}

fn figures(frames: &Frames, report: &ReportSettings) -> Vec<Figure> {
    let sweep = Sweep::new(&frames.points).unwrap();
    let cases = Cases::new(&frames.cases, &sweep).unwrap();
    let source = Source::new(&sweep, &cases, frames);
    report.figures.iter().flat_map(|settings| draw(&source, settings).unwrap()).collect()
}

fn named<'a>(figures: &'a [Figure], slug: &str) -> &'a Figure {
    let slugs: Vec<&str> = figures.iter().map(|figure| figure.slug.as_str()).collect();
    figures.iter().find(|figure| figure.slug == slug).unwrap_or_else(|| panic!("{slug} is not in {slugs:?}"))
}

fn cells(figure: &Figure, name: &str) -> Vec<String> {
    let place = figure.data.columns.iter().position(|column| column == name);
    let place = place.unwrap_or_else(|| panic!("{name} is not in {:?}", figure.data.columns));
    figure.data.rows.iter().map(|row| row[place].clone()).collect()
}

/// τ is an axis at D = 30 alone, and blocks, steps and D are nested likewise: each figure has one series of all its values.
#[test]
fn the_paper_has_all_its_figures() {
    let temporary = TempDir::new().unwrap();
    let (frames, report) = run(temporary.path(), "paper", &["preset=smoke"]);
    let figures = figures(&frames, &report);
    assert_eq!(figures.len(), report.figures.len(), "each is drawn");
    for metric in ["dice", "hd95"] {
        let dimension = named(&figures, &format!("feature_dim_{metric}"));
        assert_eq!(cells(dimension, "feature_dim"), ["10", "30", "60", "128"]);
        assert_eq!(cells(dimension, "series"), ["MCSD"; 4], "one line");
        assert_eq!(
            cells(dimension, "n"),
            ["3"; 4],
            "its seeds and nothing else, also at D = 30, where tau varies"
        );
        let tau = named(&figures, &format!("tau_{metric}"));
        assert_eq!(
            (cells(tau, "tau"), cells(tau, "n")),
            (["0.8", "0.85", "0.9", "0.95"].map(String::from).to_vec(), vec!["3".to_owned(); 4])
        );
        assert_eq!(cells(named(&figures, &format!("blocks_{metric}")), "n"), ["3"; 5]);
        assert_eq!(cells(named(&figures, &format!("timesteps_{metric}")), "n"), ["3"; 6]);
        assert_eq!(cells(named(&figures, &format!("ablation_{metric}")), "n"), ["3"; 4]);
        let ratio = named(&figures, &format!("ratio_acdc_{metric}"));
        assert_eq!(cells(ratio, "n"), ["3"; 36], "12 methods at 3 ratios, a place each");
    }
    assert_eq!(cells(named(&figures, "ratio_mnms_dice"), "n"), ["3"; 24]);
    for name in ["ranks_acdc_5", "ranks_acdc_10", "ranks_acdc_20", "ranks_mnms_3", "ranks_mnms_5"] {
        assert_eq!(named(&figures, name).data.rows.len(), 12, "{name}: a rank for each method");
    }
}

#[test]
fn the_paper_has_the_tables_of_its_parts() {
    let temporary = TempDir::new().unwrap();
    let (frames, report) = run(temporary.path(), "paper", &["preset=smoke"]);
    let tables = Tables::new(&frames, &report).unwrap();
    let texts = tables.texts("md");
    let mut rows = std::collections::BTreeMap::new();
    for (settings, text) in report.tables.iter().zip(&texts) {
        let name = settings.name.clone().unwrap();
        assert!(!text.contains("*missing*") && !text.contains("No point"), "{name}: {text}");
        let measured = text.lines().filter(|line| line.starts_with('|') && line.contains("| 3 |")).count();
        rows.insert(name, measured);
    }
    let parts = ["acdc", "mnms", "ablation", "blocks", "timesteps", "feature_dim", "tau", "complexity"];
    for part in parts {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("sweeps/{part}.yaml"));
        for table in spec::load(&path, &["preset=smoke".to_owned()]).unwrap().report.tables {
            let name = table.name.unwrap();
            assert!(rows.contains_key(&name), "{name} of {part}.yaml is not in paper.yaml");
        }
    }
    let wanted = [
        ("comparison", 60),
        ("comparison_classes", 60),
        ("mnms", 24),
        ("mnms_classes", 24),
        ("mnms_distances", 24),
        ("ablation", 5),
        ("ablation_classes", 5),
        ("blocks", 5),
        ("timesteps", 6),
        ("feature_dim", 4),
        ("tau", 4),
        ("complexity", 12),
    ];
    assert_eq!(rows, wanted.map(|(name, rows)| (name.to_owned(), rows)).into());
    // The comparison says what the paper's parts say of the same row.
    let against = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("sweeps/{name}.yaml"));
        spec::load(&path, &["preset=smoke".to_owned()]).unwrap().report.tables.swap_remove(0).against
    };
    assert_eq!(against("acdc"), report.tables[0].against);
    assert_eq!(against("mnms"), report.tables[0].against);
}

#[test]
fn the_paper_runs_on_the_phantom() {
    let temporary = TempDir::new().unwrap();
    let (frames, report) = run(temporary.path(), "paper", &["preset=smoke", "data=phantom", "seed=0"]);
    assert_eq!(figures(&frames, &report).len(), report.figures.len());
    Tables::new(&frames, &report).unwrap();
}

/// Supervised points beside an ablation make `method` vary; its bars stay, declared or not.
#[test]
fn an_ablation_with_a_baseline_has_bars() {
    let temporary = TempDir::new().unwrap();
    let (frames, declared) = run(temporary.path(), "ablation", &["preset=smoke"]);
    let sweep = Sweep::new(&frames.points).unwrap();
    let undeclared = ReportSettings { figures: chosen::chosen(&sweep), ..ReportSettings::default() };
    for report in [declared, undeclared] {
        let figures = figures(&frames, &report);
        for metric in ["dice", "hd95"] {
            let bars = named(&figures, &format!("ablation_dfm_dic_{metric}_method_mcsd"));
            assert_eq!(cells(bars, "n"), ["3"; 4]);
            assert!(bars.caption.contains("Only points with Method MCSD."), "{}", bars.caption);
        }
        let rows = named(&figures, "configurations_method_dfm_dic_dice");
        assert_eq!(cells(rows, "n"), ["3"; 5], "the baseline is beside them");
    }
}

/// Twelve methods over label ratios: what is told apart is told apart, and nothing is compared across ratios.
#[test]
fn twelve_methods_are_compared_ratio_by_ratio() {
    let temporary = TempDir::new().unwrap();
    let (frames, _) = run(temporary.path(), "acdc", &["preset=smoke"]);
    let sweep = Sweep::new(&frames.points).unwrap();
    let figures =
        figures(&frames, &ReportSettings { figures: chosen::chosen(&sweep), ..ReportSettings::default() });
    for (ratio, shown) in [("5", "5 %"), ("10", "10 %"), ("20", "20 %")] {
        for kind in ["ranks", "patients", "boxes"] {
            let figure = named(&figures, &format!("{kind}_method_dice_label_ratio_{ratio}"));
            assert!(
                figure.caption.starts_with(&format!("{shown} labelled (not shown: 100 %")),
                "{}",
                figure.caption
            );
        }
        let ranks = named(&figures, &format!("ranks_method_dice_label_ratio_{ratio}"));
        assert_eq!(ranks.data.rows.len(), 12);
    }
    assert!(figures.iter().all(|figure| !figure.slug.ends_with("label_ratio_100")));
    let learning = chosen::by_ratio(&sweep, FigureKind::Learning);
    assert_eq!(learning.len(), 3, "{learning:?}");

    // The upper bound is a level, and no place of a line.
    let ratio = named(&figures, "ratio_label_ratio_dice");
    assert_eq!(ratio.data.rows.len(), 37);
    assert_eq!(ratio.data.rows[36][..2], ["Supervised, 100 % labelled".to_owned(), "100".to_owned()]);
    assert!(ratio.caption.ends_with("Dotted: Supervised, 100 % labelled."), "{}", ratio.caption);
    assert!(
        ratio.data.rows.iter().all(|row| !row[4].is_empty() && !row[5].is_empty()),
        "intervals are in the data"
    );
    assert_eq!(ratio.drawing.width, chart::PAGE);
    let texts = ratio.drawing.shapes.iter().filter_map(|shape| match shape {
        Shape::Text(label) => Some(label.text.as_str()),
        _ => None,
    });
    let texts: Vec<&str> = texts.collect();
    assert!(texts.contains(&"20 %") && !texts.contains(&"100 %"), "{texts:?}");
    let dir = folder(&temporary, "twelve");
    let settings = FigureSettings::of(FigureKind::Ratio, vec![]);
    let files = plot(&frames, None, &[settings], Pictures::None, (&dir, false)).unwrap();
    let png = files.iter().find(|file| file.extension().is_some_and(|kind| kind == "png")).unwrap();
    super::figures::is_300_dpi(&fs::read(png).unwrap());
}

/// What the sources say that methods cost stands beside what is counted, in the same unit.
#[test]
fn published_parameters_stand_beside_counted_ones() {
    let temporary = TempDir::new().unwrap();
    let (mut frames, report) = run(temporary.path(), "complexity", &["preset=smoke"]);
    let counted = vec![1_813_764_i64; frames.points.height()];
    let counted: Vec<f64> = counted.into_iter().map(|count| count as f64).collect();
    let place = frames.points.get_column_names().iter().position(|name| *name == "n_cases").unwrap();
    frames.points.insert_column(place, polars::prelude::Column::new("parameters".into(), counted)).unwrap();
    let text = Tables::new(&frames, &report).unwrap().texts("md").swap_remove(0);
    let row = |method: &str| {
        text.lines().find(|line| line.starts_with(&format!("| {method} "))).unwrap().to_owned()
    };
    assert!(row("BCP").contains("| 1.81 | 1.81<sup>a</sup> (0.00) |"), "{}", row("BCP"));
    assert!(row("MC-Net+").contains("| 1.81 | 2.58<sup>a</sup> (−0.77) |"), "{}", row("MC-Net+"));
    assert!(row("MCSD").contains("| 3.63<sup>a</sup> (−1.82) |"), "{}", row("MCSD"));
    assert!(row("SC-SSL").contains("| 1.81 | – |"), "nothing is published of it: {}", row("SC-SSL"));
    assert!(text.contains("<sup>a</sup> github:yunzhuC/MCSD README.md:25-33"), "{text}");
    let seconds = "UA-MT, URPC, CPS and CNN & Transformer 0.48, MC-Net+ 0.53, BCP 0.65, MCSD 0.55";
    assert!(text.contains(seconds), "{text}");
    // Of tables that have no such column, it is no claim.
    let (frames, report) = run(temporary.path(), "acdc", &["preset=smoke"]);
    let text = Tables::new(&frames, &report).unwrap().texts("md").swap_remove(0);
    assert!(!text.contains("seconds") && text.contains("88.73") && text.contains("88.87"), "{text}");
}

/// A table without marks says when no mark could be there, and what one training cannot tell.
#[test]
fn captions_say_what_tests_can_tell() {
    let temporary = TempDir::new().unwrap();
    let caption = |rows: usize, seeds: u64| {
        let mut points = Vec::new();
        for row in 0..rows {
            for seed in 0..seeds {
                let axes = vec![("train.batch", json!(row)), ("seed", json!(seed))];
                let dice = 0.75 + 0.01 * row as f64;
                points.push(record(
                    temporary.path(),
                    points.len(),
                    &Wanted { axes, dice, status: Status::Done },
                ));
            }
        }
        let settings = TableSettings {
            against: vec![("train.batch".into(), "0".into())],
            ..TableSettings::of(OneOrMany::One("train.batch".into()))
        };
        let report = ReportSettings { tables: vec![settings], ..ReportSettings::default() };
        Tables::new(&collect("tests", &points, &[]).unwrap(), &report).unwrap().texts("md").swap_remove(0)
    };
    // Eight patients: 2/2⁸ for each test, times six is 0.047, times seven 0.055.
    let six = caption(7, 2);
    assert!(six.contains("† p \\< 0.05") && !six.contains("No mark"), "{six}");
    assert!(six.contains("over the rows of a column") && !six.contains("one training"), "{six}");
    let seven = caption(8, 1);
    assert!(seven.contains("No mark could appear") && seven.contains("p of 0.055 at least"), "{seven}");
    assert!(
        !seven.contains('†') && seven.contains("Each row is one training: the test is about patients"),
        "{seven}"
    );
}

/// Legends show what the figure draws: no line where there is none.
#[test]
fn legends_of_clouds_have_no_lines() {
    let temporary = TempDir::new().unwrap();
    let frames = super::ablation(temporary.path(), 2, false);
    let sweep = Sweep::new(&frames.points).unwrap();
    let cases = Cases::new(&frames.cases, &sweep).unwrap();
    let settings = FigureSettings::of(FigureKind::Scatter, vec![]);
    let figure = draw(&Source::new(&sweep, &cases, &frames), &settings).unwrap().swap_remove(0);
    let colours: Vec<_> = (0..3).map(|index| chart::style(index).colour).collect();
    let lines = figure.drawing.shapes.iter().filter(|shape| match shape {
        Shape::Line { colour, .. } => colours.contains(colour),
        _ => false,
    });
    assert_eq!(lines.count(), 0);
}
