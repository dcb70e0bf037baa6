//! What `cluster.yaml` may say, and what is refused.

use super::*;

fn refused(text: &str) -> String {
    Cluster::parse(FILE, text).unwrap_err().to_string()
}

#[test]
fn kinds_take_what_the_default_says_unless_they_say_otherwise() {
    let text = "default: { partition: gpu, time: 12:00:00, memory: 16G, cpus: 8, gres: 'gpu:1', throttle: 4 }\n\
                pretrain: { time: 2-00:00:00, sbatch: [--constraint=a100], modules: cuda/12.4 }\n\
                evaluate: { gres: ~, cpus: 4, signal: 30 }\n";
    let cluster = Cluster::parse(FILE, text).unwrap();
    let train = cluster.request("train");
    assert_eq!(
        (train.time.as_deref(), train.cpus, train.memory),
        (Some("12:00:00"), Some(8), Some(16 << 10))
    );
    assert_eq!(train.device, "cuda", "a job with a GPU computes there");
    let pretrain = cluster.request("pretrain");
    assert_eq!(pretrain.time.as_deref(), Some("2-00:00:00"));
    assert_eq!((pretrain.device.as_str(), &pretrain.modules[..]), ("cuda", &["cuda/12.4".to_owned()][..]));
    let evaluate = cluster.request("evaluate");
    assert_eq!((evaluate.gres.as_deref(), evaluate.device.as_str(), evaluate.signal), (None, "cpu", 30));
    assert_eq!(evaluate.partition.as_deref(), Some("gpu"));
}

#[test]
fn an_empty_file_leaves_all_to_the_cluster_and_the_template_is_right() {
    for text in ["", "# nothing\n", "default:\n"] {
        assert_eq!(Cluster::parse(FILE, text).unwrap().request("train"), &Request::default(), "{text:?}");
    }
    let cluster = Cluster::parse(FILE, TEMPLATE).unwrap();
    assert_eq!(cluster.request("train").cpus, Some(8));
    // What is commented out is right as well.
    let bare = |line: &str| {
        let (indent, text) = line.split_at(line.len() - line.trim_start().len());
        let known = |text: &&str| {
            let key = text.split(':').next().unwrap_or_default();
            KEYS.contains(&key) || KINDS.contains(&key)
        };
        let text = text.strip_prefix("# ").filter(known).unwrap_or(text);
        format!("{indent}{text}")
    };
    let text: Vec<String> = TEMPLATE.lines().map(bare).collect();
    let cluster = Cluster::parse(FILE, &text.join("\n")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(cluster.request("train").throttle, Some(32));
    assert_eq!(cluster.request("features").container.as_deref(), Some("apptainer exec --nv ~/sweep.sif"));
}

#[test]
fn what_is_wrong_is_named_with_its_place_and_a_remedy() {
    let error = refused("default:\n  partitoin: gpu\n");
    assert!(error.contains("cluster.yaml:2:3") && error.contains("did you mean `partition`?"), "{error}");
    let error = refused("partition: gpu\n");
    assert!(error.contains("`partition` goes under `default`"), "{error}");
    let error = refused("train: { time: soon, memory: lots, cpus: 0, throttle: -1, device: gpu }\n");
    for part in
        ["`time: soon`", "hh:mm:ss", "`memory: lots`", "16G", "`cpus: 0`", "`throttle: -1`", "`device: gpu`"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
    let error = refused("train: { time: 1, signal: 120 }\n");
    assert!(error.contains("60 s ends before") && error.contains("raise `time`"), "{error}");
    let error = refused("train: { sbatch: [constraint=a100, --array=3, --output=x] }\n");
    assert!(error.contains("--constraint=a100") && error.contains("the key `throttle`"), "{error}");
    assert_eq!(error.matches("set by the executor itself").count(), 2, "{error}");
    let taken =
        "--clusters=fast, -Mfast, -M fast, --test-only, '--wrap=ls', -D /tmp, -a0-3, --no-requeue, -W";
    let error = refused(&format!("train: {{ sbatch: [{taken}] }}\n"));
    assert_eq!(error.matches("set by the executor itself").count(), 9, "{error}");
    let error = refused("train: { setup: \"one\\ntwo\", account: \"a\\tb\" }\n");
    assert!(error.contains("each on one line") && error.contains("a text on one line"), "{error}");
    assert!(refused("- a\n").contains("map of sections"));
}

#[test]
fn a_file_that_is_named_and_absent_is_refused_and_an_unnamed_one_is_not() {
    let error = Cluster::find(Some(Path::new("/nowhere/c.yaml")), Path::new("a.yaml")).unwrap_err();
    assert!(error.to_string().contains("sweep init --cluster"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let sweep = dir.path().join("a.yaml");
    crate::store::files::write_atomic(dir.path().join(FILE), "default: { cpus: 3 }").unwrap();
    assert_eq!(Cluster::find(None, &sweep).unwrap().request("train").cpus, Some(3));
}

#[test]
fn times_and_sizes_are_read_as_slurm_does() {
    let times = [
        ("90", 5400),
        ("90:30", 5430),
        ("1:00:00", 3600),
        ("2-3", 183_600),
        ("1-0:30", 88_200),
        ("1-0:0:5", 86_405),
    ];
    for (text, wanted) in times {
        assert_eq!(seconds(text), Some(wanted), "{text}");
    }
    for wrong in ["", "x", "1:2:3:4", "1-", "-1", "1h"] {
        assert_eq!(seconds(wrong), None, "{wrong}");
    }
    let sizes = [("16G", 16384), ("500", 500), ("1t", 1 << 20), ("1500K", 2), ("2GB", 2048)];
    for (text, wanted) in sizes {
        assert_eq!(mebibytes(text), Some(wanted), "{text}");
    }
    assert_eq!([mebibytes("0"), mebibytes("G"), mebibytes("1.5G"), mebibytes("1P")], [None; 4]);
}

#[test]
fn a_gpu_may_be_asked_for_by_any_option_that_does() {
    let device = |text: &str| Cluster::parse(FILE, text).unwrap().request("train").device.clone();
    for options in ["--gpus=1", "-G 1", "-G1", "--gpus-per-node=a100:1", "--gpus-per-task=1", "--gres=gpu:1"]
    {
        assert_eq!(device(&format!("default: {{ sbatch: ['{options}'] }}\n")), "cuda", "{options}");
    }
    assert_eq!(device("default: { sbatch: ['--gres=shard:1', '--constraint=gpu'] }\n"), "cpu");
    assert_eq!(device("default: { sbatch: ['--gpus=1'], device: cpu }\n"), "cpu");
    assert_eq!(device("default: { cpus: 2 }\ntrain: { sbatch: ['--gpus=1'] }\n"), "cuda");
    assert_eq!(device("default: { sbatch: ['--gpus=1'] }\ntrain: { sbatch: ~ }\n"), "cpu");
}

#[test]
fn an_evaluation_is_served_where_it_asks_for_the_same_place_and_no_more_memory() {
    let serves = |evaluate: &str| {
        let text =
            format!("default: {{ partition: a, memory: 4G, gres: 'gpu:1' }}\nevaluate: {{ {evaluate} }}\n");
        let cluster = Cluster::parse(FILE, &text).unwrap();
        cluster.request("train").serves(cluster.request("evaluate"))
    };
    for same in ["", "time: 10", "cpus: 2, signal: 30", "memory: 2G", "throttle: 3"] {
        assert!(serves(same), "{same}");
    }
    for other in
        ["partition: b", "gres: ~", "memory: 8G", "memory: ~", "device: cpu", "setup: 'A=b'", "qos: x"]
    {
        assert!(!serves(other), "{other}");
    }
}

#[test]
fn what_cannot_have_more_memory_is_told_why() {
    let remedy = |request: Request, times| request.shortage_remedy(times).unwrap_or_default();
    assert!(remedy(Request::default(), 0).contains("set `memory`"));
    let bounded = Request { memory: Some(1000), memory_most: Some(2000), ..Request::default() };
    assert_eq!(bounded.shortage_remedy(0), None, "the next try has more");
    assert!(remedy(bounded, 1).contains("raise `memory_most`"));
    let fixed = Request { memory: Some(1000), memory_growth: 1.0, ..Request::default() };
    assert!(remedy(fixed, 0).contains("`memory_growth`"));
}

#[test]
fn memory_grows_to_its_most() {
    let request = Request { memory: Some(1000), memory_most: Some(3500), ..Request::default() };
    assert_eq!([0, 1, 2, 3].map(|n| request.memory_after(n)), [1000, 2000, 3500, 3500].map(Some));
    assert_eq!([0, 1, 2].map(|n| request.grows_after(n)), [true, true, false]);
    assert!(!Request::default().grows_after(0), "what the cluster decides cannot grow");
}
