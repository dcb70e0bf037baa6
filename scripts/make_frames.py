"""Makes the frames of a make-believe sweep, for measuring tables, figures and queries at a size.

    pip install polars numpy
    python scripts/make_frames.py results/large [POINTS]      # default 10,000 points: 1.2 million case rows

Four axes of ten values (tau, feature_dim, timesteps, seed), 20 patients with two volumes and three classes each, 20
logged steps. The numbers mean nothing; the same arguments give the same frames.
"""

import itertools
import pathlib
import sys

import numpy as np
import polars as pl

CLASSES = ["RV", "Myo", "LV"]
PATIENTS, STEPS = 20, 20


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    rng = np.random.default_rng(0)
    tau = [round(0.5 + 0.05 * i, 2) for i in range(10)]
    dims = [10 * (i + 1) for i in range(10)]
    steps = [f"[{50 + 10 * i}, {150 + 10 * i}]" for i in range(10)]
    grid = list(itertools.islice(itertools.product(tau, dims, steps, range(10)), count))
    ids = [f"{(0x9E3779B9 * (i + 1)) % 2**32:08x}" for i in range(count)]
    axes = {
        "tau": pl.Series([g[0] for g in grid], dtype=pl.Float64),
        "feature_dim": pl.Series([g[1] for g in grid], dtype=pl.Int64),
        "timesteps": pl.Series([g[2] for g in grid], dtype=pl.String),
        "seed": pl.Series([g[3] for g in grid], dtype=pl.Int64),
    }
    volumes = [f"patient{p:03}_frame{f:02}" for p in range(PATIENTS) for f in (1, 12)]
    rows = len(volumes) * len(CLASSES)
    base = 0.8 - 2.0 * (np.array(axes["tau"]) - 0.75) ** 2 + 0.0005 * np.array(axes["feature_dim"])
    skill = rng.normal(0, 0.04, len(volumes))[None, :, None] + np.array([-0.05, -0.02, 0.05])[None, None, :]
    dice = base[:, None, None] + skill + rng.normal(0, 0.02, (count, len(volumes), len(CLASSES)))
    dice = dice.clip(0, 1)
    metrics = {"dice": dice, "jaccard": dice / (2 - dice), "hd95": (1 - dice) * 28, "asd": (1 - dice) * 8}
    folder.mkdir(parents=True, exist_ok=True)

    points = {"sweep": pl.Series([folder.name] * count), "id": pl.Series(ids), **axes}
    points["status"] = pl.Series(["done"] * count)
    points["error"] = pl.Series([None] * count, dtype=pl.String)
    facts = {"preset": "smoke", "data.name": "phantom", "method": "mcsd", "label_ratio": "10%"}
    facts |= {"evaluate.split": "test", "evaluate.empty": "zero", "evaluate.select": "best"}
    for name, value in facts.items():
        points[name] = pl.Series([value] * count)
    points["n_cases"] = pl.Series([len(volumes)] * count, dtype=pl.Int64)
    by_class = {name: values.mean(axis=1) for name, values in metrics.items()}
    for name, values in by_class.items():
        points[name] = pl.Series(values.mean(axis=1))
    for name, values in by_class.items():
        for place, label in enumerate(CLASSES):
            points[f"{name}_{label}"] = pl.Series(values[:, place])
    for name in ["empty_predictions", "empty_labels"]:
        points[name] = pl.Series([0] * count, dtype=pl.Int64)
    points["best_step"] = pl.Series([200] * count, dtype=pl.Int64)
    points["train_key"] = pl.Series([f"{i:031x}7" for i in range(count)])
    points["evaluate_key"] = pl.Series([f"{i:031x}e" for i in range(count)])
    write(folder, "points", pl.DataFrame(points))

    def repeated(times: int) -> dict:
        place = np.repeat(np.arange(count), times)
        return {"id": pl.Series(ids).gather(place), **{name: values.gather(place) for name, values in axes.items()}}

    cases = repeated(rows)
    cases["case"] = pl.Series(np.tile(np.repeat(volumes, len(CLASSES)), count))
    cases["patient"] = cases["case"].str.slice(0, 10)
    cases["class"] = pl.Series(CLASSES * (len(volumes) * count))
    for name, values in metrics.items():
        cases[name] = pl.Series(values.reshape(-1))
    for name in ["empty_prediction", "empty_label"]:
        cases[name] = pl.Series(np.zeros(count * rows, dtype=bool))
    for name in ["voxels_label", "voxels_prediction"]:
        cases[name] = pl.Series(rng.integers(500, 5000, count * rows))
    write(folder, "cases", pl.DataFrame(cases))

    history = repeated(STEPS)
    step = np.tile(10 * np.arange(1, STEPS + 1), count)
    history["step"] = pl.Series(step)
    history["loss"] = pl.Series(np.exp(-step / 80) + 0.2 + rng.normal(0, 0.02, len(step)))
    history["lr"] = pl.Series(0.01 * (1 - step / 201) ** 0.9)
    dice = np.repeat(base, STEPS) * (1 - np.exp(-step / 60))
    history["val_dice"] = pl.Series(np.where(step % 50 == 0, dice, np.nan)).fill_nan(None)
    history["accepted"] = pl.Series((1 - np.exp(-step / 50)).clip(0, 1))
    write(folder, "history", pl.DataFrame(history))

    diffusion = {"model": pl.Series(["m0"] * 6), "label": pl.Series(["pretrain phantom"] * 6)}
    diffusion["step"] = pl.Series([20 * (i + 1) for i in range(6)], dtype=pl.Int64)
    diffusion["loss"] = pl.Series([1 / (i + 1) for i in range(6)])
    for start in range(0, 1000, 100):
        diffusion[f"loss_t{start}"] = pl.Series([(1 - start / 2000) / (i + 1) for i in range(6)])
    write(folder, "diffusion", pl.DataFrame(diffusion))


def write(folder: pathlib.Path, name: str, frame: pl.DataFrame) -> None:
    frame.write_parquet(folder / f"{name}.parquet")
    frame.write_csv(folder / f"{name}.csv")
    print(f"{folder}/{name}: {frame.height} × {frame.width}")


if __name__ == "__main__":
    main()
