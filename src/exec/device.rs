//! Where stages compute.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};

use crate::ops::{Place, Precision, gpus};
use crate::store::provenance::driver;

/// A device that a process computes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => number
                .parse()
                .map(Self::Cuda)
                .map_err(|_| format!("`{text}`: {number} is no number of a device")),
            _ => Err(format!("`{text}` is no device: write `cpu`, `cuda`, or `cuda:0`, `cuda:1`, …")),
        }
    }
}

/// What `--device` says: a list of devices, or to take the best that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Devices {
    /// The CUDA devices where this build and this machine have any, else the processor.
    Auto,
    /// These, each for one process at a time where there are no more workers than devices.
    Listed(Vec<Device>),
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let listed: Vec<Device> =
            text.split(',').map(|name| name.trim().parse()).collect::<Result<_, _>>()?;
        let mut sorted = listed.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() < listed.len() {
            return Err(format!("`{text}` names a device twice"));
        }
        if sorted.len() > 1 && sorted.contains(&Device::Cpu) {
            return Err(format!("`{text}` mixes the processor with other devices: name one sort"));
        }
        Ok(Self::Listed(listed))
    }
}

impl Devices {
    /// The devices, each found to be usable.
    ///
    /// # Errors
    /// Where one is not: names it and the remedy.
    pub fn resolve(&self) -> Result<Vec<Device>> {
        match self {
            Self::Auto => Ok(match gpus() {
                Ok(found) => (0..found.len()).map(Device::Cuda).collect(),
                Err(_) => vec![Device::Cpu],
            }),
            Self::Listed(devices) => {
                devices.iter().try_for_each(|device| device.check())?;
                ensure!(!devices.is_empty(), "no device is named");
                Ok(devices.clone())
            }
        }
    }
}

impl Devices {
    /// Where `auto` takes the processor although there is an NVIDIA driver: why, with the remedy.
    pub fn passed_over(&self) -> Option<String> {
        self.passed_over_by(driver().as_deref(), gpus().map(drop))
    }

    fn passed_over_by(&self, driver: Option<&str>, gpus: Result<()>) -> Option<String> {
        let (Self::Auto, Some(driver), Err(error)) = (self, driver, gpus) else { return None };
        Some(format!("computes on the processor although there is a GPU ({driver}): {error:#}"))
    }
}

impl Device {
    /// Whether this program can compute on it.
    ///
    /// # Errors
    /// Where it cannot; with the remedy.
    pub fn check(self) -> Result<()> {
        match self {
            Self::Cpu => Ok(()),
            Self::Cuda(number) => {
                let found = gpus().with_context(|| format!("{self} cannot be used; say `--device cpu`"))?;
                ensure!(
                    number < found.len(),
                    "{self} is not there: this machine has {} (cuda:0 is the first); say `--device cpu`",
                    found.len()
                );
                Ok(())
            }
        }
    }

    /// The device, opened for the calling thread; a second time it is found open.
    ///
    /// # Errors
    /// Where it cannot be used; with the remedy.
    pub fn open(self) -> Result<Place> {
        self.open_at(Precision::F32)
    }

    /// The same with convolutions and products in this precision, where it is a GPU.
    ///
    /// # Errors
    /// Where it cannot be used; with the remedy.
    pub fn open_at(self, precision: Precision) -> Result<Place> {
        self.check()?;
        match self {
            Self::Cpu => Ok(Place::cpu()),
            Self::Cuda(number) => Place::cuda(number, precision),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_wrong_ones_refused() {
        assert_eq!("auto".parse(), Ok(Devices::Auto));
        assert_eq!("cpu".parse(), Ok(Devices::Listed(vec![Device::Cpu])));
        let two = vec![Device::Cuda(0), Device::Cuda(1)];
        assert_eq!("cuda:0,cuda:1".parse(), Ok(Devices::Listed(two)));
        for wrong in ["gpu", "cuda:x", "cuda:", "cpu:1", "cuda:0,cuda", "cpu,cuda", "", "cuda:0,"] {
            assert!(wrong.parse::<Devices>().is_err(), "{wrong}");
        }
        assert_eq!(Device::Cuda(3).to_string().parse(), Ok(Device::Cuda(3)));
    }

    #[test]
    fn a_gpu_that_lies_idle_is_named_with_the_reason() {
        let missing = || Err(anyhow::anyhow!("cuDNN 9 cannot be loaded"));
        let said = Devices::Auto.passed_over_by(Some("NVRM 580"), missing()).unwrap();
        assert!(said.contains("NVRM 580") && said.contains("cuDNN 9 cannot be loaded"), "{said}");
        assert_eq!(Devices::Auto.passed_over_by(None, missing()), None, "a machine without one");
        assert_eq!(Devices::Auto.passed_over_by(Some("NVRM 580"), Ok(())), None, "it is taken");
        let listed = Devices::Listed(vec![Device::Cpu]);
        assert_eq!(listed.passed_over_by(Some("NVRM 580"), missing()), None, "the processor was asked for");
    }

    #[test]
    fn a_device_that_cannot_be_used_is_refused_with_a_remedy() {
        let gpus = gpus().map_or(0, |found| found.len());
        let best = if gpus == 0 { Device::Cpu } else { Device::Cuda(0) };
        assert_eq!(Devices::Auto.resolve().unwrap()[0], best);
        let none = format!("cuda:{gpus}");
        let error = none.parse::<Devices>().unwrap().resolve().unwrap_err().to_string();
        assert!(error.contains(&none) && error.contains("--device cpu"), "{error}");
    }
}
