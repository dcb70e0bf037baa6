#!/usr/bin/env python3
"""Times PyTorch's step and ours in turn, on this machine with the same number of threads, each in its own process.

    python scripts/bench_pytorch.py [--cases unet,mcsd,...] [--threads 1,2] [--rounds N] [--seconds S] [--json]

Cases, each the same network (the number of parameters is compared) and the same work as the case of `sweep bench`:

unet                 training step of SSL4MIS's U-Net: half cross-entropy, half Dice; SGD with momentum and weight decay
mcsd                 MCSD's step (specs of the method in src/methods/mcsd.rs): two U-Nets and the learned 1x1 reduction at
                     the maps' own resolutions, moved by grid_sample; maps in memory, 64-channel diffusion model
mcsd-upsampled       the same with the reduction as the reference has it: up-sample, concatenate, convolve. Ours is `mcsd`
diffusion            training step of guided-diffusion's U-Net with 64 channels: AdamW and the moving average
unet-inference       evaluation mode, class probabilities
diffusion-inference  evaluation mode
features             3 steps x 3 blocks of the 256-channel model for one slice: up-sample, concatenate, convolve to 30
diffusion-256        as diffusion, with the paper's 256 channels; only where it is named, as is
extraction           the decoder blocks 2, 4 and 6 of that model at one diffusion step, read back

PyTorch runs eager, in float32, with its defaults; `--channels-last` gives its convolutions that layout. On a GPU
(`--device cuda`; scripts/gpu_check.py calls it so) there are `--precision tf32|bf16` and `--compile` beside. Time is the
median step, over rounds that alternate. Memory is of the process (VmHWM): `total`, and `above` what it was after the
imports and before anything was built. Ours are the same two. Beside them stand the counts of the program (`sweep bench`):
operations of the direct way and of Winograd's, bytes, and the floor, the larger of the latter two at the rates of a large
matrix product and a large copy with the same threads. Needs torch, and the program (`cargo build --release`).
"""

import argparse
import gc
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# case: ((batch, side), ...), ours
CASES = {
    "unet": ([(4, 256), (8, 64)], "unet"),
    "mcsd": ([(4, 128)], "mcsd"),
    "mcsd-upsampled": ([(4, 128)], "mcsd"),
    "diffusion": ([(4, 64)], "diffusion"),
    "unet-inference": ([(4, 256), (8, 64)], "unet-inference"),
    "diffusion-inference": ([(4, 64)], "diffusion-inference"),
    "features": ([(1, 256)], "features"),
    "diffusion-256": ([(4, 256)], "diffusion-256"),
    "extraction": ([(8, 256)], "extraction"),
}
# What a small machine has no memory for.
LARGE = ("diffusion-256", "extraction")
DROPOUT = (0.05, 0.1, 0.2, 0.3, 0.5)


def memory(field):
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field + ":"))


# PyTorch's side, in a process of its own -------------------------------------------------------------------------

def child(args):
    sys.path.insert(0, str(Path(__file__).parent))
    import torch
    import torch.nn.functional as F
    from torch import nn

    # fixtures_nn also writes files, which nobody asks for here: what only that needs may be missing.
    for missing in ("numpy", "safetensors", "safetensors.torch"):
        try:
            importlib.import_module(missing)
        except ImportError:
            sys.modules[missing] = types.ModuleType(missing)
            sys.modules[missing].save_file = None

    from fixtures_nn import DiffusionUNet, UNet

    torch.set_num_threads(args.threads_child)
    torch.set_default_device(args.device)
    on_gpu = args.device != "cpu"
    if on_gpu:
        exact = args.precision == "f32"
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not exact
        torch.backends.cudnn.benchmark = True
    finish = torch.cuda.synchronize if on_gpu else lambda: None
    # Steps between two waits for a GPU, as in a training.
    at_once = 10 if on_gpu else 1
    torch.manual_seed(0)
    # One small product, so that the threads are there.
    torch.ones(256, 256) @ torch.ones(256, 256)
    before = memory("VmRSS")
    batch, side = args.batch, args.size

    def layout(net):
        net = net.to(memory_format=torch.channels_last) if args.channels_last else net
        return torch.compile(net) if args.compile else net

    def dice(logits, target, mask=None, eps=1e-5):
        """SSL4MIS's Dice over the batch, class by class; where `mask` is given, over its pixels alone."""
        s = torch.softmax(logits, 1)
        loss = 0.0
        for k in range(4):
            t, p = (target == k).float(), s[:, k]
            if mask is not None:
                t, p = t * mask, p * mask
            loss = loss + 1 - (2 * (p * t).sum() + eps) / ((p * p).sum() + (t * t).sum() + eps)
        return loss / 4

    def supervised(logits, target):
        return 0.5 * (F.cross_entropy(logits, target) + dice(logits, target))

    def sgd(parameters):
        return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)

    def unet():
        net = layout(UNet(1, 4, p=DROPOUT))
        optimiser = sgd(net.parameters())
        images, target = torch.rand(batch, 1, side, side), torch.randint(0, 4, (batch, side, side))

        def step():
            loss = supervised(net(images), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

        return [net], step

    def unet_inference():
        net = layout(UNet(1, 4, p=DROPOUT)).eval()
        images = torch.rand(batch, 1, side, side)

        @torch.inference_mode()
        def step():
            torch.softmax(net(images), 1)

        return [net], step

    def plain_diffusion_net(base):
        net = DiffusionUNet(base, (1, 1, 2, 2, 4, 4), 2, (8, 16, 32), 64)
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.1
        return net

    def diffusion_net(base=64):
        return layout(plain_diffusion_net(base))

    def diffusion(base=64):
        net, average = diffusion_net(base), diffusion_net(base)
        average.requires_grad_(False)
        optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.0)
        images = torch.rand(batch, 1, side, side)
        alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)

        def step():
            t, noise = torch.randint(0, 1000, (batch,)), torch.randn(batch, 1, side, side)
            a = alpha_bar[t][:, None, None, None]
            predicted, _ = net(a.sqrt() * (2 * images - 1) + (1 - a).sqrt() * noise, t)
            loss = F.mse_loss(predicted, noise)
            optimiser.zero_grad()
            del predicted, _
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                for target, source in zip(average.parameters(), net.parameters()):
                    target.mul_(0.9999).add_(source, alpha=1 - 0.9999)

        return [net], step

    def diffusion_inference():
        net = diffusion_net().eval()
        x, t = torch.rand(batch, 1, side, side), torch.full((batch,), 150)

        @torch.inference_mode()
        def step():
            net(x, t)

        return [net], step

    class Extractor(nn.Module):
        """The decoder up to block 6; the outputs of blocks 2, 4 and 6."""

        def __init__(self, net):
            super().__init__()
            self.net = net
            net.output_blocks = net.output_blocks[:7]
            net.out = nn.Identity()

        def forward(self, x, t):
            _, features = self.net(x, t)
            return [features[block] for block in (2, 4, 6)]

    def extraction():
        net = layout(Extractor(plain_diffusion_net(256))).eval()
        images, noise = torch.rand(batch, 1, side, side), torch.randn(1, 1, side, side)
        t = torch.full((batch,), 150)

        @torch.inference_mode()
        def step():
            for feature in net(0.8865 * (2 * images - 1) + 0.4627 * noise, t):
                feature.float().cpu()

        return [net], step

    def shapes(base):
        """Channels and side of the decoder blocks 2, 4 and 6 at three diffusion steps."""
        return 3 * [(4 * base, side // 16), (4 * base, side // 16), (2 * base, side // 8)]

    def reduce_native(weight, bias, maps, grid, inside):
        """The 1x1 convolution at each map's own size, the sums of one size moved to the image's grid."""
        sums, start = {}, 0
        for value in maps:
            c, side_of = value.shape[1], value.shape[2]
            part = F.conv2d(value, weight[:, start : start + c], bias if start == 0 else None)
            sums[side_of] = sums[side_of] + part if side_of in sums else part
            start += c
        moved = [F.grid_sample(s, grid, padding_mode="border", align_corners=False) for s in sums.values()]
        return sum(moved) * inside

    def reduce_upsampled(weight, bias, maps, *_):
        large = [F.interpolate(m, (side, side), mode="bilinear", align_corners=False) for m in maps]
        return F.conv2d(torch.cat(large, 1), weight, bias)

    def mcsd(reduce):
        f, g = layout(UNet(1, 4, p=DROPOUT)), layout(UNet(30, 4, p=DROPOUT))
        widths = shapes(64)
        w = nn.Conv2d(sum(c for c, _ in widths), 30, 1)
        optimiser = sgd([*f.parameters(), *g.parameters(), *w.parameters()])
        image = lambda: torch.rand(batch, 1, side, side)
        x, u, v, s = image(), image(), image(), [image(), image()]
        y = torch.randint(0, 4, (batch, side, side))
        pasted = [torch.rand(batch, side, side) < 0.3 for _ in range(2)]
        maps = [[torch.rand(batch, c, h, h) for c, h in widths] for _ in range(2)]
        centres = (torch.arange(side) + 0.5) / side * 2 - 1
        grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1).expand(batch, -1, -1, -1)
        grids, insides = [grid.contiguous()] * 2, [torch.ones(batch, 1, side, side)] * 2
        tau = 0.9

        def pseudo(logits):
            c, label = torch.softmax(logits.detach(), 1).max(1)
            return label, c

        def consistency(logits, label, confidence):
            return dice(logits, label, (confidence >= tau).float())

        def step():
            f.eval()
            with torch.no_grad():
                label_v, c_v = pseudo(f(v))
            f.train()
            f_x, f_u = f(torch.cat([x, u])).split(batch)
            f_s = f(torch.cat(s)).split(batch)
            both = [torch.cat(pair) for pair in zip(*maps)]
            phi = reduce(w.weight, w.bias, both, torch.cat(grids), torch.cat(insides))
            del both
            g_x, g_u = g(phi).split(batch)
            (label_f, c_f), (label_g, c_g) = pseudo(f_u), pseudo(g_u)
            image_loss = 0.0
            for logits, mask in zip(f_s, pasted):
                label, c = torch.where(mask, label_v, label_f), torch.where(mask, c_v, c_f)
                image_loss = image_loss + 0.5 * consistency(logits, label, c)
            feature_loss = 0.5 * (consistency(g_u, label_f, c_f) + consistency(f_u, label_g, c_g))
            loss = 0.5 * (supervised(f_x, y) + 0.5 * image_loss + 0.5 * feature_loss) + 0.5 * supervised(g_x, y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

        return [f, g, w], step

    def features():
        widths = shapes(256)
        w = nn.Conv2d(sum(c for c, _ in widths), 30, 1)
        maps = [torch.rand(batch, c, h, h) for c, h in widths]

        @torch.inference_mode()
        def step():
            reduce_upsampled(w.weight, w.bias, maps)

        return [w], step

    build = {
        "unet": unet,
        "mcsd": lambda: mcsd(reduce_native),
        "mcsd-upsampled": lambda: mcsd(reduce_upsampled),
        "diffusion": diffusion,
        "unet-inference": unet_inference,
        "diffusion-inference": diffusion_inference,
        "features": features,
        "diffusion-256": lambda: diffusion(256),
        "extraction": extraction,
    }[args.child]
    nets, plain = build()

    def step():
        with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
            plain()

    for _ in range(5 if on_gpu else 2):
        step()
    finish()
    gc.collect()
    times, start = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < args.seconds:
        one = time.perf_counter()
        for _ in range(at_once):
            step()
        finish()
        times.append((time.perf_counter() - one) / at_once)
    parameters = sum(p.numel() for net in nets for p in net.parameters())
    found = {
        "median": statistics.median(times), "min": min(times), "steps": len(times), "parameters": parameters,
        "memory_before": before, "memory_peak": memory("VmHWM"),
    }
    if on_gpu:
        found["gpu_peak"] = torch.cuda.max_memory_allocated()
    print(json.dumps(found))


# Both sides in turn ----------------------------------------------------------------------------------------------

def run(command, env=None):
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **(env or {})})
    if done.returncode:
        raise SystemExit(done.stderr or f"{command} failed")
    return json.loads(done.stdout)


def theirs(name, batch, side, threads, args):
    command = [sys.executable, __file__, "--child", name, "--batch", str(batch), "--size", str(side)]
    command += ["--threads-child", str(threads), "--seconds", str(args.seconds)]
    command += ["--channels-last"] if args.channels_last else []
    return run(command, {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)})


def ours(name, batch, side, threads, args):
    command = [args.sweep, "bench", name, "--batch", str(batch), "--size", str(side), "--child"]
    return run([*command, "--seconds", str(args.seconds)], {"RAYON_NUM_THREADS": str(threads)})


def rates(threads, args):
    """Operations and bytes a second of this machine, as the program measures them."""
    command = [args.sweep, "bench", "augment", "--seconds", "0", "--threads", str(threads), "--json"]
    return run(command)["rates"]


def floor(own, rates):
    """Milliseconds that the operations and bytes of our step take at these rates."""
    return 1e3 * max(own["winograd"] / rates["flops"], own["bytes"] / rates["bytes"])


def compare(name, batch, side, threads, args):
    """Rounds in turn: (theirs, ours), each the medians over its rounds; and the ratios of ours to theirs."""
    sides = ([], [])
    for _ in range(args.rounds):
        sides[0].append(theirs(name, batch, side, threads, args))
        sides[1].append(ours(CASES[name][1], batch, side, threads, args))
    found = []
    for rounds in sides:
        found.append({
            "median": statistics.median(r["median"] for r in rounds),
            "min": min(r["min"] for r in rounds),
            "parameters": rounds[0]["parameters"],
            "total": max(r["memory_peak"] for r in rounds),
            "above": max(r["memory_peak"] - r["memory_before"] for r in rounds),
        })
    torch, own = found
    own |= {count: sides[1][0][count] for count in ("flops", "winograd", "bytes")}
    # Of the extraction's model PyTorch holds what it computes with alone.
    same = name == "extraction" or torch["parameters"] == own["parameters"]
    assert same, f"{name}: {torch['parameters']} and {own['parameters']} parameters"
    ratios = {key: own[key] / torch[key] for key in ("median", "min", "total", "above")}
    return {"case": name, "batch": batch, "size": side, "threads": threads, "torch": torch, "ours": own, "ratio": ratios}


HEAD = ("case", "batch", "threads", "PyTorch", "ours", "ratio", "of min", "floor", "GFLOP", "Winograd", "GB",
        "PyTorch MB", "ours MB", "above", "total")
ROW = "{:20} {:>7} {:>7} {:>9} {:>9} {:>6} {:>6} {:>8} {:>8} {:>8} {:>6} {:>15} {:>12} {:>6} {:>6}"


def row(found):
    torch, own, ratio = found["torch"], found["ours"], found["ratio"]
    mb = lambda side: f"{side['above'] / 1e6:.0f} of {side['total'] / 1e6:.0f}"
    return ROW.format(
        found["case"], f"{found['batch']}x{found['size']}", found["threads"], f"{torch['median'] * 1e3:.1f}",
        f"{own['median'] * 1e3:.1f}", f"{ratio['median']:.2f}", f"{ratio['min']:.2f}", f"{found['floor']:.1f}",
        f"{own['flops'] / 1e9:.2f}", f"{own['winograd'] / 1e9:.2f}", f"{own['bytes'] / 1e9:.2f}", mb(torch), mb(own),
        f"{ratio['above']:.2f}", f"{ratio['total']:.2f}",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--sweep", default=str(target / "release" / "sweep"), help="the program")
    parser.add_argument("--cases", default=",".join(n for n in CASES if n not in LARGE), help="of " + ", ".join(CASES))
    parser.add_argument("--threads", default="1,2", help="comma-separated")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each side in each round")
    parser.add_argument("--channels-last", action="store_true", help="PyTorch's convolutions in that layout")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", default="cpu", help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="f32", choices=("f32", "tf32", "bf16"), help=argparse.SUPPRESS)
    parser.add_argument("--compile", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--threads-child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args)
    names = args.cases.split(",")
    unknown = [name for name in names if name not in CASES]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    found = []
    all_threads = [int(threads) for threads in args.threads.split(",")]
    at_best = {threads: rates(threads, args) for threads in all_threads}
    if not args.json:
        print("Times in ms, medians; memory at the peak, `above` the start of all; ratios are ours / PyTorch.")
        print(ROW.format(*HEAD))
    for name in names:
        for batch, side in CASES[name][0]:
            for threads in all_threads:
                one = compare(name, batch, side, threads, args)
                one |= {"rates": at_best[threads], "floor": floor(one["ours"], at_best[threads])}
                found.append(one)
                if not args.json:
                    print(row(found[-1]), flush=True)
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
