#!/usr/bin/env python3
"""Counts operations as PyTorch's FlopCounterMode does: what src/cost/tests.rs holds the program's own counts to.

    python scripts/count_flops.py

Each line is the case, the parameters, and the operations of a forward pass and of a forward and backward pass. The
networks are those of scripts/fixtures_nn.py, run on tensors that have a shape and no values. Needs torch.
"""

import sys
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))
from fixtures_nn import DiffusionUNet, UNet  # noqa: E402


def count(name, build, inputs, *more):
    """`inputs`: (shape, whether its gradient is wanted)."""
    with FakeTensorMode():
        net = build()
        x = torch.empty(inputs[0], requires_grad=inputs[1])
        more = [torch.empty(shape) for shape in more]
        with FlopCounterMode(display=False) as forward:
            net(x, *more)
        with FlopCounterMode(display=False) as both:
            y = net(x, *more)
            (y[0] if isinstance(y, tuple) else y).sum().backward()
    parameters = sum(p.numel() for p in net.parameters())
    print(f"{name:40} {parameters:>12} {forward.get_total_flops():>18} {both.get_total_flops():>18}")


def main():
    unet = lambda channels: (lambda: UNet(channels, 4))
    count("unet 1, batch 4, 256", unet(1), ((4, 1, 256, 256), False))
    count("unet 1, batch 8, 64", unet(1), ((8, 1, 64, 64), False))
    count("unet 30, batch 8, 128, input gradient", unet(30), ((8, 30, 128, 128), True))
    mult = (1, 1, 2, 2, 4, 4)
    models = {
        "64 channels": dict(c=64, mult=mult, res=2, attention=(8, 16, 32), head=64),
        "32 channels": dict(c=32, mult=mult, res=2, attention=(8, 16, 32), head=32),
        "256 channels": dict(c=256, mult=mult, res=2, attention=(8, 16, 32), head=64),
        "convolutions, added time": dict(
            c=64, mult=(1, 2, 2), res=1, attention=(2, 4), head=32, updown=False, scale_shift=False
        ),
    }
    for name, model in models.items():
        batch, side = (1, 256) if name.startswith("256") else (4, 64)
        build = lambda model=model: DiffusionUNet(**model)
        count(f"diffusion {name}, batch {batch}, {side}", build, ((batch, 1, side, side), False), (batch,))


if __name__ == "__main__":
    main()
