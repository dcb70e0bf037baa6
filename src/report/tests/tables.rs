//! Tables: comparisons, blocks, published values, evidence, what is committed, speed.

use super::*;
use crate::results::{Frames, write};
use crate::spec::report::Published;
use crate::spec::settings::EmptyDistance;
use crate::stats;

/// The one table that `settings` ask for.
fn one(frames: &Frames, settings: &TableSettings) -> Table {
    let sweep = Sweep::new(&frames.points).unwrap();
    let cases = Cases::new(&frames.cases, &sweep).unwrap();
    let request = Request { slug: "one".into(), settings, subject: "Results" };
    table::build(&sweep, &cases, &request).unwrap()
}

fn rows(names: &[&str]) -> TableSettings {
    TableSettings::of(OneOrMany::Many(names.iter().map(|name| (*name).to_owned()).collect()))
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(axis, value)| ((*axis).to_owned(), (*value).to_owned())).collect()
}

fn value(table: &Table, row: usize, column: usize) -> &table::Value {
    match &table.rows[row].cells[column] {
        table::Cell::Value(value) => value,
        other => panic!("a value is expected, not {other:?}"),
    }
}

#[test]
fn cases_say_what_points_say() {
    let temporary = TempDir::new().unwrap();
    let frames = sensitivity(temporary.path());
    let sweep = Sweep::new(&frames.points).unwrap();
    let cases = Cases::new(&frames.cases, &sweep).unwrap();
    for metric in labels::METRICS {
        let measure = cases.measure(metric, None).unwrap().expect("a column of the frame");
        let whole = sweep.metric(metric.column).unwrap();
        let first = sweep.metric(&format!("{}_RV", metric.column)).unwrap();
        for point in 0..sweep.points.len() {
            let [all, one] = [&[0, 1, 2][..], &[0]].map(|classes| measure.point(point, classes).unwrap());
            assert!((all - whole[point].unwrap()).abs() < 1e-12 * all.max(1.0), "{}", metric.column);
            assert!((one - first[point].unwrap()).abs() < 1e-12 * one.max(1.0), "{}", metric.column);
        }
    }
    // Patients are averaged over their volumes and the points, and paired by their names.
    let dice = cases.measure(labels::METRICS[0], None).unwrap().unwrap();
    let both = dice.patients(&[0, 1], &[0, 1, 2]);
    let alone = [0, 1].map(|point| dice.patients(&[point], &[0, 1, 2]));
    assert_eq!(both.ids.len(), 8);
    for (place, mean) in both.means.iter().enumerate() {
        assert!((mean - 0.5 * (alone[0].means[place] + alone[1].means[place])).abs() < 1e-12);
    }
    assert!(both.less(&both).iter().all(|&difference| difference == 0.0));
}

#[test]
fn rows_are_tested_against_the_named_one() {
    let temporary = TempDir::new().unwrap();
    let frames = ablation(temporary.path(), 3, false);
    let against = pairs(&[("dfm", "true"), ("dic", "true")]);
    let settings = TableSettings { against, difference: true, ..rows(&["dfm", "dic"]) };
    let table = one(&frames, &settings);
    let heads: Vec<&str> = table.columns.iter().map(|column| column.field.as_str()).collect();
    assert_eq!(heads[2..6], ["n", "dice_percent", "dice_percent_difference", "jaccard_percent"]);
    // By hand: patients' means over seeds, volumes and classes.
    let sweep = Sweep::new(&frames.points).unwrap();
    let cases = Cases::new(&frames.cases, &sweep).unwrap();
    let dice = cases.measure(labels::METRICS[0], None).unwrap().unwrap();
    let of = |row: usize| dice.patients(&[3 * row, 3 * row + 1, 3 * row + 2], &[0, 1, 2]);
    let p: Vec<f64> =
        (0..3).map(|row| stats::signed_rank(&of(row).less(&of(3))).expect("eight patients").p).collect();
    for (row, holm) in stats::holm(&p).into_iter().enumerate() {
        let found = value(&table, row, 3);
        let test = found.test.expect("a test against the last row");
        assert_eq!((test.p, test.holm, test.pairs), (p[row], holm, 8));
        let difference = found.summary.mean - value(&table, 3, 3).summary.mean;
        assert_eq!(table.rows[row].cells[4], table::Cell::Difference(difference));
    }
    assert_eq!(value(&table, 3, 3).test, None);
    assert_eq!(table.rows[3].cells[4], table::Cell::Blank, "the row itself has no difference");
    // Eight patients that all agree: p = 2/2⁸, three of them.
    assert!((p[0] - 2.0 / 256.0).abs() < 1e-12);
    assert!(
        table.caption.contains("against DFM ✓, DIC ✓") && table.caption.contains("Holm"),
        "{}",
        table.caption
    );
    let markdown = format::markdown(&table);
    assert!(markdown.contains("<sup>†</sup>"), "{markdown}");
    assert!(markdown.contains("| −"), "differences are signed: {markdown}");
    let csv = format::csv(&table);
    assert!(csv.lines().next().unwrap().contains("dice_percent_pairs,dice_percent_p,dice_percent_p_holm"));
    assert!(
        csv.lines().all(|line| line.split(',').count() == csv.lines().next().unwrap().split(',').count())
    );

    // A name that fits several rows, or none, is said and not guessed.
    for (wanted, said) in
        [(&[("dfm", "true")][..], "names several rows"), (&[("tau", "0.8")], "is not in this table")]
    {
        let table = one(&frames, &TableSettings { against: pairs(wanted), ..settings.clone() });
        assert!(table.caption.contains(said), "{}", table.caption);
        assert!((0..4).all(|row| value(&table, row, 3).test.is_none()));
    }
}

#[test]
fn blocks_are_ranked_and_compared_each_for_itself() {
    let temporary = TempDir::new().unwrap();
    let frames = sensitivity(temporary.path());
    let settings = TableSettings {
        within: vec!["label_ratio".into()],
        against: pairs(&[("tau", "0.90")]),
        ..rows(&["tau"])
    };
    let table = one(&frames, &settings);
    assert_eq!(table.rows.len(), 12);
    assert_eq!(
        table.rows.iter().map(|row| row.block).collect::<Vec<_>>(),
        [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    );
    for block in 0..3 {
        let ranks: Vec<table::Rank> = (0..4).map(|row| value(&table, 4 * block + row, 3).rank).collect();
        assert_eq!(ranks.iter().filter(|&&rank| rank == Best).count(), 1, "block {block}: {ranks:?}");
        assert_eq!(value(&table, 4 * block + 2, 3).test, None, "the named row of each block");
        assert!(value(&table, 4 * block, 3).test.is_some());
    }
    assert_eq!(format::tex(&table).matches("\\midrule").count(), 3);
    assert_eq!(format::html(&table).matches("<tr class=\"block\">").count(), 2);
    // Only some of the points, by values as a sweep file has them.
    let only = vec![
        ("label_ratio".to_owned(), vec!["10 %".to_owned()]),
        ("tau".into(), vec!["0.80".into(), "0.9".into()]),
    ];
    let some = one(&frames, &TableSettings { only, ..rows(&["tau"]) });
    assert_eq!(some.rows.iter().map(|row| row.raw[0].as_str()).collect::<Vec<_>>(), ["0.8", "0.9"]);
    assert!(some.rows.iter().all(|row| row.points.len() == 3));
    assert!(some.caption.contains("Labelled = 10 % throughout"), "{}", some.caption);
    let nothing = vec![("data.name".to_owned(), vec!["acdc".to_owned()])];
    let none = one(&frames, &TableSettings { only: nothing, ..rows(&["tau"]) });
    assert!(none.rows.is_empty() && none.notes[0].contains("No point"), "{:?}", none.notes);
}

/// Methods on ACDC at 3 patients, each with a Dice.
fn methods(dir: &Path) -> Frames {
    let mut points = Vec::new();
    for (method, dice) in [("supervised", 0.5), ("unimatch", 0.85), ("mcsd", 0.86)] {
        for ratio in ["5%", "7 cases"] {
            for seed in 0..2 {
                let axes =
                    vec![("method", json!(method)), ("label_ratio", json!(ratio)), ("seed", json!(seed))];
                let wanted = Wanted { axes, dice: dice + 0.004 * f64::from(seed), status: Status::Done };
                let mut point = record(dir, points.len(), &wanted);
                point
                    .facts
                    .iter_mut()
                    .filter(|(path, _)| path == "data.name")
                    .for_each(|fact| fact.1 = json!("acdc"));
                point.facts.retain(|(path, _)| path != "label_ratio");
                points.push(point);
            }
        }
    }
    collect("methods", &points, &[]).unwrap()
}

#[test]
fn published_values_stand_beside_measured_ones() {
    let temporary = TempDir::new().unwrap();
    let frames = methods(temporary.path());
    let settings = TableSettings {
        within: vec!["label_ratio".into()],
        published: Published::Beside,
        ..rows(&["method"])
    };
    let table = one(&frames, &settings);
    let column = |field: &str| table.columns.iter().position(|column| column.field == field).expect(field);
    let quoted = |row: usize, field: &str| match &table.rows[row].cells[column(field)] {
        table::Cell::Published(quotes) => quotes.iter().map(|quote| quote.value).collect::<Vec<_>>(),
        table::Cell::Blank => vec![],
        other => panic!("{other:?}"),
    };
    // Rows: 5 % and 7 cases, each supervised, UniMatch, MCSD; the blocks as numbers sort them.
    assert_eq!(quoted(0, "dice_percent_published"), [47.83, 41.5]);
    assert_eq!(quoted(1, "dice_percent_published"), [84.38, 87.61, 88.9], "all sources, in the file's order");
    assert_eq!(quoted(2, "dice_percent_published"), [] as [f64; 0], "nothing is known of MCSD at 5 %");
    assert_eq!(quoted(5, "dice_percent_published"), [89.98]);
    assert_eq!(quoted(5, "hd95_voxels_published"), [1.25]);
    assert_eq!(quoted(5, "jaccard_percent_published"), [] as [f64; 0]);
    let table::Cell::Published(quotes) = &table.rows[5].cells[column("dice_percent_published")] else {
        panic!()
    };
    let mean = value(&table, 5, column("dice_percent")).summary.mean;
    assert_eq!(quotes[0].difference, Some(mean - 89.98));
    let notes = table.notes.join("\n");
    assert!(notes.contains("contradict each other") && notes.contains("84.38 and 87.61"), "{notes}");
    assert!(notes.contains("Measured at preset lite"), "{notes}");
    assert!(
        table.sources.iter().any(|source| source.contains("OPMatch") && source.contains("20 test patients"))
    );
    assert!(table.sources.iter().any(|source| source.contains("validation and test patients together")));

    // With rows of methods that were not run, in their blocks, behind the measured ones and never ranked.
    let all = one(&frames, &TableSettings { published: Published::All, ..settings.clone() });
    let names: Vec<&str> = all.rows.iter().map(|row| row.raw[1].as_str()).collect();
    let place = |wanted: &str| names.iter().position(|name| *name == wanted).expect(wanted);
    assert!(
        place("SASSNet") < place("ABD") && place("ABD") < place("OPMatch"),
        "the file's order: {names:?}"
    );
    assert_eq!(names.iter().filter(|name| **name == "UniMatch").count(), 0, "it was run: `unimatch`");
    let first = all.rows.iter().position(|row| row.points.is_empty()).unwrap();
    assert_eq!(all.rows[first].block, 0);
    assert!(all.rows[..first].len() == 3 && all.rows[first].cells[0] == all.rows[0].cells[0]);
    for text in [format::markdown(&all), format::tex(&all), format::csv(&all), format::page(&all)] {
        assert!(text.contains("SASSNet") && text.contains("89.98"));
    }

    // Other settings are not what was published.
    let mut other = methods(temporary.path());
    let tau = vec![0.95; other.points.height()];
    other.points.insert_column(2, polars::prelude::Column::new("tau".into(), tau)).unwrap();
    let other = one(&other, &settings);
    assert!(
        other.rows[1].cells.iter().any(|cell| matches!(cell, table::Cell::Published(_))),
        "tau is not UniMatch's here"
    );
    assert!(
        !other.rows[5].cells.iter().any(|cell| matches!(cell, table::Cell::Published(_))),
        "MCSD's is 0.9"
    );

    // Of the phantom nothing is published, and that is said.
    let settings = TableSettings { published: Published::All, ..rows(&["dfm", "dic"]) };
    let phantom = one(&ablation(temporary.path(), 1, false), &settings);
    assert!(phantom.notes.iter().any(|note| note.starts_with("Nothing is published of this data set")));
    assert!(
        phantom.notes.iter().any(|note| note.contains("13.3") && note.contains("2.51")),
        "{:?}",
        phantom.notes
    );
}

#[test]
fn the_published_file_holds_what_it_says() {
    let library = published::Library::load().unwrap();
    assert_eq!(library.rows.len(), 72);
    let text = include_str!("../published.yaml");
    assert!(!text.contains("/farm") && !text.contains("/work"), "sources are not places on a machine");
    let all = |metric: &str| library.rows.iter().filter_map(|row| row.value(metric)).collect::<Vec<_>>();
    assert!(all("dice").len() == 72 && all("dice").iter().all(|dice| (1.0..100.0).contains(dice)));
    assert!(all("hd95").len() > 40 && all("hd95").iter().all(|hd95| (1.0..40.0).contains(hd95)));
}

#[test]
fn what_the_frames_lack_is_said() {
    let temporary = TempDir::new().unwrap();
    let frames = ablation(temporary.path(), 2, false);
    let metrics = ["dice", "hd95_mm", "parameters"].map(String::from).to_vec();
    let settings = TableSettings { metrics, ..rows(&["dfm", "dic"]) };
    let table = one(&frames, &settings);
    assert_eq!(table.rows[0].cells[4], table::Cell::Absent("not recorded".into()));
    assert!(
        table
            .notes
            .iter()
            .any(|note| note.contains("95HD (mm), Parameters (M)") && note.contains("evaluate.variants"))
    );
    // With a rule for empty masks: 0 needs nothing, the diagonal its column.
    let hd95 = |empty| {
        let metrics = vec!["hd95".to_owned()];
        one(&frames, &TableSettings { metrics, empty: Some(empty), ..rows(&["dfm", "dic"]) })
    };
    let zero = value(&hd95(EmptyDistance::Zero), 0, 3).clone();
    assert_eq!(zero.empties, 2, "one mask of each seed");
    assert_eq!(hd95(EmptyDistance::Diagonal).rows[0].cells[3], table::Cell::Absent("not recorded".into()));
    let mut recorded = frames.clone();
    let diagonal = vec![48.0; recorded.cases.height()];
    recorded.cases.with_column(polars::prelude::Column::new("diagonal".into(), diagonal)).unwrap();
    let diagonal = vec![120.0; recorded.cases.height()];
    recorded.cases.with_column(polars::prelude::Column::new("diagonal_mm".into(), diagonal)).unwrap();
    let mm: Vec<Option<f64>> = (0..recorded.cases.height()).map(|row| (row % 3 > 0).then_some(2.5)).collect();
    recorded.cases.with_column(polars::prelude::Column::new("hd95_mm".into(), mm)).unwrap();
    let metrics = vec!["hd95".to_owned(), "hd95_mm".into()];
    let settings = TableSettings { metrics, empty: Some(EmptyDistance::Diagonal), ..rows(&["dfm", "dic"]) };
    let table = one(&recorded, &settings);
    // One of 24 masks is empty: a class mean of 8 volumes, the mean of 3 classes.
    let far = value(&table, 0, 3).summary.mean;
    assert!((far - zero.summary.mean - 48.0 / 24.0).abs() < 1e-9, "{far}");
    assert_eq!(value(&table, 1, 4).summary.mean, 2.5, "a class without values is left out");
}

#[test]
fn a_cell_leads_to_its_points() {
    let temporary = TempDir::new().unwrap();
    let frames = ablation(temporary.path(), 2, true);
    let tables = Tables::new(&frames, &ReportSettings::default()).unwrap();
    let found = tables.evidence("results.1.dice").unwrap();
    assert_eq!(found, tables.evidence("results.dfm=false dic=false.dice").unwrap());
    assert_eq!(found.points.iter().map(|point| point.status.as_str()).collect::<Vec<_>>(), ["done", "done"]);
    let sweep = Sweep::new(&frames.points).unwrap();
    assert_eq!(found.points[1].value, sweep.metric("dice").unwrap()[1]);
    assert_eq!(found.points[1].train_key, sweep.points[1].train_key);
    assert!(
        found.cell.contains("row 1 (dfm=false dic=false), Dice (%)") && found.says.contains("over 2 points")
    );
    let failed = tables.evidence("results.2").unwrap();
    assert!(failed.points[1].error.as_deref().unwrap().contains("out of memory"));
    assert_eq!(tables.evidence("per_class.1.dice_LV").unwrap().points.len(), 2);
    for (wrong, said) in [
        ("1.dice", "names no table"),
        ("results.9.dice", "the rows are 1 to 4"),
        ("results.dfm=true.dice", "rows 2, 4 have dfm=true"),
        ("results.tau=0.9.dice", "`tau` is no axis of the rows, which are dfm, dic"),
        ("results.dfm=maybe", "no row has dfm=maybe"),
        ("results.1.dise", "the metrics dice, jaccard, hd95, asd"),
        ("results.", "a row is a number"),
    ] {
        let error = format!("{:#}", tables.evidence(wrong).expect_err(wrong));
        assert!(error.contains(said), "{wrong}: {error}");
    }
}

#[test]
fn committed_tables_are_held_to_their_frames() {
    let temporary = TempDir::new().unwrap();
    let frames = ablation(temporary.path(), 2, true);
    let dir = temporary.path().join("report");
    rendered(&frames, "held", &ReportSettings::default(), &dir);
    let tables = Tables::new(&frames, &ReportSettings::default()).unwrap();
    assert_eq!(tables.check(&dir), (8, vec![]), "a report and `sweep tables` write the same");
    let file = |name: &str| dir.join("tables").join(name);
    files::write_atomic(file("results.md"), read(&dir, "tables/results.md").replace("86.30", "96.30"))
        .unwrap();
    fs::remove_file(file("per_class.tex")).unwrap();
    let line = read(&dir, "tables/results.md").lines().position(|line| line.contains("96.30")).unwrap() + 1;
    let stale = vec![Stale::Differs(file("results.md"), line), Stale::Missing(file("per_class.tex"))];
    assert_eq!(tables.check(&dir), (6, stale));
    tables.write(&dir).unwrap();
    assert_eq!(tables.check(&dir), (8, vec![]));

    // Other tables take the place of these, and leave the figures.
    let settings = ReportSettings { tables: vec![rows(&["dfm", "dic"])], ..ReportSettings::default() };
    let others = Tables::new(&frames, &settings).unwrap();
    let (fine, stale) = others.check(&dir);
    assert_eq!((fine, stale.len()), (0, 12), "four are missing, eight are of no table: {stale:?}");
    others.write(&dir).unwrap();
    assert_eq!(others.check(&dir), (4, vec![]));
    assert!(!file("results.md").exists() && dir.join("figures/ablation_dfm_dic_dice.svg").is_file());
    // The next report knows of the tables that were written alone.
    let last = rendered(&frames, "held", &ReportSettings::default(), &dir);
    assert!(!file("by_dfm_dic.md").exists() && last.files.iter().all(|file| file.is_file()));
}

/// A sweep whose values are as awkward as text can be.
fn awkward(dir: &Path) -> Frames {
    let names = [r"a_b & 50 % of \{#1}$^~", "p|q <b> *x* [y] \"z\"", "Größe Łódź 心 – … ≤ Δ", "[1, 2]"];
    let points: Vec<PointRecord> = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let axes = vec![("unet.dropout", json!(name)), ("seed", json!(0))];
            record(dir, index, &Wanted { axes, dice: 0.7, status: Status::Done })
        })
        .collect();
    collect("awkward", &points, &[]).unwrap()
}

#[test]
fn awkward_names_stay_names() {
    let temporary = TempDir::new().unwrap();
    let table = one(&awkward(temporary.path()), &rows(&["unet.dropout"]));
    let tex = format::tex(&table);
    assert!(
        tex.contains(r"a\_b \& 50 \% of \textbackslash{}\{\#1\}\$\textasciicircum{}\textasciitilde{} & 1 &"),
        "{tex}"
    );
    assert!(tex.contains(r"Größe Łódź [U+5FC3] -- \ldots{} $\leq$ $\Delta$"), "{tex}");
    let markdown = format::markdown(&table);
    assert!(markdown.contains(r#"| p\|q \<b\> \*x\* \[y\] "z" |"#), "{markdown}");
    assert!(format::page(&table).contains("p|q &lt;b&gt; *x* [y] &quot;z&quot;"));
    assert!(format::csv(&table).contains(r#""p|q <b> *x* [y] ""z""",1,1,"#));
    balanced(&format::page(&table));
}

/// Every kind of table through a TeX engine, alone and within a paper, where there is one.
#[test]
fn latex_compiles() {
    if std::process::Command::new("pdflatex").arg("--version").output().is_err() {
        eprintln!(
            "skipped: there is no pdflatex here (Debian: texlive-latex-base, texlive-latex-recommended)"
        );
        return;
    }
    let temporary = TempDir::new().unwrap();
    let dir = temporary.path();
    let against = pairs(&[("dfm", "true"), ("dic", "true")]);
    let compared = TableSettings { against, difference: true, ..rows(&["dfm", "dic"]) };
    let published =
        TableSettings { within: vec!["label_ratio".into()], published: Published::All, ..rows(&["method"]) };
    let wide = TableSettings {
        against: pairs(&[("method", "mcsd")]),
        difference: true,
        per_class: true,
        ..published.clone()
    };
    let tables = [
        one(&ablation(dir, 2, true), &compared),
        one(&methods(dir), &published),
        one(&methods(dir), &wide),
        one(&awkward(dir), &rows(&["unet.dropout"])),
    ];
    // What a wide table has stands in parts of it, under the name of its block, once each.
    let text = format::tex(&tables[2]);
    assert!(text.matches("\\begin{table*}").count() > 2, "{text}");
    assert!(
        text.contains("\\multicolumn{")
            && text.contains("\\emph{Labelled 5\\%}")
            && !text.contains("5\\% & "),
        "{text}"
    );
    for column in tables[2].columns.iter().filter(|column| column.metric.is_some()) {
        let head = format::tex_escape(&column.title);
        assert!(text.contains(&head), "{head} is lost");
    }
    assert_eq!(text.matches("\\label{").count(), 1);
    let mut paper = String::from(
        "\\documentclass{article}\n\\usepackage[T1]{fontenc}\\usepackage{booktabs,amssymb,graphicx}\n\\begin{document}\n",
    );
    for (number, table) in tables.iter().enumerate() {
        files::write_atomic(dir.join(format!("t{number}.tex")), format::tex(table)).unwrap();
        paper.extend(["\\input{t", &number.to_string(), "}\n"]);
    }
    files::write_atomic(dir.join("paper.tex"), paper + "\\end{document}\n").unwrap();
    for name in ["t0", "t1", "t2", "t3", "paper"] {
        let run = std::process::Command::new("pdflatex")
            .args(["-interaction=nonstopmode", "-halt-on-error", name])
            .current_dir(dir)
            .output()
            .expect("pdflatex");
        let log = String::from_utf8_lossy(&run.stdout);
        let trouble = ["Overfull", "Float too large"].iter().any(|word| log.contains(word));
        assert!(run.status.success() && !trouble, "{name}: {log}");
    }
}

/// Frames of 10,000 points and 1.2 million case rows: where `SWEEP_LARGE` names a folder they are written into it, for the
/// commands to be timed on.
#[test]
#[ignore = "takes seconds, and is about time"]
fn ten_thousand_points() {
    use polars::prelude::Column;
    let (points, volumes, classes) = (10_000, 40, ["RV", "Myo", "LV"]);
    let mut rng = stream(3, "large frames", 0);
    let ids: Vec<String> =
        (0..points).map(|point| format!("{:08x}", 0x9e37_79b9_u32.wrapping_mul(point + 1))).collect();
    let lr: Vec<f64> = (0..points).map(|point| 0.001 * f64::from(point / 1000 + 1)).collect();
    let tau: Vec<f64> = (0..points).map(|point| 0.5 + 0.005 * f64::from(point / 10 % 100)).collect();
    let seed: Vec<i64> = (0..points).map(|point| i64::from(point % 10)).collect();
    let repeat = |text: &str, n: usize| vec![text.to_owned(); n];
    let n = points as usize;
    let mut columns = vec![
        Column::new("sweep".into(), repeat("large", n)),
        Column::new("id".into(), ids.clone()),
        Column::new("train.lr".into(), lr.clone()),
        Column::new("tau".into(), tau.clone()),
        Column::new("seed".into(), seed.clone()),
        Column::new("status".into(), repeat("done", n)),
        Column::new("error".into(), vec![None::<String>; n]),
        Column::new("n_cases".into(), vec![volumes as i64; n]),
    ];
    for name in crate::results::METRICS
        .iter()
        .map(|m| (*m).to_owned())
        .chain(crate::results::METRICS.iter().flat_map(|m| classes.map(|class| format!("{m}_{class}"))))
    {
        let values: Vec<f64> = (0..points).map(|_| rng.random_range(0.5..0.9)).collect();
        columns.push(Column::new(name.into(), values));
    }
    columns.push(Column::new("best_step".into(), vec![200_i64; n]));
    columns.push(Column::new("train_key".into(), ids.clone()));
    columns.push(Column::new("evaluate_key".into(), ids.clone()));
    let points_frame = polars::prelude::DataFrame::new(n, columns).unwrap();
    let lines = n * volumes * classes.len();
    let per = volumes * classes.len();
    let of = |row: usize| row / per;
    let mut columns = vec![
        Column::new("id".into(), (0..lines).map(|row| ids[of(row)].clone()).collect::<Vec<_>>()),
        Column::new("train.lr".into(), (0..lines).map(|row| lr[of(row)]).collect::<Vec<_>>()),
        Column::new("tau".into(), (0..lines).map(|row| tau[of(row)]).collect::<Vec<_>>()),
        Column::new("seed".into(), (0..lines).map(|row| seed[of(row)]).collect::<Vec<_>>()),
        Column::new(
            "case".into(),
            (0..lines)
                .map(|row| format!("patient{:03}_frame{:02}", row / 6 % 20, row / 3 % 2 + 1))
                .collect::<Vec<_>>(),
        ),
        Column::new(
            "patient".into(),
            (0..lines).map(|row| format!("patient{:03}", row / 6 % 20)).collect::<Vec<_>>(),
        ),
        Column::new("class".into(), (0..lines).map(|row| classes[row % 3].to_owned()).collect::<Vec<_>>()),
    ];
    for name in crate::results::METRICS {
        columns.push(Column::new(
            name.into(),
            (0..lines).map(|_| rng.random_range(0.5..0.9)).collect::<Vec<f64>>(),
        ));
    }
    columns.push(Column::new(
        "empty_prediction".into(),
        (0..lines).map(|row| row % 9973 == 0).collect::<Vec<_>>(),
    ));
    columns.push(Column::new("empty_label".into(), vec![false; lines]));
    let cases_frame = polars::prelude::DataFrame::new(lines, columns).unwrap();
    let frames = Frames {
        points: points_frame,
        cases: cases_frame,
        history: polars::prelude::DataFrame::empty(),
        diffusion: polars::prelude::DataFrame::empty(),
        samples: vec![],
    };
    let temporary = TempDir::new().unwrap();
    let dir = std::env::var_os("SWEEP_LARGE").map_or(temporary.path().join("large"), PathBuf::from);
    write(&frames, &dir).unwrap();
    drop(frames);
    let start = std::time::Instant::now();
    let frames = crate::results::read_tables(&dir).unwrap();
    let read = start.elapsed();
    let against = pairs(&[("train.lr", "0.001"), ("tau", "0.9")]);
    let settings = ReportSettings {
        tables: vec![
            TableSettings { against: against.clone(), difference: true, ..rows(&["train.lr", "tau"]) },
            TableSettings { per_class: true, ..rows(&["tau"]) },
            TableSettings { within: vec!["train.lr".into()], ..rows(&["tau", "seed"]) },
        ],
        ..ReportSettings::default()
    };
    let tables = Tables::new(&frames, &settings).unwrap();
    let computed = start.elapsed();
    tables.write(&dir.join("report")).unwrap();
    println!(
        "read {read:?}, tables {:?}, written {:?}",
        computed.checked_sub(read),
        start.elapsed().checked_sub(computed)
    );
    assert!(start.elapsed().as_secs() < 5, "three tables took {:?}", start.elapsed());
}
