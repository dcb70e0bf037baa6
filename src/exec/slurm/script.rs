//! The script of an array: what is asked for, and how an element runs its stages.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::arrays;
use super::record::Record;
use crate::spec::cluster::Request;
use crate::store::Store;
use crate::store::key::Key;

/// What holds for all scripts of a run.
#[derive(Clone, Debug)]
pub struct Setting {
    /// This program, unless `cluster.yaml` names another one.
    pub program: PathBuf,
    /// The folder that stages run in.
    pub folder: PathBuf,
    /// The time between two checkpoints.
    pub checkpoint_every: Duration,
}

/// The text. `dependency` is the value of `--dependency`, `shortages` how often its stages ran out of memory.
pub(super) fn script(
    record: &Record,
    elements: &BTreeMap<u32, Vec<Key>>,
    request: &Request,
    dependency: Option<&str>,
    shortages: u32,
    (setting, store): (&Setting, &Store),
) -> String {
    let mut text = String::from("#!/bin/bash\n");
    let mut option = |option: String| {
        text.push_str("#SBATCH ");
        text.push_str(&option);
        text.push('\n');
    };
    option(format!("--job-name={}", record.name));
    option(format!("--array={}", arrays::array(elements, request.throttle)));
    if let Some(dependency) = dependency {
        option(format!("--dependency={dependency}"));
        option("--kill-on-invalid-dep=yes".to_owned());
    }
    option("--requeue".to_owned());
    option(format!("--signal=B:USR1@{}", request.signal));
    option("--open-mode=append".to_owned());
    // Slurm replaces what follows a `%`.
    let output = record.dir().display().to_string().replace('%', "%%");
    option(format!("--output={}", quoted_option(&format!("{output}/%a.out"))));
    option(format!("--chdir={}", quoted_option(&setting.folder.display().to_string())));
    option("--nodes=1".to_owned());
    option("--ntasks=1".to_owned());
    let named = [
        ("partition", request.partition.clone()),
        ("account", request.account.clone()),
        ("qos", request.qos.clone()),
        ("time", request.time.clone()),
        ("cpus-per-task", request.cpus.map(|n| n.to_string())),
        ("mem", request.memory_after(shortages).map(|mebibytes| format!("{mebibytes}M"))),
        ("gres", request.gres.clone()),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            option(format!("--{name}={value}"));
        }
    }
    request.sbatch.iter().for_each(|line| option(line.clone()));
    text.push_str(&body(record, request, setting, store));
    text
}

fn body(record: &Record, request: &Request, setting: &Setting, store: &Store) -> String {
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let root = absolute(store.root().to_owned());
    let job = quoted(&record.dir().display().to_string());
    let logs = quoted(&root.join("logs").display().to_string());
    // Written by hand into cluster.yaml, a program may start with `~` or `$HOME`.
    let program = request.program.clone().unwrap_or_else(|| quoted(&setting.program.display().to_string()));
    let container = request.container.as_ref().map(|container| format!("{container} ")).unwrap_or_default();
    let mut before: Vec<String> =
        request.modules.iter().map(|module| format!("module load {}", quoted(module))).collect();
    before.extend(request.setup.iter().cloned());
    before.push(String::new());
    let before = before.join("\n");
    let threads =
        request.cpus.map_or("${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}".to_owned(), |n| n.to_string());
    let (device, every) = (&request.device, setting.checkpoint_every.as_secs_f64());
    format!(
        r#"
# An element computes the stages in its line of `keys`. Before the time limit, and when it is cancelled or has to make
# room, the program saves its work; after the time limit the same job goes on in a new slot.
job={job}
i=$SLURM_ARRAY_TASK_ID
key=$(sed -n "s/^$i \([0-9a-f]*\).*/\1/p" "$job/keys")
rm -f "$job/$i.exit" "$job/$i.limit"
child=
hit=
ended=
stop() {{
    hit=1
    [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
}}
trap ': >"$job/$i.limit"; stop' USR1
trap 'ended=1; stop' TERM INT
{before}{container}{program} stage --store {root} --job "$job" --element "$i" --threads {threads} --device {device} --checkpoint-every {every} </dev/null >/dev/null 2>>{logs}/"$key.log" &
child=$!
[ -z "$hit" ] || kill -TERM "$child" 2>/dev/null
hit=
wait "$child"
code=$?
# A signal ends `wait`, and not the program.
while [ -n "$hit" ]; do
    hit=
    wait "$child"
    again=$?
    [ "$again" -eq 127 ] || code=$again
done
# A job that somebody has ended meanwhile must not come back: to requeue it would revive it. What came with the signal is
# given a moment to be heard.
again() {{
    [ "$code" -eq 130 ] && [ -e "$job/$i.limit" ] && sleep 1 && [ -z "$ended" ] &&
        ! grep -qsx -e all -e "$i" "$job/asked" "$job/cancelled" && scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$i"
}}
again && exit "$code"
echo "$code" >"$job/$i.exit"
exit "$code"
"#,
        root = quoted(&root.display().to_string()),
    )
}

/// As the shell takes it for one word.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// As a line of `#SBATCH` takes it for one word.
fn quoted_option(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,%@".contains(c);
    if text.chars().all(plain) {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_asks_for_what_was_written_and_quotes_what_needs_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("a b%"));
        let record = Record::at(&store, "sweep-tiny-train-0123456789");
        let elements: BTreeMap<u32, Vec<Key>> = (0..3).map(|i| (i, vec![Key::of(b"a")])).collect();
        let request = Request {
            partition: Some("gpu".into()),
            time: Some("1:00:00".into()),
            memory: Some(1000),
            cpus: Some(4),
            gres: Some("gpu:1".into()),
            throttle: Some(2),
            modules: vec!["cuda/12.4".into()],
            setup: vec!["export A=b".into()],
            container: Some("apptainer exec x.sif".into()),
            sbatch: vec!["--constraint=a100".into()],
            device: "cuda".into(),
            ..Request::default()
        };
        let setting = Setting {
            program: "/opt/it's/sweep".into(),
            folder: "/home/me".into(),
            checkpoint_every: Duration::from_secs(60),
        };
        let text = script(&record, &elements, &request, Some("afterok:7"), 1, (&setting, &store));
        for line in [
            "#SBATCH --job-name=sweep-tiny-train-0123456789",
            "#SBATCH --array=0-2%2",
            "#SBATCH --dependency=afterok:7",
            "#SBATCH --kill-on-invalid-dep=yes",
            "#SBATCH --signal=B:USR1@120",
            "#SBATCH --partition=gpu",
            "#SBATCH --mem=2000M",
            "#SBATCH --cpus-per-task=4",
            "#SBATCH --constraint=a100",
            "module load 'cuda/12.4'\nexport A=b\napptainer exec x.sif '/opt/it'\\''s/sweep' stage",
            "--threads 4 --device cuda --checkpoint-every 60",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(text.contains("a b%%/slurm/sweep-tiny-train-0123456789/%a.out\""), "{text}");
        let text = script(&record, &elements, &Request::default(), None, 0, (&setting, &store));
        assert!(
            !text.contains("--mem") && !text.contains("--dependency") && !text.contains("--time"),
            "{text}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn the_shell_finds_no_fault_in_a_script() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path());
        let record = Record::at(&store, "sweep-a");
        let setting =
            Setting { program: "/bin/true".into(), folder: "/".into(), checkpoint_every: Duration::ZERO };
        let elements = [(0, vec![Key::of(b"a")])].into();
        let text = script(&record, &elements, &Request::default(), None, 0, (&setting, &store));
        let path = dir.path().join("script");
        crate::store::files::write_atomic(&path, &text).unwrap();
        let Ok(output) = std::process::Command::new("bash").arg("-n").arg(&path).output() else { return };
        assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    }
}
