//! What must hold between the settings of a point. What must hold of one setting alone is in the schema.

use super::settings::{DataName, DiffusionSettings, FeatureMode, LabelRatio, Method, Settings, TestStream};

/// Something that does not fit together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The dotted paths of the settings that take part, the one to change first; `blocks[2]` is an item of a list.
    pub paths: Vec<String>,
    /// What is wrong, naming values and what is allowed.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

/// Patients of the phantom's training split: what validation (10 %) and test (20 %) leave.
pub fn phantom_train_patients(patients: usize) -> usize {
    patients - (patients + 5) / 10 - (2 * patients + 5) / 10
}

/// Everything that does not fit together in the settings of one point.
pub fn validate(settings: &Settings) -> Vec<Violation> {
    let mut found = vec![];
    network(settings, &mut found);
    data(settings, &mut found);
    let streams = settings.method == Method::Mcsd && settings.mcsd.test_stream != TestStream::Image;
    if streams && !settings.dfm {
        let message = "`mcsd.test_stream` reads the feature stream, which only `dfm: true` builds".into();
        found.push(violation(
            &["mcsd.test_stream", "dfm"],
            message,
            Some("use `image`, or `dfm: true`".into()),
        ));
    }
    if settings.uses_features() && !settings.features.aligned && settings.features.mode == FeatureMode::Online
    {
        let message =
            "`features.aligned: false` leaves cached maps unmoved; `online` makes them of the moved image";
        let help = Some("use `features.mode: cached`".into());
        found.push(violation(&["features.aligned", "features.mode"], message.into(), help));
    }
    method(settings, &mut found);
    found
}

/// What single methods ask of sizes.
fn method(settings: &Settings, found: &mut Vec<Violation>) {
    let Settings { size, train, swin, .. } = settings;
    if settings.method == Method::Bcp && !train.batch.is_multiple_of(2) {
        let message = format!("`bcp` pastes one half of a batch into the other: {} is odd", train.batch);
        found.push(violation(&["train.batch", "method"], message, Some("use an even batch".into())));
    }
    if settings.method == Method::CrossTeaching {
        if !swin.channels.is_multiple_of(3) {
            let message =
                format!("{} channels of the Swin-Unet do not divide into its 3 heads", swin.channels);
            found.push(violation(&["swin.channels", "method"], message, Some("use a multiple of 3".into())));
        }
        let wrong = [4, 8, 16, 32]
            .map(|factor| size / factor)
            .into_iter()
            .find(|side| *side > swin.window && !side.is_multiple_of(swin.window));
        if let Some(side) = wrong {
            let message = format!(
                "a window of {} patches does not divide a stage of {side} patches at size {size}",
                swin.window
            );
            let help = Some("the reference has window 7 at size 224".into());
            found.push(violation(&["swin.window", "size", "method"], message, help));
        }
    }
}

/// Whether a number of labelled patients fits a training split; else what is wrong.
pub fn check_labelled(settings: &Settings, train_patients: usize) -> Option<Violation> {
    let labelled = settings.label_ratio.patients(settings.data.name, train_patients);
    let paths = ["label_ratio", "data.patients", "data.name"];
    if labelled > train_patients {
        let message = format!("{labelled} labelled patients, but the training split has {train_patients}");
        return Some(violation(&paths, message, Some(format!("use {train_patients} or fewer"))));
    }
    if settings.uses_unlabelled() && labelled == train_patients && !settings.data.unlabelled {
        let message =
            format!("all {train_patients} training patients are labelled, which leaves none unlabelled");
        let help = match settings.method {
            Method::Mcsd => "`mcsd` with `dfm` or `dic`".to_owned(),
            method => format!("`{}`", method.name()),
        };
        let help = format!("{help} learns from unlabelled patients; `supervised` needs none");
        return Some(violation(&paths, message, Some(help)));
    }
    None
}

fn violation(paths: &[&str], message: String, help: Option<String>) -> Violation {
    Violation { paths: paths.iter().map(|&path| path.to_owned()).collect(), message, help }
}

fn data(settings: &Settings, found: &mut Vec<Violation>) {
    match settings.data.name {
        name @ (DataName::Acdc | DataName::Mnms | DataName::Own) => {
            if settings.data.root.as_os_str().is_empty() {
                let help = Some("set `data.root`, or say `--set data.root=FOLDER`".into());
                let message = format!("`{}` needs `data.root`, its folder", name.name());
                found.push(violation(&["data.name", "data.root"], message, help));
            }
        }
        DataName::Phantom => {
            found.extend(check_labelled(settings, phantom_train_patients(settings.data.patients)));
        }
    }
    if let LabelRatio::Cases(0) = settings.label_ratio {
        found.push(violation(&["label_ratio"], "needs at least one labelled patient".into(), None));
    }
}

/// The diffusion network: what its blocks, levels and heads allow.
fn network(settings: &Settings, found: &mut Vec<Violation>) {
    let DiffusionSettings { channels, channel_mult, res_blocks, attention, head_channels, .. } =
        &settings.diffusion;
    let levels = channel_mult.len();
    // One output block of each level more than residual blocks: the skip of the level above joins there.
    let blocks = levels * (res_blocks + 1);
    for (i, &block) in settings.blocks.iter().enumerate().filter(|&(_, &block)| block >= blocks) {
        let paths = [&format!("blocks[{i}]"), "diffusion.channel_mult", "diffusion.res_blocks"];
        let message = format!(
            "block {block} does not exist: the diffusion model has output blocks 0 to {}",
            blocks - 1
        );
        found.push(violation(&paths, message, None));
    }
    let halvings = levels.saturating_sub(1).min(31);
    if !settings.size.is_multiple_of(1 << halvings) {
        let message =
            format!("size {} cannot be halved {halvings} times, once for each further level", settings.size);
        found.push(violation(&["size", "diffusion.channel_mult"], message, None));
    }
    let matches = |factor: usize| factor.is_power_of_two() && factor.ilog2() as usize <= halvings;
    if let Some(i) = attention.iter().position(|&factor| !matches(factor)) {
        let message = format!(
            "attention at factor {} matches no level: {levels} levels have the factors 1 to {}",
            attention[i],
            1_u64 << halvings
        );
        found.push(violation(
            &[&format!("diffusion.attention[{i}]"), "diffusion.channel_mult"],
            message,
            None,
        ));
    }
    heads(*channels, channel_mult, attention, *head_channels, found);
}

/// Attention splits the channels of its level, and those of the middle block, into whole heads.
fn heads(channels: usize, mult: &[usize], attention: &[usize], head: usize, found: &mut Vec<Violation>) {
    for (level, m) in mult.iter().enumerate() {
        let attends = level + 1 == mult.len() || attention.contains(&(1_usize << level.min(31)));
        let width = channels * m;
        if attends && !width.is_multiple_of(head.max(1)) {
            let paths = ["diffusion.head_channels", "diffusion.channels", "diffusion.channel_mult"];
            let message = format!("{width} channels of level {level} do not divide into heads of {head}");
            found.push(violation(&paths, message, None));
            return;
        }
    }
}
