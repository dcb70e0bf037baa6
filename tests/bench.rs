//! `sweep bench` as a person calls it: what it prints, and what it refuses.

use std::process::Command;

use serde_json::{Value, json};

fn bench(args: &[&str]) -> (i32, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_sweep")).arg("bench").args(args).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("no signal"), text(&output.stdout), text(&output.stderr))
}

/// Replaces what is measured, and checks that it is a number that can be; memory is absent where no system tells it.
fn mask(value: &mut Value) {
    const MEASURED: [&str; 13] = [
        "bytes",
        "floor_compute",
        "floor_memory",
        "gflops",
        "median",
        "memory",
        "memory_before",
        "memory_expected",
        "memory_peak",
        "min",
        "spread",
        "steps",
        "winograd",
    ];
    let Value::Object(object) = value else { return };
    for (name, value) in object.iter_mut() {
        match value {
            Value::Object(_) => mask(value),
            Value::Array(values) => values.iter_mut().for_each(mask),
            Value::Number(number) if MEASURED.contains(&name.as_str()) => {
                assert!(number.as_f64().is_some_and(|n| n >= 0.0), "{name}: {number}");
                *value = "measured".into();
            }
            Value::Null if name.starts_with("memory") => *value = "measured".into(),
            _ => {}
        }
    }
}

#[test]
fn json_has_the_case_its_counts_and_the_floors() {
    let (code, out, err) =
        bench(&["unet", "--batch", "1", "--size", "32", "--threads", "1", "--seconds", "0", "--json"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let mut found: Value = serde_json::from_str(&out).expect("JSON");
    assert!(found["cases"][0]["min"].as_f64() <= found["cases"][0]["median"].as_f64(), "{out}");
    mask(&mut found);
    assert!(found["instructions"].take().is_string(), "{out}");
    assert!(found["rates"]["flops"].take().as_f64().is_some_and(|rate| rate > 0.0), "{out}");
    let expected = json!({
        "program": env!("CARGO_PKG_VERSION"),
        "device": "cpu",
        "precision": "f32",
        "threads": 1,
        "instructions": null,
        "rates": { "flops": null, "bytes": "measured" },
        "cases": [{
            "case": "unet",
            "batch": 1,
            "size": 32,
            "threads": 1,
            "parameters": 1_813_764,
            // Three passes of 92,176,384, less the gradient of the images.
            "flops": 276_234_240.0,
            "winograd": "measured",
            "bytes": "measured",
            "steps": "measured",
            "median": "measured",
            "min": "measured",
            "spread": "measured",
            "gflops": "measured",
            "floor_compute": "measured",
            "floor_memory": "measured",
            "memory": "measured",
            "memory_before": "measured",
            "memory_peak": "measured",
            "memory_expected": "measured",
        }],
    });
    assert_eq!(found, expected);
}

#[test]
fn the_table_has_a_row_for_each_size_and_says_what_the_rates_are() {
    let (code, out, err) = bench(&["augment", "--seconds", "0"]);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("augment 1×256²"), "says what it is at: {err}");
    for word in ["case", "median", "floor", "augment", "256²", "matrix product", "copy at"] {
        assert!(out.contains(word), "`{word}` is missing in\n{out}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_with_the_remedy() {
    let refused: [(&[&str], &[&str]); 10] = [
        (&["unte"], &["unte", "a similar value exists: 'unet'"]),
        (&["--batch", "4"], &["name it", "--help"]),
        (&["unet", "--size", "100"], &["--size 100", "multiple of 32"]),
        (&["unet", "--size", "16"], &["16 is not in 32..=4096"]),
        (&["unet", "--batch", "0"], &["0 is not in 1..=4096"]),
        // Also where there are GPUs: never so many.
        (&["unet", "--device", "cuda:99"], &["cuda:99", "--device cpu"]),
        (&["unet", "--device", "tpu"], &["tpu", "`cpu`, `cuda`"]),
        (&["unet", "--precision", "bf16"], &["bf16", "leave --precision out"]),
        (&["--check"], &["--check", "--device cuda"]),
        (&["augment", "--batch", "2"], &["one sample at a time", "`batch`"]),
    ];
    for (args, words) in refused {
        let (code, out, err) = bench(args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
        for word in words {
            assert!(err.contains(word), "{args:?}: `{word}` is missing in\n{err}");
        }
    }
    let (code, _, err) = bench(&["unet", "--seconds", "nan"]);
    assert_eq!(code, 2, "{err}");
}

#[test]
fn help_lists_the_cases() {
    let (code, out, _) = bench(&["--help"]);
    assert_eq!(code, 0);
    for word in ["unet-inference", "4×256², 8×64²", "features-upsampled", "augment"] {
        assert!(out.contains(word), "`{word}` is missing in\n{out}");
    }
}
