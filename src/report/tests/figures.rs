//! All kinds of figures, from make-believe frames.

use super::*;
use crate::report::cases::Cases;
use crate::report::drawing::Shape;
use crate::report::figures::{Figure, Source, draw};
use crate::spec::report::OneOrMany;
use crate::store::files::write_atomic;

/// Methods over label ratios, with a second axis of numbers.
fn methods(dir: &Path) -> Frames {
    let mut points = Vec::new();
    for (method, base) in [("supervised", 0.70), ("ua_mt", 0.74), ("cps", 0.78), ("mcsd", 0.85)] {
        for (ratio, more) in [("5%", -0.06), ("10%", 0.0), ("20%", 0.04)] {
            for seed in 0..2_u64 {
                let dice = base + more + 0.01 * stream(4, method, seed).random_range(-1.0..1.0);
                let axes =
                    vec![("method", json!(method)), ("label_ratio", json!(ratio)), ("seed", json!(seed))];
                points.push(record(dir, points.len(), &Wanted { axes, dice, status: Status::Done }));
            }
        }
    }
    collect("methods", &points, &[]).unwrap()
}

fn all(frames: &Frames, settings: &FigureSettings) -> anyhow::Result<Vec<Figure>> {
    let sweep = Sweep::new(&frames.points)?;
    let cases = Cases::new(&frames.cases, &sweep)?;
    draw(&Source::new(&sweep, &cases, frames), settings)
}

fn one(frames: &Frames, settings: &FigureSettings) -> Figure {
    let mut figures = all(frames, settings).unwrap();
    assert_eq!(figures.len(), 1, "{settings:?}");
    figures.pop().unwrap()
}

fn of(kind: FigureKind, x: &[&str]) -> FigureSettings {
    FigureSettings::of(kind, x.iter().map(|&x| x.to_owned()).collect())
}

fn column(figure: &Figure, name: &str) -> Vec<String> {
    let place = figure.data.columns.iter().position(|column| column == name);
    let place = place.unwrap_or_else(|| panic!("{name} is not in {:?}", figure.data.columns));
    figure.data.rows.iter().map(|row| row[place].clone()).collect()
}

fn numbers(figure: &Figure, name: &str) -> Vec<f64> {
    column(figure, name).iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn every_kind_draws_and_exports_what_it_shows() {
    let temporary = TempDir::new().unwrap();
    let dir = folder(&temporary, "kinds");
    let (methods, ablation) = (methods(temporary.path()), ablation(temporary.path(), 3, false));
    let (blocks, taus) = (blocks(temporary.path()), sensitivity(temporary.path()));
    for (frames, name, settings) in [
        (&taus, "sensitivity", of(FigureKind::Sensitivity, &["tau"])),
        (&methods, "ratio", of(FigureKind::Ratio, &[])),
        (&blocks, "category", of(FigureKind::Category, &["blocks"])),
        (&ablation, "ablation", of(FigureKind::Ablation, &[])),
        (&taus, "heatmap", of(FigureKind::Heatmap, &["tau", "label_ratio"])),
        (&blocks, "heatmap_blocks", of(FigureKind::Heatmap, &["train.lr", "blocks"])),
        (&ablation, "learning", of(FigureKind::Learning, &[])),
        (&ablation, "scatter", of(FigureKind::Scatter, &[])),
        (&ablation, "box", of(FigureKind::Box, &[])),
        (&methods, "ranks", of(FigureKind::Ranks, &["method"])),
    ] {
        let settings = FigureSettings { name: Some(name.to_owned()), ..settings };
        let files = plot(frames, None, &[settings], Pictures::None, (&dir, true)).unwrap();
        assert!(files.len() >= 3 && files.len().is_multiple_of(3), "{name}: {files:?}");
        for file in files {
            let bytes = fs::read(&file).unwrap();
            match file.extension().unwrap().to_str().unwrap() {
                "png" => is_300_dpi(&bytes),
                "svg" => balanced(std::str::from_utf8(&bytes).unwrap()),
                _ => {
                    let lines = std::str::from_utf8(&bytes).unwrap().lines().count();
                    assert!(lines > 2, "{} is empty", file.display());
                }
            }
        }
    }
}

/// 300 pixels an inch, and as wide as a journal's column or page.
pub(super) fn is_300_dpi(bytes: &[u8]) {
    let reader = png::Decoder::new(bytes).read_info().unwrap();
    let info = reader.info();
    let dims = info.pixel_dims.unwrap();
    assert_eq!((dims.xppu, dims.yppu), (11_811, 11_811));
    let inches = f64::from(info.width) / 300.0;
    assert!((inches - 3.5).abs() < 0.01 || (inches - 7.16).abs() < 0.01, "{inches} inches wide");
}

#[test]
fn exported_means_are_those_of_the_frame() {
    let temporary = TempDir::new().unwrap();
    let frames = methods(temporary.path());
    let figure = one(&frames, &of(FigureKind::Ratio, &[]));
    assert_eq!(figure.data.rows.len(), 12);
    let dice = frames.points.column("dice").unwrap().f64().unwrap().to_vec();
    let means = numbers(&figure, "mean");
    let (low, high) = (numbers(&figure, "low"), numbers(&figure, "high"));
    for (place, mean) in means.iter().enumerate() {
        let pair = [dice[2 * place].unwrap(), dice[2 * place + 1].unwrap()];
        assert!((mean - 50.0 * (pair[0] + pair[1])).abs() < 1e-9, "place {place}");
        assert!(low[place] < *mean && *mean < high[place], "the interval holds the mean");
    }
    assert_eq!(column(&figure, "series")[0], "Supervised");
}

#[test]
fn points_are_chosen_by_where_and_set_against_a_reference() {
    let temporary = TempDir::new().unwrap();
    let frames = methods(temporary.path());
    let only = vec![("label_ratio".to_owned(), vec!["10%".to_owned()])];
    let ranks = one(&frames, &FigureSettings { only: only.clone(), ..of(FigureKind::Ranks, &[]) });
    assert_eq!(column(&ranks, "configuration"), ["MCSD", "CPS", "UA-MT", "Supervised"]);
    assert_eq!(column(&ranks, "patients"), ["8"; 4]);
    let against = vec![("method".to_owned(), "cps".to_owned())];
    let scatter = one(&frames, &FigureSettings { only, against, ..of(FigureKind::Scatter, &["method"]) });
    assert!(scatter.caption.contains("its value under CPS"), "{}", scatter.caption);
    assert_eq!(scatter.data.rows.len(), 3 * 8);
    let error = |settings: &FigureSettings| format!("{:#}", all(&frames, settings).err().unwrap());
    let wrong = FigureSettings {
        against: vec![("method".into(), "bcp".into())],
        ..of(FigureKind::Scatter, &["method"])
    };
    assert!(error(&wrong).contains("method = bcp"), "{}", error(&wrong));
    let none = vec![("label_ratio".to_owned(), vec!["1%".to_owned()])];
    let wrong = FigureSettings { only: none, ..of(FigureKind::Box, &[]) };
    assert!(error(&wrong).contains("no point"), "{}", error(&wrong));
    for (settings, word) in [
        (of(FigureKind::Sensitivity, &[]), "needs `x`"),
        (of(FigureKind::Heatmap, &["method"]), "two axes"),
        (of(FigureKind::Ablation, &[]), "on or off"),
        (FigureSettings { y: Some("lost".into()), ..of(FigureKind::Learning, &[]) }, "was not logged"),
    ] {
        assert!(error(&settings).contains(word), "{}", error(&settings));
    }
    let by = Some(OneOrMany::One("label_ratio".into()));
    let pooled = one(&frames, &FigureSettings { by, ..of(FigureKind::Category, &["method"]) });
    assert_eq!(pooled.data.rows.len(), 12);
}

/// Nothing of a figure lies beside its sheet, and no text is too small to read in a journal's column.
#[test]
fn figures_keep_within_their_sheets() {
    let temporary = TempDir::new().unwrap();
    for (name, frames) in [
        ("methods", methods(temporary.path())),
        ("ablation", ablation(temporary.path(), 2, true)),
        ("blocks", blocks(temporary.path())),
        ("sensitivity", sensitivity(temporary.path())),
    ] {
        let sweep = Sweep::new(&frames.points).unwrap();
        for settings in crate::report::chosen::chosen(&sweep) {
            for figure in all(&frames, &settings).unwrap() {
                let (width, height) = (f64::from(figure.drawing.width), f64::from(figure.drawing.height));
                for shape in &figure.drawing.shapes {
                    let points = match shape {
                        Shape::Line { points, .. } | Shape::Area { points, .. } => points.clone(),
                        Shape::Dot { centre, .. } => vec![*centre],
                        Shape::Picture { at, size, .. } => vec![*at, (at.0 + size.0, at.1 + size.1)],
                        Shape::Text(label) => {
                            assert!(label.size >= 9.3, "{}: `{}` is too small", figure.slug, label.text);
                            let wide =
                                crate::report::drawing::text_width(&label.text, label.size, label.bold);
                            let start = match label.align {
                                crate::report::drawing::Align::Left => 0.0,
                                crate::report::drawing::Align::Centre => -wide / 2.0,
                                crate::report::drawing::Align::Right => -wide,
                            };
                            if label.upward {
                                vec![label.at]
                            } else {
                                vec![
                                    (label.at.0 + start, label.at.1),
                                    (label.at.0 + start + wide, label.at.1),
                                ]
                            }
                        }
                    };
                    for (x, y) in points {
                        let within = (-0.5..=width + 0.5).contains(&x) && (-0.5..=height + 0.5).contains(&y);
                        assert!(
                            within,
                            "{name}, {}: {shape:?} at {x}, {y} of {width} × {height}",
                            figure.slug
                        );
                    }
                }
            }
        }
    }
}

/// Of any two of the twelve methods, or of as many series as have styles: mark, filling or dashes differ, or the lightness;
/// where the colour is the same, the mark and its filling are not.
#[test]
fn series_are_told_apart_in_grey() {
    let styles: Vec<chart::Style> = (0..chart::MOST_STYLES).map(chart::style).collect();
    assert!(styles.len() >= 12);
    for (index, one) in styles.iter().enumerate() {
        for other in &styles[..index] {
            let lightness = (chart::luminance(one.colour) - chart::luminance(other.colour)).abs();
            assert!(one.in_grey() != other.in_grey() || lightness > 0.1, "{one:?} and {other:?}");
            let (one_grey, other_grey) = (one.in_grey(), other.in_grey());
            assert!(one.colour != other.colour || (one_grey.0 != other_grey.0 && one_grey.1 != other_grey.1));
        }
    }
    let [full, hollow] = [0, 8].map(|index| {
        let mut drawing = crate::report::drawing::Drawing::new(20, 20);
        chart::style(index).mark(&mut drawing, (10.0, 10.0), 2.8, 1.0);
        drawing.shapes.len()
    });
    assert_eq!((full, hollow), (1, 2), "a hollow mark has white in it");
}

/// What is not drawn is said, and why a bar is not there.
#[test]
fn figures_say_what_failed_and_what_is_missing() {
    let temporary = TempDir::new().unwrap();
    let mut frames = ablation(temporary.path(), 1, true);
    let figure = one(&frames, &of(FigureKind::Ablation, &[]));
    assert!(
        figure.caption.ends_with("0 of 4 points failed, 1 missing: nothing here stands on them."),
        "{}",
        figure.caption
    );
    let status = frames.points.column("status").unwrap().str().unwrap();
    let failed: Vec<Option<&str>> =
        status.iter().map(|status| if status == Some("missing") { Some("failed") } else { status }).collect();
    let failed = polars::prelude::Column::new("status".into(), failed);
    frames.points.replace("status", failed).unwrap();
    let figure = one(&frames, &of(FigureKind::Ablation, &[]));
    assert!(figure.caption.contains("1 of 4 points failed, 0 missing"), "{}", figure.caption);
    let text = |wanted: &str| {
        figure.drawing.shapes.iter().any(|shape| matches!(shape, Shape::Text(label) if label.text == wanted))
    };
    assert!(text("failed") && !text("missing"));
    let whole = one(&ablation(temporary.path(), 1, false), &of(FigureKind::Ablation, &[]));
    assert!(!whole.caption.contains("failed"), "{}", whole.caption);
}

/// Bands are of several seeds; what is a share stays within 0 and 100 %.
#[test]
fn learning_curves_say_what_they_draw() {
    let temporary = TempDir::new().unwrap();
    let loss = |seeds: u64| {
        all(&ablation(temporary.path(), seeds, false), &of(FigureKind::Learning, &[])).unwrap().swap_remove(0)
    };
    assert!(loss(2).caption.contains("band: lowest to highest seed"));
    assert!(!loss(1).caption.contains("band"), "{}", loss(1).caption);
    let mut frames = ablation(temporary.path(), 2, false);
    let steps = frames.history.column("step").unwrap().i64().unwrap().clone();
    let accepted: Vec<f64> = steps.iter().map(|step| if step.unwrap() < 20 { 0.0 } else { 1.0 }).collect();
    frames.history.with_column(polars::prelude::Column::new("accepted".into(), accepted)).unwrap();
    let figure = one(&frames, &of(FigureKind::Accepted, &[]));
    let ticks: Vec<&str> = figure
        .drawing
        .shapes
        .iter()
        .filter_map(|shape| match shape {
            Shape::Text(label) if label.align == crate::report::drawing::Align::Right => {
                Some(label.text.as_str())
            }
            _ => None,
        })
        .collect();
    assert_eq!((ticks.first(), ticks.last()), (Some(&"0"), Some(&"100")), "{ticks:?}");
}

/// Of more configurations than a diagram holds the best are ranked, and the others named.
#[test]
fn ranks_of_many_configurations_name_those_left_out() {
    let temporary = TempDir::new().unwrap();
    let point = |index: usize| {
        let axes = vec![("train.batch", json!(index))];
        record(
            temporary.path(),
            index,
            &Wanted { axes, dice: 0.5 + 0.01 * index as f64, status: Status::Done },
        )
    };
    let points: Vec<PointRecord> = (0..26).map(point).collect();
    let figure = one(&collect("many", &points, &[]).unwrap(), &of(FigureKind::Ranks, &[]));
    assert_eq!(figure.data.rows.len(), 24);
    assert!(
        figure.caption.contains(
            "Of 26 configurations the 24 of the best means are ranked; not among them: Batch = 0; Batch = 1."
        ),
        "{}",
        figure.caption
    );
}

/// Where there is no store, images of the report before stay, with their captions.
#[test]
fn images_are_kept_where_there_is_no_store() {
    let temporary = TempDir::new().unwrap();
    let wanted = Wanted { axes: vec![("tau", json!(0.9))], dice: 0.8, status: Status::Done };
    let points = [record(temporary.path(), 0, &wanted)];
    let dir = folder(&temporary, "kept");
    let with = collect("kept", &points, &[model(temporary.path(), "any")]).unwrap();
    rendered(&with, "kept", &ReportSettings::default(), &dir);
    let before = read(&dir, "index.html");
    assert!(before.contains("Sampled from noise"));
    let without = collect("kept", &points, &[]).unwrap();
    for _ in 0..2 {
        let files = rendered(&without, "kept", &ReportSettings::default(), &dir).files;
        let page = read(&dir, "index.html");
        assert_eq!(page.matches("Sampled from noise").count(), 1);
        assert!(page.contains("those of the report before this one"), "and it says so");
        assert!(files.contains(&dir.join("figures/diffusion_samples_1.png")));
        assert!(dir.join("figures/diffusion_samples_1.png").is_file());
    }
    // Not where no images shall be shown, nor those of points that are no longer there.
    write_atomic(dir.join("figures/diffusion_samples_1.csv"), "model,point\nany,0123\n").unwrap();
    rendered(&without, "kept", &ReportSettings::default(), &dir);
    assert!(!read(&dir, "index.html").contains("Sampled from noise"));
    rendered(&with, "kept", &ReportSettings::default(), &dir);
    rendered(
        &without,
        "kept",
        &ReportSettings { pictures: Pictures::None, ..ReportSettings::default() },
        &dir,
    );
    assert!(!read(&dir, "index.html").contains("Sampled from noise"));
    assert!(!dir.join("figures/diffusion_samples_1.png").exists());
}

/// From a cell of the page's tables to its points and their stages.
#[test]
fn cells_of_the_page_lead_to_their_points() {
    let temporary = TempDir::new().unwrap();
    let dir = folder(&temporary, "facts");
    let frames = ablation(temporary.path(), 3, true);
    rendered(&frames, "facts", &ReportSettings::default(), &dir);
    let page = read(&dir, "index.html");
    let facts = page.split("id=\"facts\">").nth(1).unwrap().split("</script>").next().unwrap();
    let facts: Value = serde_json::from_str(facts).unwrap();
    let points = facts["points"].as_array().unwrap();
    assert_eq!(points.len(), 12);
    let rows = facts["tables"]["results"].as_array().unwrap();
    let ids = frames.points.column("id").unwrap().str().unwrap();
    let mut seen = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let means: Vec<f64> = row
            .as_array()
            .unwrap()
            .iter()
            .map(|at| at.as_u64().unwrap() as usize)
            .inspect(|&at| seen.push(at))
            .filter_map(|at| {
                assert_eq!(points[at]["id"].as_str(), ids.get(at));
                points[at]["m"][0].as_f64()
            })
            .collect();
        let id = format!("id=\"results.{}.dice\"", number + 1);
        let Some(cell) = page.split(&id).nth(1) else {
            assert!(means.is_empty(), "a row with values has a cell");
            continue;
        };
        let mean = means.iter().sum::<f64>() / means.len() as f64;
        let shown = cell.split("</td>").next().unwrap();
        assert!(shown.contains(&format!("{mean:.2}")), "row {number}: {mean} is not in {shown}");
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..12).collect::<Vec<_>>(), "each point stands behind one row");
    assert!(page.contains("href=\"#point="), "failures lead to their points");
}

/// Images are drawn of generated data alone, unless a person says otherwise.
#[test]
fn images_of_real_data_are_not_drawn_unasked() {
    let temporary = TempDir::new().unwrap();
    let axes = |name: &str| vec![("data.name", json!(name))];
    let wanted = |name: &str| Wanted { axes: axes(name), dice: 0.8, status: Status::Done };
    let models = [model(temporary.path(), "any")];
    let shows = |name: &str, pictures: Pictures| {
        let mut point = record(temporary.path(), 0, &wanted(name));
        point.facts.retain(|(path, _)| path != "data.name");
        let frames = collect("real", &[point], &models).unwrap();
        let dir = temporary.path().join(format!("real-{name}"));
        let settings = ReportSettings { pictures, ..ReportSettings::default() };
        rendered(&frames, "real", &settings, &dir);
        dir.join("figures/diffusion_samples_1.png").is_file()
    };
    assert!(shows("phantom", Pictures::Generated) && !shows("phantom", Pictures::None));
    assert!(!shows("acdc", Pictures::Generated) && shows("acdc", Pictures::All));
    let acdc = collect("real", &[record(temporary.path(), 0, &wanted("acdc"))], &models);
    let points = &[FigureSettings::of(FigureKind::Samples, vec![])];
    let error =
        plot(&acdc.unwrap(), None, points, Pictures::Generated, (temporary.path(), false)).unwrap_err();
    assert!(format!("{error:#}").contains("may show patients"), "{error:#}");
}

#[test]
fn older_settings_of_pictures_are_read_on_the_safe_side() {
    let read = |text: &str| serde_json::from_str::<ReportSettings>(text).unwrap().pictures;
    assert_eq!(read("{}"), Pictures::Generated);
    assert_eq!(
        read(r#"{"pictures":true}"#),
        Pictures::Generated,
        "the default of programs that knew but a flag"
    );
    assert_eq!(read(r#"{"pictures":false}"#), Pictures::None);
    for pictures in [Pictures::Generated, Pictures::All, Pictures::None] {
        let settings = ReportSettings { pictures, ..ReportSettings::default() };
        assert_eq!(read(&serde_json::to_string(&settings).unwrap()), pictures);
    }
}

#[test]
fn names_of_files_end_however_many_axes_there_are() {
    let joined = crate::report::figures::joined;
    assert_eq!(joined(&["train.lr", "tau"]), "train_lr_tau");
    let paths = vec!["diffusion.scale_shift_norm"; 20];
    let name = joined(&paths);
    assert!(name.len() < 140 && name.ends_with("_scale_shift_norm_and_16_more"), "{name}");
}
