//! What the commands share: a sweep file as a plan, its store, and its results and report.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{OrBadInput as _, damage, provenance, tell};
use crate::plan::Plan;
use crate::report::{self, Backing};
use crate::results::index::Index;
use crate::results::stages::Stages;
use crate::results::{self, Status};
use crate::spec::report::ReportSettings;
use crate::spec::{self, Sweep};
use crate::store::key::Key;
use crate::store::{DEFAULT_ROOT, Store, files};

/// The sweep that a command is about.
#[derive(Debug, clap::Args)]
pub(super) struct SweepArgs {
    /// The sweep file; a bare name is also looked for in sweeps/
    pub(super) file: PathBuf,
    /// Overrides a setting, or an axis, by its dotted path: `seed=0`, `train.iterations=500`, `blocks=[2,4]`; a list of
    /// values makes it an axis: `seed=[0,1]`, `blocks=[[2],[2,4]]`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(super) sets: Vec<String>,
    /// Where finished stages are kept; sweeps share them there
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    pub(super) store: PathBuf,
}

/// The part of a sweep that a command is about.
#[derive(Debug, clap::Args)]
pub(super) struct PartArgs {
    /// Only the points that this holds of: `seed=0`, `method in [mcsd, supervised] and not tau<0.9`
    #[arg(long, value_name = "EXPR")]
    only: Option<String>,
}

/// A sweep with its plan, and the part of it that was asked for.
pub(super) struct Planned {
    pub(super) sweep: Sweep,
    /// The plan of all points.
    pub(super) whole: Plan,
    part: Option<Plan>,
}

impl Planned {
    /// The plan of the points that were asked for.
    pub(super) fn plan(&self) -> &Plan {
        self.part.as_ref().unwrap_or(&self.whole)
    }
}

/// Where the outcome goes.
#[derive(Debug, clap::Args)]
pub(super) struct OutputArgs {
    /// The frames go to DIR/NAME
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
    /// The report goes to DIR/NAME
    #[arg(long, value_name = "DIR", default_value = "reports")]
    reports: PathBuf,
}

impl SweepArgs {
    /// Reads the file and plans it; what is worth knowing but not wrong goes to standard error.
    pub(super) fn plan(&self) -> Result<(Sweep, Plan)> {
        let sweep = spec::load(&self.file, &self.sets).map_err(anyhow::Error::new).or_bad_input()?;
        for note in &sweep.notes {
            tell(&format!("note: {note}"));
        }
        let plan = Plan::new(&sweep).or_bad_input()?;
        Ok((sweep, plan))
    }

    /// [`Self::plan`], and the part that was asked for.
    pub(super) fn part(&self, part: &PartArgs) -> Result<Planned> {
        let (sweep, whole) = self.plan()?;
        let select = |only: &String| Ok(whole.select(&sweep.only(only)?));
        let part = part.only.as_ref().map(select).transpose().or_bad_input()?;
        Ok(Planned { sweep, whole, part })
    }
}

/// The folders of one sweep's outcome.
#[derive(Debug)]
pub(super) struct Output {
    /// Of the frames.
    pub(super) results: PathBuf,
    /// Of the report.
    pub(super) report: PathBuf,
}

impl OutputArgs {
    /// The folders of the sweep `name`.
    pub(super) fn at(&self, name: &str) -> Output {
        Output { results: self.results.join(name), report: self.reports.join(name) }
    }

    /// The names of all sweeps that have frames, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.results).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| self.at(name).has_frames()).collect();
        names.sort_unstable();
        names
    }

    /// The folders of the sweep `name`, made and found writable.
    pub(super) fn open(&self, name: &str) -> Result<Output> {
        let output = self.at(name);
        files::check_writable(&output.results).context("the results have nowhere to go")?;
        files::check_writable(&output.report).context("the report has nowhere to go")?;
        Ok(output)
    }
}

impl Output {
    /// The page to look at.
    pub(super) fn page(&self) -> PathBuf {
        self.report.join("index.html")
    }

    /// Collects the frames of a sweep from `store` and renders its report. Returns the report's page.
    pub(super) fn render(&self, index: &Index, store: &Store) -> Result<PathBuf> {
        let head = &index.head;
        let records = index.records(store)?;
        let frames = results::collect(&head.name, &records, &index.models(store))?;
        results::write(&frames, &self.results)?;
        provenance::write(index, store, &self.results)?;
        Declared::of(&head.description, &head.report).write(&self.results)?;
        let rendered = report::render(
            &frames,
            &Backing { stages: Stages::of_store(index, store)?, store: Some((index, store)) },
            &head.name,
            &head.description,
            &head.report,
            &self.report,
        )?;
        if records.iter().all(|record| record.status == Status::Done) && store.root().is_dir() {
            let made = Made { from: self.fingerprint(index), files: self.files()? };
            files::write_atomic(mark(store, &head.name), serde_json::to_vec(&made)?)?;
        }
        Ok(rendered.index)
    }

    /// What the report of the frames that lie there shall show, as the run that wrote them was told.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(super) fn declared(&self) -> Result<Declared> {
        Declared::read(&self.results)
    }

    /// Renders the report of a sweep from the frames that lie there already.
    pub(super) fn render_frames(
        &self,
        name: &str,
        description: &str,
        settings: &ReportSettings,
    ) -> Result<PathBuf> {
        let frames = results::read(&self.results)?;
        let backing = Backing { stages: Stages::of_folder(&self.results)?, store: None };
        Ok(report::render(&frames, &backing, name, description, settings, &self.report)?.index)
    }

    /// Whether the report of exactly this sweep, whole, lies there already.
    pub(super) fn is_rendered(&self, index: &Index, store: &Store) -> bool {
        let made = std::fs::read(mark(store, &index.head.name));
        let made = made.ok().and_then(|made| serde_json::from_slice::<Made>(&made).ok());
        made.is_some_and(|made| made.from == self.fingerprint(index) && damage::are_whole(&made.files))
    }

    /// The files of the frames and the report, with their hashes.
    fn files(&self) -> Result<damage::Files> {
        damage::files(&[&self.results, &self.report])
    }

    /// Removes what killed processes left half-written. Only for those who know that nobody is writing there.
    pub(super) fn tidy(&self) -> Result<()> {
        damage::remove_partials(&[&self.results, &self.report])
    }

    /// Whether all frames lie there.
    pub(super) fn has_frames(&self) -> bool {
        results::FRAMES.iter().all(|name| self.results.join(format!("{name}.parquet")).is_file())
    }

    /// What the report is made from and where it goes, as one number.
    fn fingerprint(&self, index: &Index) -> String {
        let parts = [
            env!("CARGO_PKG_VERSION"),
            index.fingerprint().as_str(),
            &self.results.to_string_lossy(),
            &self.report.to_string_lossy(),
        ]
        .join("\n");
        Key::of(parts.as_bytes()).to_string()
    }
}

/// What a sweep file says of its report, kept beside the frames: those who have them need nothing else.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Declared {
    /// What the sweep is about.
    pub(super) description: String,
    /// What the report shall show.
    pub(super) report: ReportSettings,
}

impl Declared {
    /// The file, beside the frames.
    const FILE: &str = "report.json";

    pub(super) fn of(description: &str, report: &ReportSettings) -> Self {
        Self { description: description.to_owned(), report: report.clone() }
    }

    /// Keeps it in `dir`.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        files::write_atomic(dir.join(Self::FILE), serde_json::to_string_pretty(self)? + "\n")
    }

    /// What lies in `dir`; nothing is declared where frames are older than this file.
    fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(Self::FILE);
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            text => {
                let text = text.with_context(|| format!("cannot read {}", path.display()))?;
                serde_json::from_slice(&text).with_context(|| {
                    format!("{} is not as a run writes it: delete it, or run the sweep again", path.display())
                })
            }
        }
    }
}

/// What the last whole report was made from, and what was made.
#[derive(Serialize, Deserialize)]
struct Made {
    /// The fingerprint of the sweep.
    from: String,
    /// The files of the frames and the report.
    files: damage::Files,
}

/// The file that says what the last whole report of the sweep `name` was made from.
fn mark(store: &Store, name: &str) -> PathBuf {
    store.root().join(format!("rendered-{name}"))
}
