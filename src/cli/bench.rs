//! `sweep bench [CASE]`.

mod check;

use std::num::NonZeroUsize;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};

use super::table::table;
use super::{Ending, OrBadInput as _, say, tell};
use crate::bench::machine::Rates;
use crate::bench::{self, CASES, Length, Measured};
use crate::exec::Device;
use crate::ops::{Precision, simd};

/// Time whole steps on this machine and set them beside what their operations and bytes would take
///
/// Each case runs in a process of its own. The floor is the larger of two times: the operations at the rate of a large
/// matrix product, and the bytes at the rate of a large copy, both measured here; a step that finds its values in a
/// cache can be below the second.
#[derive(Debug, clap::Args)]
#[command(after_long_help = cases_help())]
pub(super) struct Args {
    /// The case; all that a small machine can run if none is named
    #[arg(value_parser = PossibleValuesParser::new(CASES.iter().map(|case| case.name)), hide_possible_values = true)]
    case: Option<String>,
    /// Images of a step, instead of the case's own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Option<u32>,
    /// Side of the images in pixels, a multiple of 32, instead of the case's own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(32..=4096))]
    size: Option<u32>,
    /// Threads; the machine's if it is not given
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Where to compute
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Device,
    /// How exactly a GPU computes convolutions and matrix products: f32, tf32 or bf16
    #[arg(long, value_name = "KIND", default_value = "f32")]
    precision: Precision,
    /// Compare every op and short trainings of the GPU with the processor, for about --seconds
    #[arg(long, conflicts_with_all = ["case", "batch", "size"])]
    check: bool,
    /// Seconds that each case is timed
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    seconds: f64,
    /// Write one JSON object instead
    #[arg(long)]
    json: bool,
    /// Measure the one case here and write it as one JSON object
    #[arg(long, hide = true, requires_all = ["case", "batch", "size"])]
    child: bool,
}

fn cases_help() -> String {
    let rows = CASES.iter().map(|case| {
        let sizes: Vec<String> = case.sizes.iter().map(|(batch, size)| format!("{batch}×{size}²")).collect();
        vec![case.name.to_owned(), sizes.join(", "), case.about.to_owned()]
    });
    format!("Cases:\n{}", table(&["case", "batch × size", "one step"], &rows.collect::<Vec<_>>(), 2))
}

pub(super) fn run(args: &Args) -> Result<Ending> {
    check(args).or_bad_input()?;
    if args.child {
        return child(args);
    }
    if args.check {
        // Never less than the ops and one training.
        return check::run(args.device, args.precision, Duration::from_secs_f64(args.seconds), args.json);
    }
    if let Some(threads) = args.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.get());
        pool.build_global().context("start the threads")?;
    }
    let chosen =
        CASES.iter().filter(|case| args.case.as_deref().map_or(!case.alone, |name| name == case.name));
    let mut found = Vec::new();
    for case in chosen {
        for (batch, size) in sizes(args, case) {
            if !args.json {
                tell(&format!("{} {batch}×{size}² …", case.name));
            }
            found.push(in_process(case.name, batch, size, args)?);
        }
    }
    let rates = rates(args)?;
    let text = if args.json { object(args, &rates, &found).to_string() } else { text(args, &rates, &found) };
    say(&text)?;
    Ok(Ending::Done)
}

fn check(args: &Args) -> Result<()> {
    args.device.check()?;
    ensure!(
        args.device != Device::Cpu || !args.check,
        "--check compares a GPU with the processor: name one (`--device cuda`)"
    );
    ensure!(
        args.device != Device::Cpu || args.precision == Precision::F32,
        "--precision {}: the processor computes in f32; leave --precision out",
        args.precision
    );
    ensure!(
        args.size.is_none_or(|size| size.is_multiple_of(32)),
        "--size {}: the diffusion network halves its images five times; give a multiple of 32",
        args.size.unwrap_or_default()
    );
    ensure!(
        args.seconds.is_finite() && (0.0..=3600.0).contains(&args.seconds),
        "--seconds {}: give a time from 0 to 3600",
        args.seconds
    );
    ensure!(
        args.case.is_some() || (args.batch.is_none() && args.size.is_none()),
        "--batch and --size are for one case: name it (`sweep bench unet --batch 8`); {}",
        "`sweep bench --help` lists the cases"
    );
    ensure!(
        args.case.as_deref() != Some("augment") || args.batch.is_none_or(|batch| batch == 1),
        "--batch {}: `augment` makes one sample at a time; `batch` makes whole batches",
        args.batch.unwrap_or_default()
    );
    Ok(())
}

/// The sizes to run: the case's own, or the first of them with what was asked for.
fn sizes(args: &Args, case: &bench::Case) -> Vec<(usize, usize)> {
    if args.batch.is_none() && args.size.is_none() {
        return case.sizes.to_vec();
    }
    let (batch, size) = case.sizes[0];
    vec![(args.batch.map_or(batch, |n| n as usize), args.size.map_or(size, |n| n as usize))]
}

/// Runs one case in a process of its own.
fn in_process(name: &str, batch: usize, size: usize, args: &Args) -> Result<Measured> {
    let program = std::env::current_exe().context("find this program's file")?;
    let mut command = Command::new(program);
    command.args(["bench", name, "--child"]);
    command.args(["--batch", &batch.to_string(), "--size", &size.to_string()]);
    command.args(["--seconds", &args.seconds.to_string()]);
    command.args(["--device", &args.device.to_string(), "--precision", &args.precision.to_string()]);
    command.env("RAYON_NUM_THREADS", rayon::current_num_threads().to_string());
    let output = command.stderr(Stdio::inherit()).output().context("start the measuring process")?;
    if !output.status.success() {
        bail!("`{name}` with batch {batch} and size {size} did not end well ({})", output.status);
    }
    serde_json::from_slice(&output.stdout).context("read what the measuring process wrote")
}

fn child(args: &Args) -> Result<Ending> {
    let (Some(name), Some(batch), Some(size)) = (&args.case, args.batch, args.size) else {
        bail!("--child needs a case, --batch and --size");
    };
    let case = bench::case(name).with_context(|| format!("there is no case `{name}`"))?;
    let length = Length { time: Duration::from_secs_f64(args.seconds), least: 3, most: 10_000 };
    let place = args.device.open_at(args.precision)?;
    let measured = place.run(|| bench::measure(case, batch as usize, size as usize, length))?;
    say(&serde_json::to_string(&measured)?)?;
    Ok(Ending::Done)
}

/// What the device can do at best.
fn rates(args: &Args) -> Result<Rates> {
    match args.device {
        Device::Cpu => Rates::measure(),
        Device::Cuda(_) => args.device.open_at(args.precision)?.run(|| Rates::of_gpu(args.precision)),
    }
}

/// Seconds that operations and bytes take at these rates. On a processor 3×3 convolutions are Winograd's; which algorithm
/// a GPU's library takes is its own affair, so there the operations are those of the direct way.
fn floors(args: &Args, rates: &Rates, one: &Measured) -> (f64, f64) {
    let operations = if args.device == Device::Cpu { one.winograd } else { one.flops };
    (operations / rates.flops, one.bytes / rates.bytes)
}

fn object(args: &Args, rates: &Rates, found: &[Measured]) -> Value {
    let cases = found.iter().map(|one| {
        let mut object = json!(one);
        let (compute, memory) = floors(args, rates, one);
        object["gflops"] = json!(one.flops / one.median / 1e9);
        object["memory"] = json!(one.memory());
        object["floor_compute"] = json!(compute);
        object["floor_memory"] = json!(memory);
        object
    });
    json!({
        "program": env!("CARGO_PKG_VERSION"),
        "device": args.device.to_string(),
        "precision": args.precision.to_string(),
        "threads": rayon::current_num_threads(),
        "instructions": instructions(),
        "rates": rates,
        "cases": cases.collect::<Vec<_>>(),
    })
}

fn instructions() -> &'static str {
    match simd::level() {
        simd::Level::Avx512 => "AVX-512",
        simd::Level::Avx2 => "AVX2",
        simd::Level::Portable => "portable",
    }
}

fn text(args: &Args, rates: &Rates, found: &[Measured]) -> String {
    let rows: Vec<Vec<String>> = found.iter().map(|one| row(args, rates, one)).collect();
    let head = [
        "case", "batch", "size", "median", "min", "spread", "GFLOP", "GFLOP/s", "Winograd", "GB", "floor",
        "× floor", "memory", "expected",
    ];
    let threads = rayon::current_num_threads();
    let on = match args.device {
        Device::Cpu => instructions().to_owned(),
        device @ Device::Cuda(_) => format!("{device} in {}", args.precision),
    };
    format!(
        "{}\n\n{threads} thread{}, {on}; a matrix product runs at {:.0} GFLOP/s, a copy at {:.1} GB/s.\n\
         Winograd: the GFLOP that are left where 3×3 convolutions are. Floor: the larger of {} and GB at these rates. \
         Memory: of the process at the peak, beyond its start.",
        table(&head, &rows, 0),
        if threads == 1 { "" } else { "s" },
        rates.flops / 1e9,
        rates.bytes / 1e9,
        if args.device == Device::Cpu { "these" } else { "GFLOP" }
    )
}

fn row(args: &Args, rates: &Rates, one: &Measured) -> Vec<String> {
    let (compute, memory) = floors(args, rates, one);
    let floor = compute.max(memory);
    let network = one.flops > 0.0;
    let or_dash = |wanted: bool, text: String| if wanted { text } else { "–".into() };
    let bytes =
        |bytes: Option<f64>| bytes.map_or_else(|| "–".into(), |bytes| format!("{:.0} MB", bytes / 1e6));
    vec![
        one.case.clone(),
        one.batch.to_string(),
        format!("{}²", one.size),
        time(one.median),
        time(one.min),
        format!("±{:.0} %", 100.0 * one.spread),
        or_dash(network, format!("{:.2}", one.flops / 1e9)),
        or_dash(network, format!("{:.0}", one.flops / one.median / 1e9)),
        or_dash(network, format!("{:.2}", one.winograd / 1e9)),
        format!("{:.2}", one.bytes / 1e9),
        format!("{} {}", time(floor), if compute >= memory { "compute" } else { "memory" }),
        or_dash(network, format!("{:.1}", one.median / floor)),
        bytes(one.memory().map(|bytes| bytes as f64)),
        bytes(one.memory_expected),
    ]
}

/// A time in the unit that suits it.
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        s if s < 0.1 => format!("{:.2} ms", s * 1e3),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Measured {
        Measured {
            case: "unet".into(),
            batch: 4,
            size: 256,
            threads: 2,
            parameters: 1_813_764,
            steps: 9,
            median: 0.5,
            min: 0.48,
            spread: 0.021,
            flops: 7e10,
            winograd: 4e10,
            bytes: 6e9,
            memory_before: Some(10_000_000),
            memory_peak: Some(450_000_000),
            memory_expected: Some(4e8),
        }
    }

    /// The command alone.
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_row_has_the_floor_that_binds() {
        let rates = Rates { flops: 1e11, bytes: 2e10 };
        let args = <Line as clap::Parser>::parse_from(["bench"]).args;
        assert_eq!(
            row(&args, &rates, &measured())[3..],
            [
                "500 ms",
                "480 ms",
                "±2 %",
                "70.00",
                "140",
                "40.00",
                "6.00",
                "400 ms compute",
                "1.2",
                "440 MB",
                "400 MB"
            ]
        );
        let slow = Rates { bytes: 1e10, ..rates };
        assert_eq!(row(&args, &slow, &measured())[10], "600 ms memory");
        let gpu = <Line as clap::Parser>::parse_from(["bench", "--device", "cuda:0"]).args;
        assert_eq!(
            row(&gpu, &rates, &measured())[10],
            "700 ms compute",
            "cuDNN's algorithm is its own affair"
        );
    }

    #[test]
    fn the_object_has_what_the_table_has() {
        let args = <Line as clap::Parser>::parse_from(["bench"]).args;
        let object = object(&args, &Rates { flops: 1e11, bytes: 1e10 }, &[measured()]);
        let case = &object["cases"][0];
        assert_eq!((case["floor_compute"].as_f64(), case["floor_memory"].as_f64()), (Some(0.4), Some(0.6)));
        assert_eq!((case["memory"].as_u64(), case["gflops"].as_f64()), (Some(440_000_000), Some(140.0)));
    }

    #[test]
    fn times_have_units() {
        assert_eq!([3e-5, 0.004_21, 0.25, 12.345].map(time), ["30 µs", "4.21 ms", "250 ms", "12.35 s"]);
    }
}
