"""Expanding and checking a grid: this program beside Hydra 1.3, Optuna, Ray Tune and Snakemake.

    pip install hydra-core==1.3.2 optuna 'ray[tune]' snakemake
    python scripts/bench_planners.py [--points 100000] [--limit 60]

The grid has 8 axes and is the same for all. What each does of the work:

    sweep      reads the file, expands it, checks every setting of every point, keys and plans all stages, finds what is
               shared and idle (benches/plan.rs)
    Hydra      expands the overrides, then composes and type-checks each point's configuration (structured config)
    Optuna     grid sampler: asks for each point and checks each value against its distribution (in-memory storage)
    Ray Tune   expands the variants of `grid_search`; checks nothing
    Snakemake  reads a Snakefile with `expand`, builds the graph of one rule per point and plans it (--dry-run)

Each runs in a process of its own with the full number of points where it ends within the limit; otherwise with fewer (1/10,
1/100, ...), which is told, with the time per point. What is not installed is left out with a message.
"""

import argparse
import importlib.util
import itertools
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def axes(points):
    return {
        "dic": [False, True],
        "tau": [0.7, 0.75, 0.8, 0.85, 0.9],
        "blocks": ["2", "4", "2-4", "2-4-6"],
        "timesteps": ["50", "150", "250", "50-150", "50-150-250"],
        "feature_dim": [10, 20, 30, 40, 50],
        "label_ratio": ["5%", "10%"],
        "lr": [0.005, 0.01, 0.02, 0.04, 0.08],
        "seed": list(range(points // 10_000)),
    }


def part(points):
    """The axes cut so that they have about `points` points, for those that cannot bear more."""
    if points >= 10_000:
        return axes(points)
    cut = axes(10_000)
    for name in ["tau", "timesteps", "feature_dim", "lr", "blocks"]:
        while len(list(itertools.product(*cut.values()))) > points and len(cut[name]) > 1:
            cut[name] = cut[name][:-1]
    return cut


def count(space):
    n = 1
    for values in space.values():
        n *= len(values)
    return n


def hydra(points):
    from dataclasses import dataclass

    from hydra import compose, initialize
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.config_store import ConfigStore
    from hydra.core.override_parser.overrides_parser import OverridesParser

    @dataclass
    class Config:
        dic: bool = True
        tau: float = 0.9
        blocks: str = "2"
        timesteps: str = "50"
        feature_dim: int = 30
        label_ratio: str = "10%"
        lr: float = 0.01
        seed: int = 0

    ConfigStore.instance().store(name="config", node=Config)
    quoted = lambda v: f"'{v}'" if isinstance(v, str) else str(v).lower() if isinstance(v, bool) else str(v)
    overrides = [f"{k}=" + ",".join(quoted(v) for v in values) for k, values in part(points).items()]
    parsed = OverridesParser.create().parse_overrides(overrides=overrides)
    n = 0
    with initialize(version_base="1.3", config_path=None):
        for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None):
            for point in batch:
                compose("config", overrides=list(point))
                n += 1
    return n


def optuna(points):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = part(points)
    study = optuna.create_study(sampler=optuna.samplers.GridSampler(space))

    def objective(trial):
        for name, values in space.items():
            trial.suggest_categorical(name, values)
        return 0.0

    study.optimize(objective, n_trials=count(space))
    return len(study.get_trials(deepcopy=False))


def ray(points):
    from ray import tune
    from ray.tune.search.variant_generator import generate_variants

    space = {name: tune.grid_search(values) for name, values in part(points).items()}
    return sum(1 for _ in generate_variants(space))


def snakemake(points):
    space = part(points)
    names = list(space)
    pattern = "out/" + "_".join("{" + name + "}" for name in names) + ".txt"
    lists = ", ".join(f"{name}={[str(v) for v in values]!r}" for name, values in space.items())
    text = f"rule all:\n    input: expand({pattern!r}, {lists})\n"
    text += f"rule train:\n    output: {pattern!r}\n    shell: 'touch {{output}}'\n"
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "Snakefile").write_text(text)
        command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "all", "--cores", "1"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return count(space)


PLANNERS = {"Hydra": (hydra, "hydra"), "Optuna": (optuna, "optuna"), "Ray Tune": (ray, "ray"), "Snakemake": (snakemake, "snakemake")}


def child(name, points):
    begun = time.perf_counter()
    n = PLANNERS[name][0](points)
    seconds = time.perf_counter() - begun
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024
    print(json.dumps({"points": n, "seconds": seconds, "peak_bytes": peak}))


def ours(points):
    command = ["cargo", "bench", "--locked", "--bench", "plan", "--", "--once", str(points)]
    out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return json.loads(next(line for line in out.splitlines() if line.startswith("{")))


def theirs(name, points, limit):
    """With as many points as it bears within the limit, starting small so that nothing runs for hours."""
    best, n = None, 100
    while True:
        command = [sys.executable, __file__, "--child", name, "--points", str(n)]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=limit, env={**os.environ, "RAY_AIR_NEW_OUTPUT": "0"})
        except subprocess.TimeoutExpired:
            return best
        if run.returncode != 0:
            print(f"{name}: {run.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            return best
        best = json.loads(run.stdout.strip().splitlines()[-1])
        if n >= points or best["seconds"] * 12 > limit:
            return best
        n = min(points, n * 10)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=100_000, help="a multiple of 10,000")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of one run")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child, args.points)
    rows = [("sweep", ours(args.points))]
    for name, (_, module) in PLANNERS.items():
        if importlib.util.find_spec(module) is None:
            print(f"{name} is left out: not installed", file=sys.stderr)
            continue
        result = theirs(name, args.points, args.limit)
        if result is not None:
            rows.append((name, result))
    print(f"{'':10} {'points':>9} {'seconds':>9} {'µs a point':>11} {'peak MB':>8}")
    for name, row in rows:
        each = row["seconds"] / row["points"] * 1e6
        print(f"{name:10} {row['points']:>9,} {row['seconds']:>9.3f} {each:>11.1f} {row['peak_bytes'] / 1e6:>8.0f}")


if __name__ == "__main__":
    main()
