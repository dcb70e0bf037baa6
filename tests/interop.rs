//! Networks and volumes of other programs, through the program: prediction, comparison, import and export.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::Folder;
use mcsd_sweep::data::nifti::{Header, read, write_image, write_labels};
use mcsd_sweep::data::{Dataset, Split};

/// A point whose prediction reads diffusion features, and one whose does not. Barely trained, so that each labels something:
/// more steps of so small a network predict background alone.
const SWEEP: &str = "
name: tiny
base:
  preset: smoke
  data: { name: phantom, patients: 10 }
  method: mcsd
  label_ratio: 2 cases
  size: 32
  dic: false
  tau: 0.3
  timesteps: [50]
  blocks: [1]
  feature_dim: 4
  diffusion: { channels: 32, channel_mult: [1, 1], res_blocks: 1, attention: [2], head_channels: 32, iterations: 2, batch: 2 }
  unet: { channels: [4, 4, 8, 8, 8] }
  train: { iterations: 6, batch: 2, validate_every: 3, lr: 0.0001 }
  seed: 6
zip:
  dfm: [false, true]
  mcsd.test_stream: [image, mean]
";

fn folder(path: &Path) -> PathBuf {
    fs::create_dir_all(path).expect("a folder");
    path.to_owned()
}

/// The rows of a CSV file as column → cell.
fn rows(path: &Path) -> Vec<BTreeMap<String, String>> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().expect("a head").split(',').collect();
    let row =
        |line: &str| head.iter().map(ToString::to_string).zip(line.split(',').map(str::to_owned)).collect();
    lines.map(row).collect()
}

/// Images and label maps of the test split as files.
fn export_test_split(sweep: &Folder, images: &Path, labels: &Path) -> usize {
    let prepared = sweep.objects().into_iter().find(|object| object.join("dataset.json").is_file());
    let data = Dataset::open(&prepared.expect("a prepared data set")).expect("it opens");
    let mut count = 0;
    for case in data.cases_of(Split::Test) {
        let about = &data.cases()[case];
        let [z, y, x] = about.shape;
        let header = Header::new([x, y, z, 1], [1.5, 1.5, 10.0]).expect("a header");
        // Intensities as a scanner has them: the range does not matter.
        let raw: Vec<f32> = data.image(case).iter().map(|value| 1024.0 * value - 64.0).collect();
        write_image(&images.join(format!("{}.nii.gz", about.name)), &header, &raw).expect("written");
        write_labels(&labels.join(format!("{}_gt.nii", about.name)), &header, data.label(case))
            .expect("written");
        count += 1;
    }
    count
}

#[test]
fn predictions_in_files_score_as_the_sweep_said_and_weights_go_out_and_back() {
    let sweep = Folder::new(SWEEP);
    let good = |args: &[&str]| {
        let (code, out, err) = sweep.run(args);
        assert_eq!(code, 0, "{args:?}\n{out}\n{err}");
        out + &err
    };
    good(&["run", "tiny.yaml"]);
    let (images, labels) = (folder(&sweep.path("images")), folder(&sweep.path("labels")));
    let count = export_test_split(&sweep, &images, &labels);
    assert!(count > 0);
    let scored = rows(&sweep.path("results/tiny/cases.csv"));
    let points = rows(&sweep.path("results/tiny/points.csv"));
    assert_eq!(points.len(), 2);
    for point in &points {
        let id = &point["id"];
        let said = good(&["predict", "--point", id, "--input", "images", "--output", id]);
        assert!(said.contains(&format!("{count} volumes labelled")), "{said}");
        let scores = format!("scores-{id}");
        good(&["evaluate", "--pred", id, "--label", "labels", "--classes", "acdc", "--output", &scores]);
        let again = rows(&sweep.path(&scores).join("cases.csv"));
        let of_point: Vec<_> = scored.iter().filter(|row| row["id"] == *id).collect();
        assert_eq!((again.len(), of_point.len()), (3 * count, 3 * count));
        for row in of_point {
            let same = |other: &&BTreeMap<String, String>| {
                other["case"] == row["case"] && other["class"] == row["class"]
            };
            let other = again.iter().find(same).expect("the same case and class");
            for metric in ["dice", "jaccard", "hd95", "asd", "voxels_prediction", "voxels_label"] {
                assert_eq!(
                    row[metric], other[metric],
                    "{metric} of {} {} of {id}",
                    row["case"], row["class"]
                );
            }
        }
    }
    // The image stream alone, out as PyTorch's, back, and on the same volumes.
    let point = points.iter().find(|point| point["dfm"] == "false").expect("the point without features");
    for name in ["f.pth", "f.safetensors"] {
        good(&["export", "--point", &point["id"], name]);
        let said = good(&["import", name, "again.safetensors", "--size", "32"]);
        assert!(said.contains("U-Net of 4-4-8-8-8 channels, 1 in, 4 classes, images of 32²"), "{said}");
        good(&["predict", "--weights", "again.safetensors", "--input", "images", "--output", "again"]);
        for entry in fs::read_dir(sweep.path("again")).expect("label maps") {
            let path = entry.expect("an entry").path();
            let other = sweep.path(&point["id"]).join(path.file_name().expect("a name"));
            assert_eq!(
                read(&path).expect("a volume").voxels,
                read(&other).expect("a volume").voxels,
                "{name}"
            );
        }
    }
    let (code, _, error) = sweep.run(&["export", "--point", &point["id"], "--network", "g", "g.pth"]);
    assert!(code == 2 && error.contains("no `g`"), "{error}");
}

#[test]
fn wrong_arguments_and_files_are_the_inputs_fault() {
    let sweep = Folder::new(SWEEP);
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/weights");
    let at = |name: &str| weights.join(name).to_string_lossy().into_owned();
    let good = at("ssl4mis.pth");
    let header = Header::new([8, 8, 2, 1], [1.0; 3]).expect("a header");
    let image: Vec<f32> = (0..128u8).map(f32::from).collect();
    write_image(&sweep.path("a.nii"), &header, &image).expect("written");
    let bad = |args: &[&str], part: &str| {
        let (code, _, error) = sweep.run(args);
        assert!(code == 2 && error.contains(part), "{args:?}: {code} {error}");
    };
    bad(&["import", &at("refused_code.pth"), "w.safetensors"], "posix.getpid");
    bad(&["import", &good, "w.pth"], "does not end in .safetensors");
    bad(&["predict", "--input", "a.nii", "--output", "b.nii"], "--point");
    bad(
        &["predict", "--weights", &good, "--input", "none.nii", "--output", "b.nii"],
        "none.nii does not exist",
    );
    bad(&["predict", "--weights", &good, "--input", "a.nii", "--output", "a.nii"], "would be overwritten");
    bad(
        &["predict", "--weights", &good, "--input", "a.nii", "--output", "b.png"],
        "b.png is no name of a label map",
    );
    bad(
        &["predict", "--weights", &good, "--size", "40", "--input", "a.nii", "--output", "b.nii"],
        "multiple of 16",
    );
    bad(&["predict", "--point", "0123", "--input", "a.nii", "--output", "b.nii"], "knows no sweep yet");
    bad(&["evaluate", "--pred", "a.nii", "--label", "none.nii"], "none.nii does not exist");
    bad(&["evaluate", "--pred", "tiny.yaml", "--label", "a.nii"], "tiny.yaml is no volume");
    // A folder in which one volume is damaged: the others are labelled, and the code says that not all are.
    fs::create_dir(sweep.path("in")).expect("a folder");
    fs::copy(sweep.path("a.nii"), sweep.path("in/a.nii")).expect("copied");
    common::write(&sweep.path("in/b.nii"), &fs::read(sweep.path("a.nii")).expect("read")[..500]);
    let (code, out, error) =
        sweep.run(&["predict", "--weights", &good, "--size", "32", "--input", "in", "--output", "out"]);
    assert!(code == 1 && out.contains("1 volume labelled"), "{code} {out} {error}");
    assert!(error.contains("b.nii") && error.contains("cut short"), "{error}");
    assert_eq!(read(&sweep.path("out/a.nii.gz")).expect("labels").dims, [8, 8, 2, 1]);
}
