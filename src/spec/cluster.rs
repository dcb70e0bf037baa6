//! `cluster.yaml`: what the jobs of a Slurm cluster are asked for, by kind of stage. Nothing in it changes a result.
//!
//! ```yaml
//! default: { partition: gpu, time: 12:00:00, memory: 16G, cpus: 8, gres: "gpu:1", throttle: 16 }
//! pretrain: { time: 2-00:00:00 }
//! evaluate: { gres: ~, cpus: 4 }
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use super::diagnostics::{Diagnostics, Reporter, choice, did_you_mean};
use super::yaml::{self, Content, Name, Node};

#[cfg(test)]
mod tests;

/// The name of the file.
pub const FILE: &str = "cluster.yaml";

/// A commented file to start from.
pub const TEMPLATE: &str = include_str!("cluster.yaml");

/// The section that holds for all kinds of stages.
const DEFAULT: &str = "default";
/// The kinds of stages, by their names.
const KINDS: [&str; 5] = ["prepare", "pretrain", "features", "train", "evaluate"];
/// The keys of a section.
const KEYS: [&str; 18] = [
    "partition",
    "account",
    "qos",
    "time",
    "memory",
    "memory_growth",
    "memory_most",
    "cpus",
    "gres",
    "throttle",
    "array_most",
    "modules",
    "setup",
    "container",
    "program",
    "sbatch",
    "signal",
    "device",
];
/// The most that `--signal` takes.
const SIGNAL_MOST: u32 = 65_535;
/// Options of `sbatch` that are the executor's own; with the key that sets them, where there is one.
const TAKEN: [(&str, Option<&str>); 25] = [
    ("array", Some("throttle")),
    ("a", Some("throttle")),
    ("chdir", None),
    ("D", None),
    ("clusters", None),
    ("M", None),
    ("dependency", None),
    ("d", None),
    ("error", None),
    ("e", None),
    ("input", None),
    ("i", None),
    ("job-name", None),
    ("J", None),
    ("kill-on-invalid-dep", None),
    ("no-requeue", None),
    ("open-mode", None),
    ("output", None),
    ("o", None),
    ("parsable", None),
    ("signal", Some("signal")),
    ("test-only", None),
    ("wait", None),
    ("W", None),
    ("wrap", None),
];
/// Options of `sbatch` that ask for GPUs, whatever their value.
const GPUS: [&str; 5] = ["gpus", "G", "gpus-per-node", "gpus-per-socket", "gpus-per-task"];

/// What the jobs of one kind of stage are asked for. What is none is left to the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// `sbatch --partition`.
    pub partition: Option<String>,
    /// `sbatch --account`.
    pub account: Option<String>,
    /// `sbatch --qos`.
    pub qos: Option<String>,
    /// The time limit as `sbatch` writes it.
    pub time: Option<String>,
    /// Memory of a job in MiB.
    pub memory: Option<u64>,
    /// By how much the memory grows each time that it was too little; at least 1.
    pub memory_growth: f64,
    /// The most memory of a job in MiB.
    pub memory_most: Option<u64>,
    /// Cores of a job, and threads of a stage.
    pub cpus: Option<u32>,
    /// `sbatch --gres`.
    pub gres: Option<String>,
    /// Jobs of one array that run at once.
    pub throttle: Option<u32>,
    /// Jobs of one array at most; as many as Slurm takes where there is none.
    pub array_most: Option<u32>,
    /// Modules to load, in order.
    pub modules: Vec<String>,
    /// Lines of shell before a stage.
    pub setup: Vec<String>,
    /// What stands before the program: `apptainer exec --nv image.sif`.
    pub container: Option<String>,
    /// The program on the nodes; this machine's path where there is none.
    pub program: Option<String>,
    /// Further options of `sbatch`.
    pub sbatch: Vec<String>,
    /// Seconds before the time limit at which work is saved.
    pub signal: u32,
    /// Where stages compute: `cpu` or `cuda`.
    pub device: String,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            partition: None,
            account: None,
            qos: None,
            time: None,
            memory: None,
            memory_growth: 2.0,
            memory_most: None,
            cpus: None,
            gres: None,
            throttle: None,
            array_most: None,
            modules: vec![],
            setup: vec![],
            container: None,
            program: None,
            sbatch: vec![],
            signal: 120,
            device: "cpu".to_owned(),
        }
    }
}

impl Request {
    /// The memory of a job in MiB that ran out of memory `times` times; none where the cluster decides.
    pub fn memory_after(&self, times: u32) -> Option<u64> {
        let grown = self.memory? as f64 * self.memory_growth.powi(times.min(64) as i32);
        Some((grown.min(1e15) as u64).min(self.memory_most.unwrap_or(u64::MAX)))
    }

    /// Whether stages that ask for `other` can run where these run: on the same nodes, in the same surroundings, with no
    /// more memory. Cores and time are no matter: both decide how long a stage takes, and it goes on after a time limit.
    pub fn serves(&self, other: &Self) -> bool {
        let enough = match (self.memory, other.memory) {
            (Some(here), Some(there)) => there <= here,
            (here, there) => here == there,
        };
        let place = |request: &Self| Self {
            time: None,
            memory: None,
            memory_growth: 1.0,
            memory_most: None,
            cpus: None,
            throttle: None,
            array_most: None,
            signal: 0,
            ..request.clone()
        };
        enough && place(self) == place(other)
    }

    /// What a job that ran out of memory `times` times needs a person to change before more of it can be asked for; none
    /// where there is more to be had.
    pub fn shortage_remedy(&self, times: u32) -> Option<String> {
        if self.grows_after(times) {
            return None;
        }
        Some(match (self.memory, self.memory_most) {
            (None, _) => format!("set `memory` in {FILE}: what runs out of it gets more the next time"),
            (Some(_), Some(_)) if self.memory_growth > 1.0 => {
                format!("raise `memory_most` in {FILE}: it keeps the next try from having more")
            }
            (Some(_), _) => format!("raise `memory` in {FILE}, or let it grow with `memory_growth`"),
        })
    }

    /// Whether a job is asked to have a GPU.
    fn has_gpu(&self) -> bool {
        let asks = |line: &String| {
            let name = option(line);
            GPUS.contains(&name) || name == "gres" && line.contains("gpu")
        };
        self.gres.as_ref().is_some_and(|gres| gres.contains("gpu")) || self.sbatch.iter().any(asks)
    }

    /// Whether one more try after running out of memory `times` times would have more of it.
    pub fn grows_after(&self, times: u32) -> bool {
        self.memory_after(times + 1) > self.memory_after(times)
    }
}

/// A `cluster.yaml` as read, or the defaults where there is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// The file; none where there is none.
    pub file: Option<PathBuf>,
    default: Request,
    kinds: Vec<(&'static str, Request)>,
}

impl Cluster {
    /// What the jobs of the kind of stage with this name are asked for.
    pub fn request(&self, kind: &str) -> &Request {
        self.kinds.iter().find(|(name, _)| *name == kind).map_or(&self.default, |(_, request)| request)
    }

    /// The file `named` or, where none is named, that beside the sweep file `sweep` or the person's own; the cluster's
    /// defaults where there is none of these.
    ///
    /// # Errors
    /// Where the named file is absent, or a file cannot be read or is wrong: everything at once, with its places.
    pub fn find(named: Option<&Path>, sweep: &Path) -> Result<Self, Diagnostics> {
        if let Some(path) = named {
            return Self::load(path);
        }
        let beside = sweep.parent().map(|folder| folder.join(FILE));
        let own = personal().map(|folder| folder.join(FILE));
        match [beside, own].into_iter().flatten().find(|path| path.is_file()) {
            Some(path) => Self::load(&path),
            None => Ok(Self::default()),
        }
    }

    /// The file at `path`.
    ///
    /// # Errors
    /// As of [`Self::find`].
    pub fn load(path: &Path) -> Result<Self, Diagnostics> {
        let shown = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|error| {
            let help = "`sweep init --cluster` writes one to start from".to_owned();
            Diagnostics::of_file(&shown, format!("cannot be read: {error}"), Some(help))
        })?;
        Self::parse(&shown, &text).map(|cluster| Self { file: Some(path.to_owned()), ..cluster })
    }

    /// The text of a file that is shown as `file`.
    ///
    /// # Errors
    /// As of [`Self::find`].
    pub fn parse(file: &str, text: &str) -> Result<Self, Diagnostics> {
        let mut report = Reporter::default();
        let source = report.source(file, text);
        let root = yaml::parse(text, source, &mut report);
        let cluster = root.map(|root| read(&root, &mut report)).unwrap_or_default();
        if report.clean() { Ok(cluster) } else { Err(report.finish()) }
    }
}

/// The folder of a person's own settings.
fn personal() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(config.join("sweep"))
}

fn read(root: &Node, report: &mut Reporter) -> Cluster {
    let sections: Vec<&str> = [DEFAULT].into_iter().chain(KINDS).collect();
    let Content::Map(entries) = &root.content else {
        if !root.is_null() {
            let help = Some(format!("the sections are {}", choice(&sections)));
            report.error(root.place, format!("{FILE} is a map of sections"), help);
        }
        return Cluster::default();
    };
    for (name, _) in entries.iter().filter(|(name, _)| !sections.contains(&name.text.as_str())) {
        let help = if KEYS.contains(&name.text.as_str()) {
            Some(format!("`{}` goes under `{DEFAULT}` or a kind of stage", name.text))
        } else {
            did_you_mean(&name.text, sections.iter().copied())
        };
        let message =
            format!("unknown section `{}`: expected {}", yaml::shorten(&name.text), choice(&sections));
        report.error(name.place, message, help);
    }
    let section = |wanted: &str| entries.iter().find(|(name, _)| name.text == wanted);
    let default = match section(DEFAULT) {
        Some((_, node)) => Section::of(node, DEFAULT, report).over(&Request::default(), report),
        None => Request::default(),
    };
    let mut kinds = Vec::new();
    for kind in KINDS {
        if let Some((_, node)) = section(kind) {
            kinds.push((kind, Section::of(node, kind, report).over(&default, report)));
        }
    }
    Cluster { file: None, default, kinds }
}

/// A section of the file.
struct Section<'a> {
    entries: &'a [(Name, Node)],
}

impl<'a> Section<'a> {
    fn of(node: &'a Node, name: &str, report: &mut Reporter) -> Self {
        let entries: &[(Name, Node)] = match &node.content {
            Content::Map(entries) => entries,
            Content::Bad => &[],
            _ if node.is_null() => &[],
            _ => {
                let message = format!("`{name}: {}`: expected a map of settings", node.shown());
                report.error(node.place, message, Some("such as `time: 12:00:00`".into()));
                &[]
            }
        };
        Self { entries }
    }

    /// The settings of this section, and those of `base` where it has none.
    fn over(&self, base: &Request, report: &mut Reporter) -> Request {
        let mut request = base.clone();
        let mut device = None;
        for (name, node) in self.entries {
            let field = Field { name: &name.text, node };
            match name.text.as_str() {
                "partition" => field.text(&mut request.partition, report),
                "account" => field.text(&mut request.account, report),
                "qos" => field.text(&mut request.qos, report),
                "gres" => field.text(&mut request.gres, report),
                "container" => field.text(&mut request.container, report),
                "program" => field.text(&mut request.program, report),
                "time" => field.read(&mut request.time, report, TIME, |text| {
                    seconds(text).filter(|&s| s > 0).map(|_| text.to_owned())
                }),
                "memory" => field.read(&mut request.memory, report, MEMORY, mebibytes),
                "memory_most" => field.read(&mut request.memory_most, report, MEMORY, mebibytes),
                "cpus" => field.read(&mut request.cpus, report, COUNT, count),
                "throttle" => field.read(&mut request.throttle, report, COUNT, count),
                "array_most" => field.read(&mut request.array_most, report, COUNT, count),
                "memory_growth" => {
                    let mut growth = Some(request.memory_growth);
                    let number = |text: &str| text.parse().ok().filter(|g: &f64| (1.0..=16.0).contains(g));
                    field.read(&mut growth, report, "a number from 1 (no more than before) to 16", number);
                    request.memory_growth = growth.unwrap_or(Request::default().memory_growth);
                }
                "signal" => {
                    let mut signal = Some(request.signal);
                    let number = |text: &str| count(text).filter(|&n| n <= SIGNAL_MOST);
                    field.read(&mut signal, report, "seconds from 1 to 65535", number);
                    request.signal = signal.unwrap_or(Request::default().signal);
                }
                "device" => {
                    let known = |text: &str| ["cpu", "cuda"].contains(&text).then(|| text.to_owned());
                    let mut chosen = None;
                    field.read(&mut chosen, report, "`cpu` or `cuda`", known);
                    device = chosen.or(device);
                }
                "modules" => field.list(&mut request.modules, report),
                "setup" => field.list(&mut request.setup, report),
                "sbatch" => {
                    field.list(&mut request.sbatch, report);
                    field.check_options(report);
                }
                _ => {
                    let text = yaml::shorten(&name.text);
                    let help = did_you_mean(&name.text, KEYS);
                    report.error(
                        name.place,
                        format!("unknown key `{text}`: expected {}", choice(&KEYS)),
                        help,
                    );
                }
            }
        }
        self.check_signal(&request, report);
        // Where a section changes the devices of the default, what the default said of them no longer holds.
        let same = request.gres == base.gres && request.has_gpu() == base.has_gpu();
        request.device = match device {
            Some(device) => device,
            None if same && *base != Request::default() => request.device,
            None => (if request.has_gpu() { "cuda" } else { "cpu" }).to_owned(),
        };
        request
    }

    /// Work that is saved before it begins would go on for ever.
    fn check_signal(&self, request: &Request, report: &mut Reporter) {
        let limit = request.time.as_deref().and_then(seconds);
        let Some(limit) = limit.filter(|&limit| limit <= u64::from(request.signal)) else { return };
        let written = |wanted: &str| self.entries.iter().find(|(name, _)| name.text == wanted);
        if let Some((_, node)) = written("time").or_else(|| written("signal")) {
            let message = format!(
                "a time limit of {limit} s ends before work begins that is saved {} s ahead of it",
                request.signal
            );
            report.error(node.place, message, Some("raise `time`, or lower `signal`".into()));
        }
    }
}

const TIME: &str = "a time limit as sbatch takes it: minutes, hh:mm:ss, d-hh or d-hh:mm:ss";
const MEMORY: &str = "a size such as 16G or 4000M";
const COUNT: &str = "a whole number from 1";

/// A key with its value.
struct Field<'a> {
    name: &'a str,
    node: &'a Node,
}

impl Field<'_> {
    /// A value of one line; `~` takes it away.
    fn read<T>(
        &self,
        target: &mut Option<T>,
        report: &mut Reporter,
        expected: &str,
        read: impl Fn(&str) -> Option<T>,
    ) {
        match &self.node.content {
            _ if self.node.is_null() => *target = None,
            Content::Bad => {}
            Content::Text { text, .. } if is_line(text) && read(text.trim()).is_some() => {
                *target = read(text.trim());
            }
            _ => self.refuse(expected, report),
        }
    }

    fn text(&self, target: &mut Option<String>, report: &mut Reporter) {
        self.read(target, report, "a text on one line", |text| (!text.is_empty()).then(|| text.to_owned()));
    }

    /// A list of lines, or one.
    fn list(&self, target: &mut Vec<String>, report: &mut Reporter) {
        let line = |node: &Node| match &node.content {
            Content::Text { text, .. } if is_line(text) && !node.is_null() => Some(text.trim().to_owned()),
            _ => None,
        };
        match &self.node.content {
            _ if self.node.is_null() => target.clear(),
            Content::Bad => {}
            Content::List(items) => match items.iter().map(line).collect::<Option<Vec<_>>>() {
                Some(lines) => *target = lines,
                None => self.refuse("a list of texts, each on one line", report),
            },
            _ => match line(self.node) {
                Some(line) => *target = vec![line],
                None => self.refuse("a list of texts, each on one line", report),
            },
        }
    }

    /// Refuses options of `sbatch` that are none, and those that the executor sets itself.
    fn check_options(&self, report: &mut Reporter) {
        let nodes: Vec<&Node> = match &self.node.content {
            _ if self.node.is_null() => vec![],
            Content::List(items) => items.iter().collect(),
            _ => vec![self.node],
        };
        for node in nodes {
            let Content::Text { text, .. } = &node.content else { continue };
            let text = text.trim();
            let name = option(text);
            if !text.is_empty() && !text.starts_with('-') {
                let message = format!("`{}` is no option of sbatch", node.shown());
                report.error(node.place, message, Some("write it as `--constraint=a100`".into()));
            } else if let Some((_, key)) = TAKEN.iter().find(|(taken, _)| *taken == name) {
                let message = format!("`{}` is set by the executor itself", node.shown());
                report.error(node.place, message, key.map(|key| format!("the key `{key}` is for that")));
            }
        }
    }

    fn refuse(&self, expected: &str, report: &mut Reporter) {
        let message = format!("`{}: {}`: expected {expected}", self.name, self.node.shown());
        report.error(self.node.place, message, None);
    }
}

/// The name of the option of `sbatch` in a line; one letter where it begins with one dash, as `M` of `-Mfast`.
fn option(line: &str) -> &str {
    match line.strip_prefix("--") {
        Some(long) => long.split(|c: char| c == '=' || c.is_whitespace()).next().unwrap_or_default(),
        None => line.strip_prefix('-').and_then(|short| short.get(..1)).unwrap_or_default(),
    }
}

/// Whether a text can stand on one line of a script.
fn is_line(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

fn count(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&n| n > 0)
}

/// A size as `sbatch --mem` takes it, in MiB.
fn mebibytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok().filter(|&n| n > 0 && n < 1 << 40)?;
    match text[digits.len()..].to_ascii_uppercase().as_str() {
        "K" | "KB" => Some(number.div_ceil(1024)),
        "" | "M" | "MB" => Some(number),
        "G" | "GB" => Some(number << 10),
        "T" | "TB" => Some(number << 20),
        _ => None,
    }
}

/// A time limit as `sbatch --time` takes it, in seconds.
fn seconds(text: &str) -> Option<u64> {
    let number = |text: &str| text.parse::<u32>().ok().map(u64::from);
    let (days, rest) = match text.split_once('-') {
        Some((days, rest)) => (Some(number(days)?), rest),
        None => (None, text),
    };
    let parts: Vec<u64> = rest.split(':').map(number).collect::<Option<_>>()?;
    let seconds = match (days.is_some(), &parts[..]) {
        (false, &[minutes]) => 60 * minutes,
        (false, &[minutes, seconds]) => 60 * minutes + seconds,
        (true, &[hours]) => 3600 * hours,
        (true, &[hours, minutes]) => 3600 * hours + 60 * minutes,
        (_, &[hours, minutes, seconds]) => 3600 * hours + 60 * minutes + seconds,
        _ => return None,
    };
    Some(86_400 * days.unwrap_or(0) + seconds)
}
