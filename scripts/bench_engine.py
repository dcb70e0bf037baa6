"""Times the sweep engine where nothing is computed: start, status, a finished sweep, trivial points.

    cargo build --release
    python scripts/bench_engine.py [--only help,status,again,trivial] [--points 100000] [--program target/release/sweep]

    help     `sweep --help`
    status   `sweep status NAME`, its JSON, and the overview, on a store of 100,000 finished points that this makes
    again    `sweep run` of a finished sweep of 1,000 points, likewise
    trivial  1,000 points that do nothing but leave a small file: `cargo bench --bench engine`, and beside it Hydra's
             basic launcher, Optuna's grid sampler (in memory, and with its journal on disk), Ray Tune and Snakemake doing
             1,000 tasks that write a small file. What is not installed is left out and named:
             pip install hydra-core==1.3.2 optuna "ray[tune]" snakemake

Each line is the minimum and the median of several runs, in ms. Run it on an idle machine.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def timed(what, run, runs):
    took = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        took.append((time.perf_counter() - start) * 1e3)
    print(f"{what:58} {min(took):9.1f} {statistics.median(took):9.1f}", flush=True)


def key(*parts):
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def call(program, args, folder):
    done = subprocess.run([program, *args], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{args} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def big_store(store, points):
    """A store whose sweep `big` has `points` finished points over 8 axes, each a training and an evaluation of its own.

    Objects have the metadata of real ones, and no further files: status does not open them."""
    axes = ["method", "tau", "dfm", "dic", "blocks", "timesteps", "feature_dim", "seed"]
    meta = json.dumps({"key": "K", "kind": "train", "code": 1, "program": "0.1.0", "label": "train", "settings": {},
                       "parents": [], "seconds": 1.0, "threads": 1, "summary": None, "files": []}, indent=2)
    stages, lines = [("prepare", "", "prepare phantom 40 patients"), ("pretrain", "0", "pretrain phantom")], []
    for number in range(points):
        seed, rest = number % 100, number // 100
        label = f"mcsd 7 cases dfm dic tau=0.9 blocks=[2,4,6] timesteps=[50,250] feature_dim={rest} seed={seed}"
        stages.append(("train", "0-1", "train " + label))
        stages.append(("evaluate", f"0,{len(stages) - 1}", "evaluate " + label))
        values = ["mcsd", 0.9, True, True, [2, 4, 6], [50, 250], rest, seed]
        lines.append("\t".join([key("point", number)[:8], str(len(stages) - 2), str(len(stages) - 1),
                                json.dumps(values, separators=(",", ":")), ""]))
    head = {"sweep_index": 1, "name": "big", "axes": axes, "facts": [], "stages": len(stages), "points": points}
    rows = []
    for number, (kind, parents, label) in enumerate(stages):
        name = key("stage", number)
        rows.append(f"{name}\t{kind}\t{parents}\t{label}")
        folder = store / "objects" / name[:2] / name
        folder.mkdir(parents=True)
        (folder / "meta.json").write_text(meta.replace('"K"', f'"{name}"'))
    (store / "sweeps").mkdir()
    (store / "sweeps" / "big.index").write_text("\n".join([json.dumps(head), *rows, *lines, "end"]) + "\n")
    for name in ["tmp", "specs", "locks", "logs", "failures", "runs"]:
        (store / name).mkdir()


def bench_status(program, folder, points):
    store = folder / "big"
    if not store.is_dir():
        print(f"… making a store of {points} finished points", flush=True)
        half = folder / "big.half"
        shutil.rmtree(half, ignore_errors=True)
        big_store(half, points)
        half.rename(store)
    out = call(program, ["status", "big", "--store", str(store)], folder)
    if not out.startswith(f"big: {points} of {points} points done"):
        sys.exit(f"the store in {folder} is of another size; remove it:\n{out}")
    for name, args in [("status NAME", ["big"]), ("status NAME --json", ["big", "--json"]), ("status", [])]:
        timed(f"sweep {name}, {points} finished points",
              lambda: call(program, ["status", *args, "--store", str(store)], folder), 15)


SMALL = """
name: small
base: { preset: smoke, data: { name: phantom, patients: 10 }, method: supervised, label_ratio: 2 cases }
grid: { seed: [%s] }
"""


def bench_again(program, folder, points):
    """Objects with one case and one step each, as the real plan names them; then `sweep run` twice."""
    try:
        from blake3 import blake3
    except ImportError:
        return print("left out: `again` needs blake3 (pip install blake3)")
    home = folder / "again"
    if not home.is_dir():
        home.mkdir()
        (home / "small.yaml").write_text(SMALL % ", ".join(map(str, range(points))))
        plan = json.loads(call(program, ["plan", "small.yaml", "--json"], home))
        case = {"case": "a", "patient": "p", "class": "LV", "dice": 0.5, "jaccard": 0.4, "hd95": 1.0, "asd": 0.5,
                "empty_prediction": False, "empty_label": False}
        files = {"train": {"history.jsonl": '{"step":1,"loss":1.0}\n'},
                 "evaluate": {"cases.jsonl": json.dumps(case) + "\n"}}
        for stage in plan["stages"]:
            name = stage["key"]
            at = home / "results/.store/objects" / name[:2] / name
            at.mkdir(parents=True)
            listed = []
            for file, text in files.get(stage["kind"], {}).items():
                (at / file).write_text(text)
                listed.append({"path": file, "bytes": len(text), "blake3": blake3(text.encode()).hexdigest()})
            meta = {"key": name, "kind": stage["kind"], "code": 1, "program": "0.1.0", "label": stage["label"],
                    "settings": {}, "parents": stage["parents"], "seconds": 1.0, "threads": 1, "summary": None,
                    "files": listed}
            (at / "meta.json").write_text(json.dumps(meta))
        call(program, ["run", "small.yaml"], home)
    out = call(program, ["run", "small.yaml"], home)
    if "nothing to do" not in out:
        sys.exit(f"the second run had something to do:\n{out}")
    timed(f"sweep run, {points} points finished before", lambda: call(program, ["run", "small.yaml"], home), 10)


# Each does POINTS tasks that write a small file into OUT, and prints the seconds that they took, without its own start.
OTHERS = {
    "Hydra 1.3 basic launcher (in process)": ("hydra", 1000, """
        import os, sys, time, hydra
        from omegaconf import OmegaConf
        from hydra.core.config_store import ConfigStore
        ConfigStore.instance().store(name="config", node=OmegaConf.create({"i": 0}))
        @hydra.main(version_base=None, config_name="config")
        def task(config):
            open(f"{OUT}/{config.i}", "w").write("1")
        sys.argv = ["x", "-m", f"i=range(0,{POINTS})", f"hydra.sweep.dir={OUT}/hydra", "hydra/job_logging=disabled"]
        start = time.perf_counter()
        task()
        print(time.perf_counter() - start)
    """),
    "Optuna grid sampler, in memory": ("optuna", 1000, """
        import optuna, time
        optuna.logging.disable_default_handler()
        def task(trial):
            i = trial.suggest_int("i", 0, POINTS - 1)
            open(f"{OUT}/{i}", "w").write("1")
            return 0.0
        start = time.perf_counter()
        study = optuna.create_study(sampler=optuna.samplers.GridSampler({"i": list(range(POINTS))}))
        study.optimize(task, n_trials=POINTS)
        print(time.perf_counter() - start)
    """),
    "Optuna grid sampler, journal on disk": ("optuna", 1000, """
        import optuna, time, warnings
        warnings.filterwarnings("ignore")
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
        optuna.logging.disable_default_handler()
        def task(trial):
            i = trial.suggest_int("i", 0, POINTS - 1)
            open(f"{OUT}/{i}", "w").write("1")
            return 0.0
        start = time.perf_counter()
        study = optuna.create_study(storage=JournalStorage(JournalFileBackend(f"{OUT}/journal")),
                                    sampler=optuna.samplers.GridSampler({"i": list(range(POINTS))}))
        study.optimize(task, n_trials=POINTS)
        print(time.perf_counter() - start)
    """),
    "Ray Tune, function trials (a process each, 2 at once)": ("ray.tune", 50, """
        import os, time
        os.environ["RAY_DEDUP_LOGS"] = "0"
        import ray
        from ray import tune
        ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
        def task(config):
            open(f"{OUT}/{config['i']}", "w").write("1")
        start = time.perf_counter()
        tune.Tuner(task, param_space={"i": tune.grid_search(list(range(POINTS)))},
                   run_config=tune.RunConfig(storage_path=f"{OUT}/ray", verbose=0)).fit()
        print(time.perf_counter() - start)
    """),
    "Snakemake, shell jobs (a process each, 2 at once)": ("snakemake", 200, """
        import pathlib, subprocess, sys, time
        pathlib.Path(f"{OUT}/Snakefile").write_text(
            f"rule all:\\n    input: expand('out/{{i}}', i=range({POINTS}))\\n"
            "rule one:\\n    output: 'out/{i}'\\n    shell: 'echo 1 > {output}'\\n")
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "snakemake", "--cores", "2", "-q", "all"], cwd=OUT, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        print(time.perf_counter() - start)
    """),
}


def bench_trivial(_program, _folder, points):
    print("ms for each of so many trivial points:", flush=True)
    subprocess.run(["cargo", "bench", "--quiet", "--bench", "engine", "--", "--points", str(points)], cwd=ROOT)
    for name, (module, most, code) in OTHERS.items():
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            print(f"left out: {name}: not installed")
            continue
        count, took = min(points, most), []
        for _ in range(3):
            with tempfile.TemporaryDirectory() as out:
                text = f"OUT, POINTS = {out!r}, {count}\n" + textwrap.dedent(code)
                (Path(out) / "bench.py").write_text(text)
                done = subprocess.run([sys.executable, "bench.py"], cwd=out, capture_output=True, text=True,
                                      env={**os.environ, "PYTHONWARNINGS": "ignore"})
                if done.returncode != 0:
                    print(f"left out: {name}: {done.stderr.strip().splitlines()[-1:]}")
                    break
                took.append(float(done.stdout.split()[-1]) * 1e3 / count)
        else:
            print(f"{f'{name}, {count}':58} {min(took):9.2f} {statistics.median(took):9.2f}", flush=True)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default="help,status,again,trivial")
    options.add_argument("--points", type=int, default=100_000, help="of the store that status looks at")
    target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
    options.add_argument("--program", default=str(Path(target) / "release" / "sweep"))
    options.add_argument("--folder", default=str(Path(tempfile.gettempdir()) / "sweep-bench-engine"),
                         help="where the stores are made; kept for the next time")
    args = options.parse_args()
    folder, program = Path(args.folder), str(Path(args.program).resolve())
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{'':58} {'min':>9} {'median':>9}")
    for name in args.only.split(","):
        match name:
            case "help":
                timed("sweep --help", lambda: call(program, ["--help"], folder), 30)
            case "status":
                bench_status(program, folder, args.points)
            case "again":
                bench_again(program, folder, 1000)
            case "trivial":
                bench_trivial(program, folder, 1000)
            case _:
                sys.exit(f"--only {name}: choose of help, status, again, trivial")


if __name__ == "__main__":
    main()
