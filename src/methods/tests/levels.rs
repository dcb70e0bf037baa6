//! The comparisons with PyTorch once more on the lower levels of instructions that this machine has: what a machine
//! without AVX-512 or AVX2 computes. The level is chosen once in a process, so each has one of its own.

use std::process::Command;

use crate::ops::simd::{Level, available, level};

/// Whole steps of every method, networks, the diffusion model and ops; without the GPU's, which have no levels.
const TESTS: [&str; 7] = [
    "methods::tests::steps::",
    "nn::",
    "diffusion::unet::",
    "diffusion::reduction::",
    "ops::",
    "--skip",
    "gpu",
];

#[test]
fn ops_networks_and_whole_steps_equal_pytorch_on_every_level_of_instructions() {
    for lower in available().into_iter().filter(|lower| *lower < level()) {
        let name = match lower {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => continue,
        };
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args(TESTS).env("SWEEP_SIMD", name).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{name}: {text}");
        let passed =
            text.lines().find_map(|line| line.strip_prefix("test result: ok. ")?.split_once(" passed"));
        let passed: usize = passed.unwrap().0.parse().unwrap();
        assert!(passed >= 70, "{name}: {passed} tests ran: {text}");
    }
}
