"""Writes tests/fixtures/stats.json: fixed data and what SciPy and statsmodels say of them.

    python scripts/fixtures_stats.py      # needs numpy, scipy==1.17.1, statsmodels==0.15.0

Every number is drawn here from a seed. `scipy.stats.bootstrap` is given the program's own draws (SplitMix64, below),
so that its intervals can be compared number by number.
"""

import json
from pathlib import Path

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

OUT = Path(__file__).parent.parent / "tests" / "fixtures" / "stats.json"
RESAMPLES = 2000
MASK = (1 << 64) - 1


def splitmix(seed=0):
    state = seed
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


class Ours(np.random.Generator):
    """A generator whose integers are the program's draws."""

    def __init__(self):
        super().__init__(np.random.PCG64(0))
        self.source = splitmix()

    def integers(self, low, high=None, size=None, dtype=np.int64, endpoint=False):
        assert low == 0 and not endpoint
        n = int(high)
        count = int(np.prod(size))
        drawn = np.fromiter(((next(self.source) * n) >> 64 for _ in range(count)), dtype=np.int64, count=count)
        return drawn.reshape(size)


def bootstrap(data, statistic, **options):
    found = stats.bootstrap(
        data, statistic, n_resamples=RESAMPLES, method="percentile", confidence_level=0.95, rng=Ours(), **options
    )
    return [float(found.confidence_interval.low), float(found.confidence_interval.high)]


def means(rng):
    for n in (2, 3, 5, 8, 20, 33, 51):
        values = np.round(rng.normal(0.8, 0.1, n), 6)
        yield {"values": values.tolist(), "interval": bootstrap((values,), np.mean)}


def class_means(rng):
    """Means over classes of means over volumes, where patients have different numbers of volumes."""
    for n, classes in ((4, 1), (9, 2), (20, 3)):
        volumes = rng.integers(1, 4, (classes, n)).astype(float)
        sums = np.round(rng.uniform(0.4, 1.0, (classes, n)) * volumes, 6)

        def statistic(*columns):
            columns = np.asarray(columns)
            return np.mean(columns[:classes].sum(-1) / columns[classes:].sum(-1))

        interval = bootstrap((*sums, *volumes), statistic, paired=True, vectorized=False)
        yield {"sums": sums.tolist(), "volumes": volumes.tolist(), "interval": interval}


def signed_ranks(rng):
    cases = [rng.normal(0.3, 1, n) for n in (1, 2, 3, 5, 8, 13, 14, 20, 49, 50, 51, 80, 200)]
    cases += [np.round(rng.normal(0.3, 1, n), 1) for n in (4, 7, 10, 13, 14, 20, 40, 60)]  # ties and zeros
    cases += [rng.integers(-2, 4, n).astype(float) for n in (3, 6, 9, 12, 13, 16, 30, 51)]
    cases += [np.abs(rng.normal(1, 0.2, n)) for n in (5, 20, 60)]  # all of one sign
    cases += [np.zeros(5)]
    for differences in cases:
        found = stats.wilcoxon(differences)
        yield {"differences": differences.tolist(), "statistic": float(found.statistic), "p": float(found.pvalue)}


def corrections(rng):
    for n in (1, 2, 3, 6, 11):
        p = rng.uniform(0, 1, n) ** 3
        p[n // 2] = p[0]  # equal ones, too
        yield {"p": p.tolist(), "holm": multipletests(p, method="holm")[1].tolist()}


def friedmans(rng):
    for methods, patients, digits in ((3, 4, 3), (4, 20, 3), (5, 20, 1), (8, 33, 2), (11, 20, 3)):
        rows = np.round(rng.normal(0.8, 0.05, (methods, patients)) + 0.01 * np.arange(methods)[:, None], digits)
        found = stats.friedmanchisquare(*rows)
        mean_ranks = stats.rankdata(rows, axis=0).mean(axis=1)
        yield {
            "rows": rows.tolist(),
            "statistic": float(found.statistic),
            "p": float(found.pvalue),
            "mean_ranks": mean_ranks.tolist(),
        }


def nemenyi(_):
    """Critical values of Nemenyi's test at 5 %: the studentised range of k means with infinite degrees of freedom over √2."""
    for k in range(2, 41):
        yield {"k": k, "critical": float(stats.studentized_range.ppf(0.95, k, np.inf) / np.sqrt(2))}


def summaries(rng):
    for n in (2, 3, 5, 10, 31):
        values = np.round(rng.normal(80, 5, n), 4)
        interval = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
        yield {
            "values": values.tolist(),
            "mean": float(values.mean()),
            "sd": float(values.std(ddof=1)),
            "interval": [float(end) for end in interval],
        }


def main():
    rng = np.random.default_rng(20250301)
    parts = {
        "means": means,
        "class_means": class_means,
        "signed_ranks": signed_ranks,
        "corrections": corrections,
        "friedmans": friedmans,
        "summaries": summaries,
        "nemenyi": nemenyi,
    }
    found = {name: list(part(rng)) for name, part in parts.items()}
    lines = [
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]"
        for name, cases in found.items()
    ]
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(", ".join(f"{len(cases)} {name}" for name, cases in found.items()), f"{OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
