#!/usr/bin/env python3
"""Writes tests/fixtures/nn_*.safetensors: what PyTorch says about the two networks and the feature reduction.

    python scripts/fixtures_nn.py [FOLDER]

The networks are written here from their description, in double precision. Weights are computed from the parameters'
names (`uniform`), and so are inputs, here as in src/nn/testing.rs, so that the fixtures hold outputs and gradients only;
of a parameter's gradient they hold the norm and the product with a fixed vector. Needs torch, numpy and safetensors.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "tests" / "fixtures")


# Values from names -----------------------------------------------------------------------------------------------

def uniform(name, count):
    """`count` values in [-1, 1) that depend on `name` alone: FNV-1a of the name, then splitmix64."""
    start = 0xCBF29CE484222325
    for byte in name.encode():
        start = (start ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(start) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1


def values(name, *shape):
    """Values in [-1, 1), rounded to single precision, as a double tensor."""
    return torch.from_numpy(uniform(name, math.prod(shape)).astype(np.float32)).double().reshape(shape)


@torch.no_grad()
def fill(net):
    """Gives every parameter and buffer the values of its name."""
    for name, tensor in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if tensor.dim() > 1:
            centre, bound = 0.0, math.sqrt(3.0 / math.prod(tensor.shape[1:]))
        elif name.endswith("running_var"):
            centre, bound = 1.0, 0.5
        elif name.endswith("weight"):
            centre, bound = 1.0, 0.2
        else:
            centre, bound = 0.0, 0.1
        new = (centre + bound * uniform(name, tensor.numel())).astype(np.float32)
        tensor.copy_(torch.from_numpy(new).double().reshape(tensor.shape))
    return net


def gradients(net):
    """Names, norms, and products with fixed vectors of all gradients."""
    named = list(net.named_parameters())
    dots = [float((p.grad.flatten() * torch.from_numpy(uniform("v:" + n, p.numel()))).sum()) for n, p in named]
    return {
        "names": torch.tensor(list("\n".join(n for n, _ in named).encode()), dtype=torch.uint8),
        "grad_norm": torch.tensor([float(p.grad.norm()) for _, p in named], dtype=torch.float64),
        "grad_dot": torch.tensor(dots, dtype=torch.float64),
    }


def save(name, tensors):
    """Writes one fixture; doubles become singles, but for the gradients' summaries."""
    keep = ("grad_norm", "grad_dot")
    tensors = {
        k: (v.float() if v.dtype == torch.float64 and k not in keep else v).detach().contiguous()
        for k, v in tensors.items()
    }
    path = FOLDER / f"{name}.safetensors"
    save_file(tensors, str(path))
    path.chmod(0o644)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


# The U-Net of SSL4MIS --------------------------------------------------------------------------------------------

class ConvBlock(nn.Module):
    def __init__(self, i, o, p):
        super().__init__()
        self.conv_conv = nn.Sequential(
            nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.LeakyReLU(), nn.Dropout(p),
            nn.Conv2d(o, o, 3, padding=1), nn.BatchNorm2d(o), nn.LeakyReLU(),
        )

    def forward(self, x):
        return self.conv_conv(x)


class Down(nn.Module):
    def __init__(self, i, o, p):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), ConvBlock(i, o, p))

    def forward(self, x):
        return self.maxpool_conv(x)


class UpBlock(nn.Module):
    def __init__(self, i, skip):
        super().__init__()
        self.conv1x1 = nn.Conv2d(i, skip, 1)
        self.conv = ConvBlock(2 * skip, skip, 0.0)

    def forward(self, x, skip):
        up = F.interpolate(self.conv1x1(x), scale_factor=2, mode="bilinear", align_corners=True)
        return self.conv(torch.cat([skip, up], 1))


class UNet(nn.Module):
    def __init__(self, channels, classes, widths=(16, 32, 64, 128, 256), p=(0.0,) * 5):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.in_conv = ConvBlock(channels, widths[0], p[0])
        for k in range(1, 5):
            setattr(self.encoder, f"down{k}", Down(widths[k - 1], widths[k], p[k]))
        self.decoder = nn.Module()
        for k in range(1, 5):
            setattr(self.decoder, f"up{k}", UpBlock(widths[5 - k], widths[4 - k]))
        self.decoder.out_conv = nn.Conv2d(widths[0], classes, 3, padding=1)

    def forward(self, x):
        skips = [self.encoder.in_conv(x)]
        for k in range(1, 5):
            skips.append(getattr(self.encoder, f"down{k}")(skips[-1]))
        x = skips.pop()
        for k in range(1, 5):
            x = getattr(self.decoder, f"up{k}")(x, skips.pop())
        return self.decoder.out_conv(x)


def unet():
    net = fill(UNet(1, 4).double())
    x, target = values("x", 2, 1, 32, 32).requires_grad_(), values("target", 2, 4, 32, 32)
    out = {"eval": net.eval()(x)}
    net.train()
    out["train"] = net(x)
    F.mse_loss(out["train"], target).backward()
    out |= gradients(net) | {
        "dx": x.grad,
        "running_mean": net.decoder.up4.conv.conv_conv[5].running_mean,
        "running_var": net.encoder.down4.maxpool_conv[1].conv_conv[1].running_var,
    }
    save("nn_unet", out)


# The U-Net of guided-diffusion -----------------------------------------------------------------------------------

class ResBlock(nn.Module):
    def __init__(self, i, emb, o, scale_shift, resample=None):
        super().__init__()
        self.scale_shift, self.resample = scale_shift, resample
        self.in_layers = nn.Sequential(nn.GroupNorm(32, i), nn.SiLU(), nn.Conv2d(i, o, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * o if scale_shift else o))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, o), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(o, o, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if i == o else nn.Conv2d(i, o, 1)

    def forward(self, x, emb):
        norm, act, conv = self.in_layers
        h = act(norm(x))
        if self.resample:
            h, x = self.resample(h), self.resample(x)
        h = conv(h)
        e = self.emb_layers(emb)[:, :, None, None]
        norm, act, drop, conv = self.out_layers
        if self.scale_shift:
            scale, shift = e.chunk(2, 1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + e)
        return self.skip_connection(x) + conv(drop(act(h)))


class Attention(nn.Module):
    def __init__(self, c, heads):
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.proj_out = nn.GroupNorm(32, c), nn.Conv1d(c, 3 * c, 1), nn.Conv1d(c, c, 1)

    def forward(self, x, _):
        b, c, h, w = x.shape
        flat = x.reshape(b, c, h * w)
        # Heads first ("legacy"): each head's q, k and v lie together.
        q, k, v = self.qkv(self.norm(flat)).reshape(b, self.heads, 3, c // self.heads, h * w).unbind(2)
        weight = torch.softmax(torch.einsum("nhct,nhcs->nhts", q, k) / math.sqrt(c // self.heads), -1)
        a = torch.einsum("nhts,nhcs->nhct", weight, v).reshape(b, c, h * w)
        return (flat + self.proj_out(a)).reshape(x.shape)


class Resample(nn.Module):
    def __init__(self, c, up):
        super().__init__()
        if up:
            self.conv = nn.Conv2d(c, c, 3, padding=1)
        else:
            self.op = nn.Conv2d(c, c, 3, stride=2, padding=1)

    def forward(self, x, _):
        if hasattr(self, "op"):
            return self.op(x)
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Conv(nn.Conv2d):
    def forward(self, x, _):
        return super().forward(x)


class DiffusionUNet(nn.Module):
    def __init__(self, c, mult, res, attention, head, updown=True, scale_shift=True):
        super().__init__()
        self.c, emb = c, 4 * c

        def resample(up):
            if not updown:
                return Resample(ch, up)
            f = (lambda x: F.interpolate(x, scale_factor=2, mode="nearest")) if up else (lambda x: F.avg_pool2d(x, 2))
            return ResBlock(ch, emb, ch, scale_shift, f)

        self.time_embed = nn.Sequential(nn.Linear(c, emb), nn.SiLU(), nn.Linear(emb, emb))
        ch, factor = c * mult[0], 1
        self.input_blocks, chans = nn.ModuleList([nn.ModuleList([Conv(1, ch, 3, padding=1)])]), [ch]
        for level, m in enumerate(mult):
            for _ in range(res):
                layers = [ResBlock(ch, emb, c * m, scale_shift)]
                ch = c * m
                if factor in attention:
                    layers.append(Attention(ch, ch // head))
                self.input_blocks.append(nn.ModuleList(layers))
                chans.append(ch)
            if level + 1 < len(mult):
                self.input_blocks.append(nn.ModuleList([resample(False)]))
                chans.append(ch)
                factor *= 2
        self.middle_block = nn.ModuleList(
            [ResBlock(ch, emb, ch, scale_shift), Attention(ch, ch // head), ResBlock(ch, emb, ch, scale_shift)]
        )
        self.output_blocks = nn.ModuleList()
        for level, m in reversed(list(enumerate(mult))):
            for i in range(res + 1):
                layers = [ResBlock(ch + chans.pop(), emb, c * m, scale_shift)]
                ch = c * m
                if factor in attention:
                    layers.append(Attention(ch, ch // head))
                if level and i == res:
                    layers.append(resample(True))
                    factor //= 2
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(nn.GroupNorm(32, ch), nn.SiLU(), nn.Conv2d(ch, 1, 3, padding=1))

    def forward(self, x, t):
        half = self.c // 2
        # The reference computes frequencies in single precision.
        freqs = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
        args = t[:, None].float() * freqs
        emb = self.time_embed(torch.cat([args.cos(), args.sin()], 1).to(x.dtype))
        skips, features = [], []
        for block in self.input_blocks:
            for layer in block:
                x = layer(x, emb)
            skips.append(x)
        for layer in self.middle_block:
            x = layer(x, emb)
        for block in self.output_blocks:
            x = torch.cat([x, skips.pop()], 1)
            for layer in block:
                x = layer(x, emb)
            features.append(x)
        return self.out(x), features


def diffusion(name, side, batch, blocks, pick, **settings):
    net = fill(DiffusionUNet(**settings).double())
    x, target = values("x", batch, 1, side, side).requires_grad_(), values("target", batch, 1, side, side)
    t = torch.tensor([7, 999, 250][:batch])
    y, features = net(x, t)
    F.mse_loss(y, target).backward()
    out = {"t": t, "y": y, "dx": x.grad} | gradients(net)
    out["channels"] = torch.tensor([f.shape[1] for f in features])
    out["sides"] = torch.tensor([f.shape[2] for f in features])
    for b in blocks:
        out[f"block{b}"] = features[b][:, ::pick]
    save(name, out)


# Numbers, schedule, reduction ------------------------------------------------------------------------------------

def count(net):
    return sum(p.numel() for p in net.parameters())


def counts():
    paper = dict(mult=(1, 1, 2, 2, 4, 4), res=2, attention=(8, 16, 32))
    with torch.device("meta"):
        out = {
            "unet_1": count(UNet(1, 4)),
            "unet_30": count(UNet(30, 4)),
            "diffusion_256": count(DiffusionUNet(256, head=64, **paper)),
            "diffusion_64": count(DiffusionUNet(64, head=64, **paper)),
            "diffusion_32": count(DiffusionUNet(32, head=32, **paper)),
            "diffusion_64_conv": count(DiffusionUNet(64, head=64, updown=False, scale_shift=False, **paper)),
        }
    print(out)
    assert out["unet_1"] == 1_813_764
    assert round((out["unet_1"] + out["unet_30"]) / 1e3) == 3_632
    assert round(out["diffusion_256"] / 1e5) == 5_528
    assert round(out["diffusion_64"] / 1e5) == 346
    save("nn_counts", {k: torch.tensor(v) for k, v in out.items()})


def reduction():
    """Up-sample, concatenate, convolve, as the reference does it."""
    shapes = [(6, 4), (4, 8), (3, 16)] * 2
    maps = [values(f"map{k}", 2, c, s, s) for k, (c, s) in enumerate(shapes)]
    total, dim, side = sum(c for c, _ in shapes), 5, 16
    conv = fill(nn.Conv2d(total, dim, 1).double())
    up = [F.interpolate(m, size=(side, side), mode="bilinear", align_corners=False) for m in maps]
    y, target = conv(torch.cat(up, 1)), values("target", 2, dim, side, side)
    F.mse_loss(y, target).backward()
    save("nn_reduction", {"y": y, "dw": conv.weight.grad, "db": conv.bias.grad})


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with torch.no_grad():
        counts()
    unet()
    diffusion("nn_diffusion", 16, 3, range(6), 8, c=32, mult=(1, 2), res=2, attention=(2,), head=32)
    diffusion("nn_diffusion_conv", 16, 2, range(4), 8, c=32, mult=(1, 2), res=1, attention=(1, 2), head=16,
              updown=False, scale_shift=False)
    diffusion("nn_diffusion_smoke", 32, 1, (2, 4, 6), 8, c=32, mult=(1, 1, 2, 2, 4, 4), res=2,
              attention=(8, 16, 32), head=32)
    reduction()
