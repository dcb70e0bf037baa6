use std::fs;

use rand::Rng;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::results::{ModelRecord, PointRecord, Status, collect};
use crate::rng::stream;
use crate::spec::report::{FigureKind, FigureSettings, Pictures};
use table::Rank::{Best, Other, Second};

mod paper;
mod tables;

/// A point of a synthetic sweep: its axes, and the Dice that it shall have.
struct Wanted {
    axes: Vec<(&'static str, Value)>,
    dice: f64,
    status: Status,
}

/// Writes what stages would have written for a seeded make-believe run.
fn record(dir: &Path, index: usize, wanted: &Wanted) -> PointRecord {
    let mut rng = stream(7, "report test", index as u64);
    let mut noise = |width: f64| rng.random_range(-width..width);
    let folder = dir.join(format!("objects/{index}"));
    files::create_folder(&folder).unwrap();
    let mut cases = String::new();
    for case in 0..8 {
        for (class, offset) in [("RV", -0.03), ("Myo", -0.01), ("LV", 0.04)] {
            let missed = wanted.dice < 0.7 && case == 3 && class == "RV";
            let dice = if missed { 0.0 } else { (wanted.dice + offset + noise(0.04)).clamp(0.0, 1.0) };
            let hd95 = if missed { 0.0 } else { (1.0 - dice) * 28.0 };
            let row = json!({"case": format!("patient{case:03}_ED"), "patient": format!("patient{case:03}"),
                "class": class, "dice": dice, "jaccard": dice / (2.0 - dice), "hd95": hd95, "asd": hd95 / 3.5,
                "empty_prediction": missed, "empty_label": false});
            cases.extend([row.to_string(), "\n".to_owned()]);
        }
    }
    let mut history = String::new();
    for step in (5..=600).step_by(5) {
        let progress = 1.0 - (-f64::from(step) / 150.0).exp();
        let mut row =
            json!({"step": step, "loss": 1.4 - 1.1 * progress * wanted.dice + noise(0.05), "lr": 0.01});
        if step % 100 == 0 {
            row["val_dice"] = json!((wanted.dice * progress + noise(0.015)).clamp(0.0, 1.0));
        }
        history.extend([row.to_string(), "\n".to_owned()]);
    }
    files::write_atomic(folder.join("cases.jsonl"), cases.as_bytes()).unwrap();
    files::write_atomic(folder.join("history.jsonl"), history.as_bytes()).unwrap();
    let done = wanted.status == Status::Done;
    PointRecord {
        id: format!("{:08x}", 0x9e37_79b9_u32.wrapping_mul(index as u32 + 1)),
        axes: wanted.axes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        facts: vec![
            ("preset".into(), json!("lite")),
            ("data.name".into(), json!("phantom")),
            ("label_ratio".into(), json!("10%")),
            ("evaluate.split".into(), json!("test")),
            ("evaluate.empty".into(), json!("zero")),
            ("evaluate.select".into(), json!("best")),
        ],
        status: wanted.status.clone(),
        train_key: format!("{:032x}", 0x51ed_270b_u128.wrapping_mul(index as u128 + 3)),
        evaluate_key: format!("{:032x}", 0xb492_b66f_u128.wrapping_mul(index as u128 + 5)),
        train: done.then(|| folder.clone()),
        evaluate: done.then_some(folder),
    }
}

/// The four rows of the ablation with `seeds` seeds; where `holes`, one point failed and the last row is missing.
fn ablation(dir: &Path, seeds: u64, holes: bool) -> Frames {
    let mut points = Vec::new();
    for (dfm, dic, dice) in
        [(false, false, 0.66), (true, false, 0.79), (false, true, 0.83), (true, true, 0.87)]
    {
        for seed in 0..seeds {
            let status = match (dfm, dic, seed) {
                (true, false, 1) if holes => Status::Failed("out of memory in step 12 of <train>".into()),
                (false, true, _) if holes => Status::Missing,
                _ => Status::Done,
            };
            let axes =
                vec![("dfm", json!(dfm)), ("dic", json!(dic)), ("tau", json!(0.9)), ("seed", json!(seed))];
            let dice = dice + 0.012 * stream(1, "seed", seed).random_range(-1.0..1.0);
            points.push(record(dir, points.len(), &Wanted { axes, dice, status }));
        }
    }
    collect("ablation", &points, &[]).unwrap()
}

/// τ against the label ratio, with sets of blocks and a rate that spans decades.
fn sensitivity(dir: &Path) -> Frames {
    let mut points = Vec::new();
    for (ratio, base) in [("5%", 0.74), ("10%", 0.83), ("20%", 0.87)] {
        for (place, tau) in [0.8, 0.85, 0.9, 0.95].into_iter().enumerate() {
            for seed in 0..3_u64 {
                let peak = 0.02 * (place as f64 - 2.0).abs();
                let dice = base - peak + 0.01 * stream(2, ratio, seed).random_range(-1.0..1.0);
                let axes = vec![("label_ratio", json!(ratio)), ("tau", json!(tau)), ("seed", json!(seed))];
                points.push(record(dir, points.len(), &Wanted { axes, dice, status: Status::Done }));
            }
        }
    }
    collect("sensitivity", &points, &[]).unwrap()
}

/// Sets of blocks by learning rate: a category, and numbers over decades.
fn blocks(dir: &Path) -> Frames {
    let mut points = Vec::new();
    for (blocks, base) in
        [(json!([0, 1, 2]), 0.78), (json!([2, 4, 6]), 0.86), (json!([5, 6, 7, 8, 12]), 0.82)]
    {
        for lr in [0.0001, 0.001, 0.01, 0.1] {
            let dice = base - 0.02 * (f64::log10(lr) + 2.0).powi(2);
            for seed in 0..2 {
                let dice = dice + 0.004 * f64::from(seed);
                let axes = vec![("blocks", blocks.clone()), ("train.lr", json!(lr)), ("seed", json!(seed))];
                points.push(record(dir, points.len(), &Wanted { axes, dice, status: Status::Done }));
            }
        }
    }
    collect("blocks", &points, &[]).unwrap()
}

/// A folder to render into; kept for looking at where `SWEEP_REPORT_TEST_DIR` names one.
fn folder(temporary: &TempDir, name: &str) -> PathBuf {
    let root = std::env::var_os("SWEEP_REPORT_TEST_DIR").map_or(temporary.path().to_owned(), PathBuf::from);
    root.join(name)
}

const DESCRIPTION: &str = "A make-believe sweep of the tests: <numbers> & figures mean nothing.";

fn rendered(frames: &Frames, name: &str, settings: &ReportSettings, dir: &Path) -> Rendered {
    let rendered = render(frames, &Backing::default(), name, DESCRIPTION, settings, dir).unwrap();
    for file in &rendered.files {
        assert!(fs::metadata(file).unwrap().len() > 0, "{} is empty", file.display());
    }
    assert_eq!(rendered.index, dir.join("index.html"));
    rendered
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap()
}

#[test]
fn ablation_tables_read_as_papers_do() {
    let temporary = TempDir::new().unwrap();
    let dir = folder(&temporary, "ablation");
    rendered(&ablation(temporary.path(), 3, false), "ablation", &ReportSettings::default(), &dir);
    insta::assert_snapshot!(read(&dir, "tables/results.md"), @r#"
    Results; test split (8 volumes); τ = 0.9 throughout. Mean ± SD over n seeds; in square brackets the 95 % bootstrap interval over patients. Best in bold, second underlined, by the mean as printed. ∅: includes distances to empty masks, counted below.

    | DFM | DIC | n | Dice (%) ↑ | Jaccard (%) ↑ | 95HD (voxel) ↓ | ASD (voxel) ↓ |
    | :-: | :-: | --: | --: | --: | --: | --: |
    | ✗ | ✗ | 3 | 62.82 ± 0.82<br><sub>[57.33, 65.98]</sub> | 46.82 ± 0.92<br><sub>[42.73, 49.32]</sub> | 9.24 ± 0.23<sup>∅</sup><br><sub>[8.35, 9.80]</sub> | 2.64 ± 0.07<sup>∅</sup><br><sub>[2.38, 2.80]</sub> |
    | ✓ | ✗ | 3 | 78.01 ± 0.62<br><sub>[77.45, 78.54]</sub> | 64.12 ± 0.84<br><sub>[63.35, 64.84]</sub> | 6.16 ± 0.17<br><sub>[6.01, 6.31]</sub> | 1.76 ± 0.05<br><sub>[1.72, 1.80]</sub> |
    | ✗ | ✓ | 3 | <ins>82.37 ± 0.64</ins><br><sub>[81.91, 82.81]</sub> | <ins>70.19 ± 0.92</ins><br><sub>[69.52, 70.83]</sub> | <ins>4.94 ± 0.18</ins><br><sub>[4.81, 5.06]</sub> | <ins>1.41 ± 0.05</ins><br><sub>[1.38, 1.45]</sub> |
    | ✓ | ✓ | 3 | **86.18 ± 1.03**<br><sub>[85.45, 86.84]</sub> | **75.92 ± 1.58**<br><sub>[74.79, 76.94]</sub> | **3.87 ± 0.29**<br><sub>[3.69, 4.08]</sub> | **1.11 ± 0.08**<br><sub>[1.05, 1.16]</sub> |

    Empty predictions (case × class): Baseline 3 of 72; 3 of 288 in all. Such a structure has Dice 0 and counts with distance 0, which flatters every distance.
    "#);
    insta::assert_snapshot!(read(&dir, "tables/per_class.md"), @r#"
    Dice of each class; test split (8 volumes); τ = 0.9 throughout. Mean ± SD over n seeds; in square brackets the 95 % bootstrap interval over patients. Best in bold, second underlined, by the mean as printed.

    | DFM | DIC | n | Dice RV (%) ↑ | Dice Myo (%) ↑ | Dice LV (%) ↑ |
    | :-: | :-: | --: | --: | --: | --: |
    | ✗ | ✗ | 3 | 55.26 ± 0.87<br><sub>[39.25, 63.88]</sub> | 64.07 ± 0.74<br><sub>[63.01, 65.12]</sub> | 69.14 ± 1.47<br><sub>[68.53, 69.68]</sub> |
    | ✓ | ✗ | 3 | 74.58 ± 1.42<br><sub>[73.79, 75.52]</sub> | 77.10 ± 0.72<br><sub>[76.40, 77.69]</sub> | 82.35 ± 1.07<br><sub>[81.36, 83.45]</sub> |
    | ✗ | ✓ | 3 | <ins>79.70 ± 0.83</ins><br><sub>[78.72, 80.51]</sub> | <ins>81.40 ± 0.82</ins><br><sub>[80.57, 82.23]</sub> | <ins>86.02 ± 1.14</ins><br><sub>[85.45, 86.67]</sub> |
    | ✓ | ✓ | 3 | **83.52 ± 1.44**<br><sub>[82.40, 84.32]</sub> | **84.73 ± 1.08**<br><sub>[83.43, 86.04]</sub> | **90.28 ± 0.82**<br><sub>[89.17, 91.34]</sub> |

    Empty predictions (case × class): Baseline 3 of 72; 3 of 288 in all. Such a structure has Dice 0 and counts with distance 0, which flatters every distance.
    "#);
    insta::assert_snapshot!(read(&dir, "tables/results.tex"), @r#"
    % Compiles alone; in a paper, \input this file and load booktabs, amssymb and graphicx.
    \makeatletter
    \let\sweepend\relax
    \ifx\@nodocument\relax\else
      \documentclass{article}
      \usepackage[utf8]{inputenc}
      \usepackage[T1]{fontenc}
      \usepackage[margin=2cm]{geometry}
      \usepackage{booktabs,amssymb,graphicx}
      \def\sweepend{\end{document}}
      \begin{document}
    \fi
    \makeatother
    \begin{table*}[tp]
      \centering
      \caption{Results; test split (8 volumes); $\tau$ = 0.9 throughout. Mean $\pm$ SD over n seeds; in square brackets the 95 \% bootstrap interval over patients. Best in bold, second underlined, by the mean as printed. $\varnothing$: includes distances to empty masks, counted below.}
      \label{tab:results}
      \vspace{4pt}
      \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{\footnotesize\setlength{\tabcolsep}{4pt}%
      \begin{tabular}{ccrrrrr}
        \toprule
        DFM & DIC & n & Dice (\%) $\uparrow$ & Jaccard (\%) $\uparrow$ & 95HD (voxel) $\downarrow$ & ASD (voxel) $\downarrow$ \\
        \midrule
        $\times$ & $\times$ & 3 & 62.82 $\pm$ 0.82 & 46.82 $\pm$ 0.92 & 9.24 $\pm$ 0.23\textsuperscript{$\varnothing$} & 2.64 $\pm$ 0.07\textsuperscript{$\varnothing$} \\
         &  &  & {\scriptsize [57.33, 65.98]} & {\scriptsize [42.73, 49.32]} & {\scriptsize [8.35, 9.80]} & {\scriptsize [2.38, 2.80]} \\[2pt]
        $\checkmark$ & $\times$ & 3 & 78.01 $\pm$ 0.62 & 64.12 $\pm$ 0.84 & 6.16 $\pm$ 0.17 & 1.76 $\pm$ 0.05 \\
         &  &  & {\scriptsize [77.45, 78.54]} & {\scriptsize [63.35, 64.84]} & {\scriptsize [6.01, 6.31]} & {\scriptsize [1.72, 1.80]} \\[2pt]
        $\times$ & $\checkmark$ & 3 & \underline{82.37 $\pm$ 0.64} & \underline{70.19 $\pm$ 0.92} & \underline{4.94 $\pm$ 0.18} & \underline{1.41 $\pm$ 0.05} \\
         &  &  & {\scriptsize [81.91, 82.81]} & {\scriptsize [69.52, 70.83]} & {\scriptsize [4.81, 5.06]} & {\scriptsize [1.38, 1.45]} \\[2pt]
        $\checkmark$ & $\checkmark$ & 3 & \textbf{86.18 $\pm$ 1.03} & \textbf{75.92 $\pm$ 1.58} & \textbf{3.87 $\pm$ 0.29} & \textbf{1.11 $\pm$ 0.08} \\
         &  &  & {\scriptsize [85.45, 86.84]} & {\scriptsize [74.79, 76.94]} & {\scriptsize [3.69, 4.08]} & {\scriptsize [1.05, 1.16]} \\[2pt]
        \bottomrule
      \end{tabular}}

      \smallskip
      \parbox{0.95\linewidth}{\footnotesize\raggedright Empty predictions (case $\times$ class): Baseline 3 of 72; 3 of 288 in all. Such a structure has Dice 0 and counts with distance 0, which flatters every distance.}
    \end{table*}
    \sweepend
    "#);
    insta::assert_snapshot!(read(&dir, "tables/results.csv").lines().take(2).collect::<Vec<_>>().join("\n"), @r#"
    dfm,dic,n,points,dice_percent_mean,dice_percent_sd,dice_percent_ci95_low,dice_percent_ci95_high,dice_percent_empty,jaccard_percent_mean,jaccard_percent_sd,jaccard_percent_ci95_low,jaccard_percent_ci95_high,jaccard_percent_empty,hd95_voxels_mean,hd95_voxels_sd,hd95_voxels_ci95_low,hd95_voxels_ci95_high,hd95_voxels_empty,asd_voxels_mean,asd_voxels_sd,asd_voxels_ci95_low,asd_voxels_ci95_high,asd_voxels_empty
    false,false,3,3,62.820747395190246,0.822864945429631,57.32872496583309,65.97858503632267,0,46.824073717342515,0.9242919779091845,42.73061243864107,49.316379860626405,0,9.243524062680066,0.23040218472029472,8.345028146121233,9.796538785949808,3,2.6410068750514473,0.06582919563436977,2.3842937560346384,2.7990110816999456,3
    "#);
}

#[test]
fn holes_are_shown_and_counted() {
    let temporary = TempDir::new().unwrap();
    let dir = folder(&temporary, "holes");
    rendered(&ablation(temporary.path(), 2, true), "holes", &ReportSettings::default(), &dir);
    insta::assert_snapshot!(read(&dir, "tables/results.md"), @r#"
    Results; test split (8 volumes); τ = 0.9 throughout. Mean ± SD over n seeds; in square brackets the 95 % bootstrap interval over patients. Best in bold, second underlined, by the mean as printed. ∅: includes distances to empty masks, counted below.

    | DFM | DIC | n | Dice (%) ↑ | Jaccard (%) ↑ | 95HD (voxel) ↓ | ASD (voxel) ↓ |
    | :-: | :-: | --: | --: | --: | --: | --: |
    | ✗ | ✗ | 2 | 63.28 ± 0.29<br><sub>[57.89, 66.45]</sub> | 47.34 ± 0.36<br><sub>[43.36, 49.85]</sub> | 9.11 ± 0.08<sup>∅</sup><br><sub>[8.17, 9.71]</sub> | 2.60 ± 0.02<sup>∅</sup><br><sub>[2.33, 2.78]</sub> |
    | ✓ | ✗ | 1 of 2 | <ins>77.79</ins><br><sub>[76.75, 78.74]</sub> | <ins>63.81</ins><br><sub>[62.44, 65.07]</sub> | <ins>6.22</ins><br><sub>[5.95, 6.51]</sub> | <ins>1.78</ins><br><sub>[1.70, 1.86]</sub> |
    | ✗ | ✓ | 0 of 2 | *missing* | *missing* | *missing* | *missing* |
    | ✓ | ✓ | 2 | **86.30 ± 0.88**<br><sub>[85.70, 86.94]</sub> | **76.11 ± 1.37**<br><sub>[75.15, 77.13]</sub> | **3.84 ± 0.25**<br><sub>[3.66, 4.00]</sub> | **1.10 ± 0.07**<br><sub>[1.04, 1.14]</sub> |

    Rows with n = 1 have no ±.  
    1 of 8 points failed, 2 missing: they are in no mean; n says what each row stands on.  
    Empty predictions (case × class): Baseline 2 of 48; 2 of 120 in all. Such a structure has Dice 0 and counts with distance 0, which flatters every distance.
    "#);
    let figure = read(&dir, "figures/ablation_dfm_dic_dice.svg");
    assert!(figure.contains(">\nmissing\n"), "a bar without values says why");
    let page = read(&dir, "index.html");
    assert!(page.contains("8: <b>5 evaluated, 1 failed, 2 missing</b>"));
    assert!(page.contains("out of memory in step 12 of &lt;train&gt;"));
    assert!(!page.contains("<train>"), "no text of a file becomes a tag");
}

#[test]
fn one_seed_has_no_spread() {
    let temporary = TempDir::new().unwrap();
    let dir = folder(&temporary, "single");
    rendered(&ablation(temporary.path(), 1, false), "single", &ReportSettings::default(), &dir);
    let table = read(&dir, "tables/results.md");
    assert!(!table.contains('±') && table.contains("n = 1 in every row"), "{table}");
}

#[test]
fn a_sweep_without_results_still_renders() {
    let temporary = TempDir::new().unwrap();
    let mut points: Vec<PointRecord> = Vec::new();
    let dir = folder(&temporary, "nothing");
    rendered(&collect("nothing", &points, &[]).unwrap(), "nothing", &ReportSettings::default(), &dir);
    let axes = vec![("tau", json!(0.9))];
    points.push(record(temporary.path(), 0, &Wanted { axes, dice: 0.5, status: Status::Missing }));
    let files =
        rendered(&collect("nothing", &points, &[]).unwrap(), "nothing", &ReportSettings::default(), &dir)
            .files;
    assert_eq!(files.len(), 5, "a page and one table: {files:?}");
    assert!(read(&dir, "tables/results.md").contains("| 0.9 | 0 of 1 | *missing* |"));
}

#[test]
fn each_numeric_axis_has_a_figure() {
    let temporary = TempDir::new().unwrap();
    for (name, frames, expected) in [
        (
            "sensitivity",
            sensitivity(temporary.path()),
            ["sensitivity_label_ratio_dice", "heatmap_label_ratio_tau_hd95"],
        ),
        ("blocks", blocks(temporary.path()), ["sensitivity_train_lr_dice", "configurations_blocks_hd95"]),
    ] {
        let dir = folder(&temporary, name);
        let files = rendered(&frames, name, &ReportSettings::default(), &dir).files;
        let has = |file: String| files.contains(&dir.join("figures").join(file));
        for slug in expected.into_iter().chain(["learning_loss", "learning_val_dice"]) {
            assert!(has(format!("{slug}.svg")) && has(format!("{slug}.png")), "{slug} in {files:?}");
        }
    }
}

#[test]
fn equal_frames_give_equal_bytes() {
    let temporary = TempDir::new().unwrap();
    let frames = ablation(temporary.path(), 2, false);
    let all = |name: &str| -> Vec<Vec<u8>> {
        let files =
            rendered(&frames, "twice", &ReportSettings::default(), &temporary.path().join(name)).files;
        files.iter().map(|file| fs::read(file).unwrap()).collect()
    };
    assert!(all("first") == all("second"), "a report depends on more than its frames");
    let left: Vec<_> = fs::read_dir(temporary.path().join("first/figures")).unwrap().flatten().collect();
    assert!(left.iter().all(|file| !file.file_name().to_string_lossy().starts_with('.')), "{left:?}");
}

#[test]
fn the_page_is_well_formed_and_stands_alone() {
    let temporary = TempDir::new().unwrap();
    let dir = temporary.path().join("page");
    rendered(&ablation(temporary.path(), 2, true), "page", &ReportSettings::default(), &dir);
    let page = read(&dir, "index.html");
    // Scripts are no markup.
    let (markup, scripts) = page.split_once("<script").unwrap();
    balanced(&format!("{markup}</body></html>"));
    assert_eq!(scripts.matches("</script>").count(), 2, "no text of a sweep ends a script");
    for figure in fs::read_dir(dir.join("figures")).unwrap().flatten() {
        if figure.path().extension().is_some_and(|kind| kind == "svg") {
            balanced(&fs::read_to_string(figure.path()).unwrap());
        }
    }
    assert!(!page.contains("src=\"http") && !page.contains("@import") && !page.contains("url("));
    let addresses: Vec<&str> = page.match_indices("http").map(|(at, _)| &page[at..at + 26]).collect();
    assert!(addresses.iter().all(|address| *address == "http://www.w3.org/2000/svg"), "{addresses:?}");
    for link in page.split("href=\"").skip(1) {
        let file = link.split('"').next().unwrap();
        assert!(
            file.starts_with('#') || dir.join(file).is_file(),
            "the page links to {file}, which is not there"
        );
    }
}

/// Whether every tag is closed in order.
fn balanced(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    for tag in page.split('<').skip(1) {
        let tag = tag.split('>').next().unwrap();
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap();
        let alone = tag.ends_with('/') || ["!DOCTYPE", "meta", "br"].contains(&name);
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> closes another tag");
        } else if !alone {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
}

#[test]
fn pngs_have_300_pixels_an_inch_and_show_something() {
    let mut drawing = drawing::Drawing::new(64, 32);
    drawing
        .area(&[(10.0, 10.0), (50.0, 10.0), (50.0, 20.0), (10.0, 20.0)], drawing::Colour::new(0, 114, 178));
    drawing.text("τ = 0.9", (30.0, 28.0), 8.0, drawing::Align::Centre, chart::INK);
    let rgb = vec![255, 0, 0, 0, 0, 255];
    drawing.picture((50.0, 0.0), (14.0, 7.0), drawing::Picture { width: 2, height: 1, rgb });
    let bytes = drawing.png().unwrap();
    assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
    let size = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!((size(16), size(20)), (200, 100));
    let blank = drawing::Drawing::new(64, 32).png().unwrap();
    assert!(bytes.len() > blank.len() + 100, "shapes and text leave pixels");
    let mut reader = png::Decoder::new(&bytes[..]).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size()];
    reader.next_frame(&mut pixels).unwrap();
    let pixel = |x: usize, y: usize| &pixels[(y * 200 + x) * 3..][..3];
    assert_eq!((pixel(160, 5), pixel(195, 5)), (&[255, 0, 0][..], &[0, 0, 255][..]), "the picture");
    assert_eq!(pixel(60, 45), [0, 114, 178], "the area");
    let svg = drawing.svg().unwrap();
    assert!(svg.find("<image ").unwrap() < svg.find("<polygon ").unwrap(), "pictures lie below");
}

#[test]
fn text_has_the_width_of_its_letters() {
    let [one, ten] = ["0", "0000000000"].map(|text| drawing::text_width(text, 12.0, false));
    // A digit of Liberation Sans is 0.556 em wide.
    assert!((one - 0.556 * 12.0).abs() < 0.15 && (ten - 10.0 * one).abs() < 1.5, "{one} and {ten}");
    assert!(drawing::text_width("τ", 12.0, false) > 3.0, "Greek is in the font");
}

#[test]
fn settings_choose_tables_and_figures() {
    let temporary = TempDir::new().unwrap();
    let frames = sensitivity(temporary.path());
    let table = |rows: OneOrMany, metric: &str| TableSettings {
        metrics: vec![metric.into()],
        ..TableSettings::of(rows)
    };
    let figure = |x: &str, y: &str| FigureSettings {
        y: Some(y.into()),
        ..FigureSettings::of(FigureKind::Sensitivity, vec![x.into()])
    };
    let many = OneOrMany::Many(vec!["tau".into(), "label_ratio".into()]);
    let settings = ReportSettings {
        tables: vec![table(OneOrMany::One("tau".into()), "dice_LV"), table(many, "asd")],
        figures: vec![figure("tau", "asd")],
        pictures: Pictures::All,
    };
    let dir = folder(&temporary, "chosen");
    rendered(&frames, "chosen", &settings, &dir);
    let pooled = read(&dir, "tables/by_tau.md");
    assert!(
        pooled.contains("Dice LV (%) ↑") && pooled.contains("Rows pool all values of Labelled"),
        "{pooled}"
    );
    assert!(pooled.contains("| 0.8 | 9 |"), "{pooled}");
    assert!(read(&dir, "tables/by_tau_label_ratio.md").contains("| 0.95 | 20 % | 3 |"));
    assert!(dir.join("figures/sensitivity_tau_asd.svg").is_file());
    let error = |settings: &ReportSettings| {
        format!(
            "{:#}",
            render(&frames, &Backing::default(), "wrong", "", settings, &dir).expect_err("wrong settings")
        )
    };
    let wrong = ReportSettings {
        tables: vec![table(OneOrMany::One("taw".into()), "dice")],
        figures: vec![],
        pictures: Pictures::All,
    };
    assert!(error(&wrong).contains("`taw` is no axis of the sweep; its axes are label_ratio, tau, seed"));
    let wrong = ReportSettings {
        tables: vec![],
        figures: vec![figure("tau", "dice_heart")],
        pictures: Pictures::All,
    };
    assert!(error(&wrong).contains("`dice_heart` is no metric"), "{}", error(&wrong));
}

#[test]
fn equal_means_share_their_rank() {
    let temporary = TempDir::new().unwrap();
    let points: Vec<PointRecord> = [0.8, 0.8, 0.7, 0.6]
        .into_iter()
        .enumerate()
        .map(|(index, dice)| {
            let axes = vec![("train.batch", json!(index))];
            let point = record(temporary.path(), index, &Wanted { axes, dice, status: Status::Done });
            let row = json!({"case": "a", "class": "LV", "dice": dice, "jaccard": dice, "hd95": 1.0, "asd": dice,
                "empty_prediction": false, "empty_label": false});
            files::write_atomic(point.evaluate.as_ref().unwrap().join("cases.jsonl"), row.to_string().as_bytes()).unwrap();
            point
        })
        .collect();
    let frames = collect("ranks", &points, &[]).unwrap();
    let sweep = Sweep::new(&frames.points).unwrap();
    let cases = Cases::new(&frames.cases, &sweep).unwrap();
    let settings = TableSettings::of(OneOrMany::One("train.batch".into()));
    let request = Request { slug: "ranks".into(), settings: &settings, subject: "Results" };
    let table = table::build(&sweep, &cases, &request).unwrap();
    let ranks = |column: usize| -> Vec<table::Rank> {
        let rank = |row: &table::Row| match &row.cells[column] {
            table::Cell::Value(value) => value.rank,
            _ => panic!("a value is expected"),
        };
        table.rows.iter().map(rank).collect()
    };
    assert_eq!(ranks(2), [Best, Best, Second, Other], "Dice: higher is better");
    assert_eq!(ranks(4), [Best, Best, Best, Best], "95HD: all are equal");
    assert_eq!(ranks(5), [Other, Other, Second, Best], "ASD: lower is better");
}

#[test]
fn values_with_units_are_numbers() {
    for (text, expected) in [
        ("10%", Some((10.0, "%"))),
        ("7 cases", Some((7.0, "cases"))),
        ("1e-3", Some((1e-3, ""))),
        ("x", None),
    ] {
        assert_eq!(sweep::measure(text), expected, "{text}");
    }
    assert_eq!(sweep::measure("nan"), None);
}

#[test]
fn ticks_are_round_and_within() {
    let ticks = |low: f64, high: f64| chart::Scale::new(low, high, 0.0, 100.0).ticks(5);
    assert_eq!(ticks(0.0, 1.0), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
    assert_eq!(ticks(83.2, 91.7), [84.0, 86.0, 88.0, 90.0]);
    assert_eq!(ticks(-0.13, 0.31), [-0.1, 0.0, 0.1, 0.2, 0.3]);
    assert_eq!(ticks(0.0, 44_100.0), [0.0, 10_000.0, 20_000.0, 30_000.0, 40_000.0]);
    let scale = chart::Scale::along(&[1e-4, 1e-1], 0.0, 100.0);
    let middle = scale.at(1e-4_f64.max(1e-1) * 10_f64.powf(-1.5));
    assert!((middle - 50.0).abs() < 1e-9, "decades are even: {middle}");
}

#[test]
fn tex_escapes_what_would_not_compile() {
    assert_eq!(
        format::tex_escape("a_b & 5 % {2} τ ± ✓ `x`"),
        r"a\_b \& 5 \% \{2\} $\tau$ $\pm$ $\checkmark$ 'x'"
    );
}

/// A model with a curve of 8 rows in 10 bins, and a picture.
fn model(dir: &Path, name: &str) -> ModelRecord {
    let folder = dir.join(name);
    fs::create_dir_all(&folder).unwrap();
    let mut lines = String::new();
    for row in 1..=8 {
        let mut line = json!({ "step": 20 * row, "loss": 1.0 / f64::from(row) });
        for bin in 0..10 {
            line[format!("loss_t{}", 100 * bin)] = json!(1.0 / f64::from(row * (1 + bin)));
        }
        lines += &line.to_string();
        lines.push('\n');
    }
    files::write_atomic(folder.join("history.jsonl"), lines).unwrap();
    let png = drawing::encode(&[200; 12], 2, 2, None).unwrap();
    files::write_atomic(folder.join("samples.png"), &png).unwrap();
    ModelRecord { key: format!("{name}0123"), label: format!("pretrain {name}"), folder }
}

#[test]
fn diffusion_models_show_their_loss_by_step_and_their_samples() {
    let temporary = TempDir::new().unwrap();
    let dir = folder(&temporary, "diffusion");
    let models = ["phantom", "<other>"].map(|name| model(temporary.path(), name));
    let both = collect("models", &[], &models).unwrap();
    assert_eq!(both.diffusion.height(), 16);
    let svg = |frames: &Frames, dir: &Path| {
        let all = ReportSettings { pictures: Pictures::All, ..ReportSettings::default() };
        rendered(frames, "models", &all, dir);
        read(dir, "figures/diffusion_loss.svg")
    };
    let several = svg(&both, &dir);
    assert!(several.contains("pretrain phantom") && several.contains("pretrain &lt;other&gt;"), "{several}");
    let page = read(&dir, "index.html");
    assert_eq!(page.matches("data:image/png;base64,").count(), 2, "the pictures are part of the page");
    assert!(page.contains("(pretrain &lt;other&gt;)") && !page.contains("(pretrain <other>)"));
    assert!(dir.join("figures/diffusion_samples_2.png").is_file());

    let none = ReportSettings { pictures: Pictures::None, ..ReportSettings::default() };
    rendered(&both, "models", &none, &dir);
    assert!(
        !read(&dir, "index.html").contains("data:image")
            && !dir.join("figures/diffusion_samples_1.png").exists()
    );

    // One model alone shows how it came there: a line for each quarter.
    let one = svg(&collect("models", &[], &models[..1]).unwrap(), &dir);
    for quarter in ["steps 1–40", "steps 41–80", "steps 81–120", "steps 121–160"] {
        assert!(one.contains(quarter), "{quarter} is missing: {one}");
    }
}

#[test]
fn a_report_takes_back_the_files_of_the_one_before_and_no_others() {
    let temporary = TempDir::new().unwrap();
    let dir = folder(&temporary, "changed");
    let outside = temporary.path().join("outside.md");
    files::write_atomic(&outside, "not of a report").unwrap();
    let models = [model(temporary.path(), "phantom")];
    let first =
        rendered(&collect("models", &[], &models).unwrap(), "changed", &ReportSettings::default(), &dir)
            .files;
    files::write_atomic(dir.join("tables/mine.md"), "a note of the user").unwrap();
    let list = read(&dir, ".files");
    files::write_atomic(dir.join(".files"), format!("{list}../outside.md\n{}\n", outside.display())).unwrap();
    let second =
        rendered(&collect("models", &[], &[]).unwrap(), "changed", &ReportSettings::default(), &dir).files;
    for file in &first {
        assert_eq!(file.exists(), second.contains(file), "{}", file.display());
    }
    assert!(first.len() > second.len());
    assert!(outside.exists() && dir.join("tables/mine.md").exists(), "a file of someone else is gone");
}

mod figures;
