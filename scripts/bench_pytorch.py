"""Times PyTorch's U-Net training step and ours in turn, on this machine with the same number of threads.

The network and its step are those of SSL4MIS (code/networks/unet.py): five stages of two 3x3 convolutions with batch
norm, LeakyReLU and dropout, 1x1 and bilinear up-sampling, 1.81 M parameters; half cross-entropy, half Dice; SGD.
Ours is `cargo bench --bench ops -- step`. Rounds alternate, so that other work on the machine hits both alike.

    python scripts/bench_pytorch.py [--threads N] [--rounds N] [--cases 4x256,8x64]
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
CHANNELS = [16, 32, 64, 128, 256]
DROPOUT = [0.05, 0.1, 0.2, 0.3, 0.5]


def conv_block(i, o, p):
    return nn.Sequential(
        nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.LeakyReLU(), nn.Dropout(p),
        nn.Conv2d(o, o, 3, padding=1), nn.BatchNorm2d(o), nn.LeakyReLU(),
    )


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        inputs = [1, *CHANNELS]
        self.down = nn.ModuleList(conv_block(inputs[k], CHANNELS[k], DROPOUT[k]) for k in range(5))
        self.reduce = nn.ModuleList(nn.Conv2d(CHANNELS[k + 1], CHANNELS[k], 1) for k in range(4))
        self.up = nn.ModuleList(conv_block(2 * CHANNELS[k], CHANNELS[k], 0.0) for k in range(4))
        self.out = nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x):
        skips = []
        for k, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if k else x)
            skips.append(x)
        for k in (3, 2, 1, 0):
            x = F.interpolate(self.reduce[k](x), scale_factor=2, mode="bilinear", align_corners=True)
            x = self.up[k](torch.cat([skips[k], x], 1))
        return self.out(x)


def dice(logits, target, eps=1e-5):
    """SSL4MIS's DiceLoss (code/utils/losses.py), softmax inside."""
    s = torch.softmax(logits, 1)
    loss = 0.0
    for k in range(4):
        t, p = (target == k).float(), s[:, k]
        loss = loss + 1 - (2 * (p * t).sum() + eps) / ((p * p).sum() + (t * t).sum() + eps)
    return loss / 4


class Step:
    def __init__(self, batch, side):
        torch.manual_seed(0)
        self.net = UNet()
        assert sum(p.numel() for p in self.net.parameters()) == 1_813_764
        self.optimiser = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        self.images = torch.randn(batch, 1, side, side)
        self.target = torch.randint(0, 4, (batch, side, side))

    def run(self):
        start = time.perf_counter()
        logits = self.net(self.images)
        loss = 0.5 * (F.cross_entropy(logits, self.target) + dice(logits, self.target))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return time.perf_counter() - start


def ours(case, threads, target):
    """Seconds per step of one run of the bench."""
    env = dict(os.environ, RAYON_NUM_THREADS=str(threads))
    command = ["cargo", "bench", "--quiet", "--bench", "ops", "--", "--noplot", f"step/unet_{case}"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    sample = json.loads((target / "criterion" / "step" / f"unet_{case}" / "new" / "sample.json").read_text())
    return [t / n * 1e-9 for t, n in zip(sample["times"], sample["iters"])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default="4x256,8x64", help="of 4x256 and 8x64 (batch x side)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps"], cwd=ROOT, check=True, capture_output=True
    )
    target = Path(json.loads(metadata.stdout)["target_directory"])
    print(f"U-Net training step, {args.threads} threads, {args.rounds} rounds in turn; times in ms")
    print(f"{'case':>8} {'ours: min':>10} {'median':>8} {'PyTorch: min':>13} {'median':>8} {'ratio: min':>11} {'median':>8}")
    for case in args.cases.split(","):
        batch, side = map(int, case.split("x"))
        step = Step(batch, side)
        step.run()
        their_times, our_times = [], []
        for _ in range(args.rounds):
            start = time.perf_counter()
            while time.perf_counter() - start < 5:
                their_times.append(step.run())
            our_times += ours(case, args.threads, target)
        a, b = [(min(t) * 1e3, statistics.median(t) * 1e3) for t in (our_times, their_times)]
        print(f"{case:>8} {a[0]:10.1f} {a[1]:8.1f} {b[0]:13.1f} {b[1]:8.1f} {a[0] / b[0]:11.2f} {a[1] / b[1]:8.2f}", flush=True)


if __name__ == "__main__":
    main()
