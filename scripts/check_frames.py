"""Opens the frames of sweeps in pandas and in Polars, and checks that both see the same, and that means are what they are said to be.

    pip install polars pandas pyarrow
    python scripts/check_frames.py [FOLDER ...]        # default: every folder of results/ that holds frames

How to open them:

    import polars as pl
    points = pl.read_parquet("results/quickstart/points.parquet")
    cases = pl.read_parquet("results/quickstart/cases.parquet")

    import pandas as pd
    points = pd.read_parquet("results/quickstart/points.parquet")
"""

import math
import pathlib
import sys

import pandas as pd
import polars as pl

METRICS = ["dice", "jaccard", "hd95", "asd"]
FRAMES = ["points", "cases", "history", "diffusion"]


def same(polars: pl.DataFrame, pandas: pd.DataFrame, where: str) -> None:
    """Every value, NaN and null being one."""
    assert polars.columns == list(pandas.columns), f"{where}: other columns"
    assert polars.height == len(pandas), f"{where}: other rows"
    for name in polars.columns:
        for row, (a, b) in enumerate(zip(polars[name].to_list(), pandas[name].tolist(), strict=True)):
            missing = (a is None or a != a, b is None or pd.isna(b))
            assert missing[0] == missing[1] and (missing[0] or a == b), f"{where}: {name}, row {row}: {a!r}, {b!r}"


def check(folder: pathlib.Path) -> None:
    frames = {}
    for name in FRAMES:
        frames[name] = pl.read_parquet(folder / f"{name}.parquet")
        same(frames[name], pd.read_parquet(folder / f"{name}.parquet"), f"{folder}/{name}.parquet")
        # CSV is the same to the last bit; types are guessed from it, so they are given.
        csv = pl.read_csv(folder / f"{name}.csv", schema=frames[name].schema)
        text = [column for column, kind in frames[name].schema.items() if kind == pl.String]
        parquet = frames[name].with_columns(pl.col(text).replace("", None))
        assert parquet.equals(csv.with_columns(pl.col(text).replace("", None))), f"{folder}/{name}: CSV differs"
    points, cases = frames["points"], frames["cases"]
    assert points["id"].n_unique() == points.height, "ids are unique"
    done = points.filter(pl.col("status") == "done")
    assert set(cases["id"]) <= set(done["id"]), "cases belong to evaluated points"
    # The mean of a point: over volumes, class by class, then over classes.
    by_class = cases.group_by("id", "class").agg(pl.col(METRICS).mean())
    means = by_class.group_by("id").agg(pl.col(METRICS).mean())
    joined = done.join(means, on="id", suffix="_again")
    assert joined.height == done.height, "every evaluated point has cases"
    for metric in METRICS:
        for a, b in zip(joined[metric], joined[f"{metric}_again"], strict=True):
            assert math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-12), f"{metric}: {a} is not {b}"
    pandas = pd.read_parquet(folder / "cases.parquet")
    again = pandas.groupby(["id", "class"])[METRICS].mean().groupby("id").mean()
    for row in done.iter_rows(named=True):
        assert math.isclose(row["dice"], again.loc[row["id"], "dice"], rel_tol=1e-12), row["id"]
    sizes = ", ".join(f"{name} {frames[name].height}×{frames[name].width}" for name in FRAMES)
    print(f"{folder}: {sizes}: the same in Polars {pl.__version__} and pandas {pd.__version__}")


def main() -> None:
    folders = [pathlib.Path(name) for name in sys.argv[1:]]
    folders = folders or sorted(path.parent for path in pathlib.Path("results").glob("*/points.parquet"))
    assert folders, "no frames: run a sweep first"
    for folder in folders:
        check(folder)


if __name__ == "__main__":
    main()
