//! The time and peak memory of a training step of every method, beside the parts that it consists of.
//!
//! `cargo bench --bench methods` prints a table; `-- NAME…` measures some methods. Each is measured in a process of its
//! own, on random images: 128×128, four labelled and four unlabelled; `SIDE` and `BATCH` change that.
//!
//! The parts (`mcsd_sweep::bench::parts`) are measured too. *Passes*: the same networks on the same images, all passes of a
//! step on one tape, forward and, where the method learns through them, backward from a mean square of the logits, whose
//! own time is taken off, and one step of one optimiser. *Rest*: losses, pseudo-labels, noise, boxes and averages, from
//! fixed logits. Step and parts take turns, so that both meet the same machine; `ROUNDS` is the number of turns. The ratio
//! is the median over the turns of step over (passes + rest), with an interval that holds it with at least 95 %. Memory is
//! that of the process after two steps, less what it was before anything was built.
#![allow(clippy::print_stdout, reason = "a bench prints its table")]

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use mcsd_sweep::bench::machine::Memory;
use mcsd_sweep::bench::parts::{Parts, Work, median, settings};
use mcsd_sweep::spec::settings::Method;

fn env(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// How long `work` takes in round `index`, in milliseconds.
fn time(work: &mut Work, index: usize) -> Result<f64> {
    let start = Instant::now();
    work(index)?;
    Ok(1e3 * start.elapsed().as_secs_f64())
}

/// Measures one method in this process: a line of numbers.
fn measure(name: &str) -> Result<()> {
    let method = Method::ALL.into_iter().find(|method| method.name() == name);
    let method = method.with_context(|| format!("there is no method `{name}`"))?;
    let settings = settings(method, env("BATCH", 4), env("SIDE", 128));
    // Threads that have not started yet would count as memory of the method.
    rayon::broadcast(|_| ());
    let before = Memory::now();
    let mut step = mcsd_sweep::bench::parts::step(&settings)?;
    time(&mut step, 0)?;
    time(&mut step, 1)?;
    let after = Memory::now();
    let memory = before.zip(after).map_or(f64::NAN, |(before, after)| after.peak as f64 - before.now as f64);
    let Parts { mut passes, mut stand_in, mut rest } = Parts::new(&settings)?;
    let mut rounds = Vec::new();
    for round in 0..=env("ROUNDS", 15) {
        let [whole, passes, stand_in, rest] = [
            time(&mut step, round + 2)?,
            time(&mut passes, round)?,
            time(&mut stand_in, round)?,
            time(&mut rest, round)?,
        ];
        // The first round warms up.
        if round > 0 {
            rounds.push([whole, passes - stand_in, rest]);
        }
    }
    ensure!(!rounds.is_empty(), "ROUNDS is 0: nothing was timed");
    let of = |part: &dyn Fn(&[f64; 3]) -> f64| median(&rounds.iter().map(part).collect::<Vec<_>>());
    let [whole, ..] = of(&|round| round[0]);
    let [passes, ..] = of(&|round| round[1]);
    let [rest, ..] = of(&|round| round[2]);
    let [ratio, low, high] = of(&|round| round[0] / (round[1] + round[2]));
    println!("{whole} {passes} {rest} {ratio} {low} {high} {}", memory / f64::from(1 << 20));
    Ok(())
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    if let [one, name] = &args[..]
        && one == "measure"
    {
        return measure(name);
    }
    println!(
        "| method | step (ms) | its passes (ms) | the rest (ms) | step / (passes + rest) | memory (MiB) |"
    );
    println!("|---|---|---|---|---|---|");
    for method in Method::ALL.iter().map(|method| method.name()) {
        if !(args.is_empty() || args.iter().any(|arg| arg == method)) {
            continue;
        }
        let output = Command::new(std::env::current_exe()?).args(["measure", method]).output()?;
        ensure!(output.status.success(), "{method}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        let numbers: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [step, passes, rest, ratio, low, high, memory] = numbers[..] else {
            anyhow::bail!("{method}: `{text}`")
        };
        println!(
            "| {method} | {step:.0} | {passes:.0} | {rest:.1} | {ratio:.2} ({low:.2} to {high:.2}) | {memory:.0} |"
        );
    }
    Ok(())
}
