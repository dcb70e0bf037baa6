//! Where and how an object came to be: what its bits do not depend on, and a person who doubts them wants to know.
//!
//! It stands in an object's `meta.json` alone. Frames and reports are made from what is equal between equal runs.

use std::fs;
use std::sync::OnceLock;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// The commit that this program was built from, with `+` where the sources differed from it; none where it was built
/// without git.
pub const COMMIT: Option<&str> = option_env!("SWEEP_COMMIT");

/// The circumstances of the try that finished a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// The program's commit, see [`COMMIT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The content of the data set that the result comes from, as planning named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Where it was computed: `cpu`, or `cuda:` and the machine's number or name of the GPU, of however many the process saw.
    pub device: String,
    /// The processor, or the accelerator, by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The accelerator's driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Start of the try that finished it, in UTC (RFC 3339).
    pub start: String,
    /// Its end.
    pub end: String,
    /// Most memory that the process held, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory: Option<u64>,
    /// The job of a cluster that it ran in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueuedJob>,
}

/// A job of a cluster, and its time in the queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QueuedJob {
    /// The job, as the cluster names it: `1234_5`.
    pub job: String,
    /// Seconds in the queue, over all of its slots: since it was submitted, or since what it reads was there.
    pub seconds: f64,
}

impl Provenance {
    /// What this process knows of itself at the end of work that began at `start` on `device` and comes from the data set
    /// `data`.
    pub fn of_process(start: SystemTime, device: &str, data: Option<String>) -> Self {
        let gpu = device.strip_prefix("cuda").map(|number| {
            let number = number.trim_start_matches(':').parse().unwrap_or(0);
            named_gpu(&std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default(), number)
        });
        Self {
            commit: COMMIT.map(str::to_owned),
            data,
            device: gpu.as_ref().map_or_else(|| device.to_owned(), |name| format!("cuda:{name}")),
            model: gpu.as_ref().map_or_else(processor, |name| model_of_gpu(name)),
            driver: gpu.and_then(|_| driver()),
            start: utc(start),
            end: utc(SystemTime::now()),
            peak_memory: peak_memory(),
            queue: None,
        }
    }
}

/// A moment as text: `2026-01-31T09:05:00Z`.
pub fn utc(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The processor's name, where the system tells it.
pub fn processor() -> Option<String> {
    static NAME: OnceLock<Option<String>> = OnceLock::new(); // the file is long on a machine of many cores
    NAME.get_or_init(|| {
        let text = fs::read_to_string("/proc/cpuinfo").ok()?;
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned()).filter(|name| !name.is_empty())
    })
    .clone()
}

/// What names the GPU `number` of those that this process sees, which are `visible`: a list of `CUDA_VISIBLE_DEVICES`,
/// empty where it sees all.
pub fn named_gpu(visible: &str, number: usize) -> String {
    let named = visible.split(',').map(str::trim).filter(|name| !name.is_empty()).nth(number);
    named.map_or_else(|| number.to_string(), str::to_owned)
}

/// The model of the NVIDIA GPU that the machine calls `number`, where its driver tells it.
fn model_of_gpu(number: &str) -> Option<String> {
    let entries = fs::read_dir("/proc/driver/nvidia/gpus").ok()?;
    let mut folders: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    folders.sort(); // by the place on the bus, which is their number unless the environment renumbers them
    let text = fs::read_to_string(folders.get(number.parse::<usize>().ok()?)?.join("information")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
    Some(line.trim().to_owned())
}

/// The version of the NVIDIA driver, where there is one.
pub fn driver() -> Option<String> {
    let text = fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let line = text.lines().next()?.strip_prefix("NVRM version:").unwrap_or_default().trim();
    Some(line.to_owned()).filter(|line| !line.is_empty())
}

/// Most memory that this process held so far, in bytes, where the system tells it.
pub fn peak_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn moments_are_written_in_utc() {
        assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(1_767_225_600)), "2026-01-01T00:00:00Z");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_knows_its_memory_and_processor() {
        let block = std::hint::black_box(vec![1_u8; 32 << 20]);
        let found = Provenance::of_process(SystemTime::now(), "cpu", None);
        assert!(found.peak_memory.is_some_and(|bytes| bytes >= block.len() as u64), "{found:?}");
        assert_eq!(found.device, "cpu");
    }

    #[test]
    fn gpus_are_numbered_among_those_that_a_process_sees() {
        let named = [named_gpu("", 1), named_gpu("2, 5", 1), named_gpu("GPU-ab,GPU-cd", 0)];
        assert_eq!(named, ["1", "5", "GPU-ab"]);
    }

    #[test]
    fn records_of_older_and_newer_programs_are_read() {
        let old: Provenance = serde_json::from_str("{}").unwrap();
        assert_eq!(old, Provenance::default());
        let new: Provenance = serde_json::from_str(r#"{"device":"cuda:0","colour":"blue"}"#).unwrap();
        assert_eq!(new.device, "cuda:0");
    }
}
