//! Every method from a sweep file to a table of results: the whole program on a phantom of ten patients.

use std::process::Command;

const SWEEP: &str = "
name: methods
base:
  preset: smoke
  data: { name: phantom, patients: 10 }
  label_ratio: 2 cases
  size: 32
  dfm: false
  timesteps: [50]
  blocks: [0, 2]
  feature_dim: 4
  tau: 0.3
  unet: { channels: [4, 4, 8, 8, 8] }
  swin: { channels: 12 }
  diffusion: { channel_mult: [1, 1], res_blocks: 1, attention: [2], iterations: 2, batch: 2 }
  bcp: { pretrain: 3 }
  train: { iterations: 4, batch: 2, validate_every: 3 }
grid:
  method: [supervised, mean_teacher, ua_mt, urpc, cps, cross_teaching, mc_net, mc_net_plus, bcp, sc_ssl, unimatch, mcsd]
include:
  - { method: mcsd, dfm: true }
";

fn sweep(dir: &std::path::Path, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sweep")).current_dir(dir).args(args).output();
    let output = output.expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn every_method_runs_from_a_sweep_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut file = std::fs::File::create(dir.path().join("methods.yaml")).expect("a file");
    std::io::Write::write_all(&mut file, SWEEP.as_bytes()).expect("written");
    let (code, _, errors) = sweep(dir.path(), &["run", "methods.yaml"]);
    assert_eq!(code, 0, "{errors}");
    let points = std::fs::read_to_string(dir.path().join("results/methods/points.csv")).expect("frames");
    let mut lines = points.lines();
    let head: Vec<&str> = lines.next().expect("a head").split(',').collect();
    let column =
        |name: &str| head.iter().position(|cell| *cell == name).unwrap_or_else(|| panic!("{name}: {head:?}"));
    let (method, dice) = (column("method"), column("dice"));
    let mut seen = 0;
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        let dice: f64 =
            cells[dice].parse().unwrap_or_else(|_| panic!("{}: dice `{}`", cells[method], cells[dice]));
        assert!((0.0..=100.0).contains(&dice), "{}: {dice}", cells[method]);
        seen += 1;
    }
    assert_eq!(seen, 13, "a row for each method, and one for MCSD with features");
}

#[test]
fn methods_are_listed_and_explained() {
    let dir = tempfile::tempdir().expect("a folder");
    let (code, list, _) = sweep(dir.path(), &["methods"]);
    assert_eq!(code, 0);
    for part in ["mc_net_plus", "3.211 M", "28.982 M", "2.578 M", "1.831 M", "SC-SSL (our reconstruction)"] {
        assert!(list.contains(part), "{part} in\n{list}");
    }
    let (code, text, _) = sweep(dir.path(), &["methods", "bcp"]);
    assert!(code == 0 && text.contains("bcp.pretrain") && text.contains("10000"), "{text}");
    let (code, json, _) = sweep(dir.path(), &["methods", "--json"]);
    assert!(code == 0 && json.contains("\"name\": \"unimatch\""), "{json}");
    let (code, _, error) = sweep(dir.path(), &["methods", "fixmatch"]);
    assert!(code == 2 && error.contains("no method `fixmatch`"), "{error}");
}
