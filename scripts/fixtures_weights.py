#!/usr/bin/env python3
"""Writes tests/fixtures/weights/: small checkpoints as other programs save them, and what PyTorch computes with them.

    python scripts/fixtures_weights.py          write the checkpoints and expected.safetensors
    python scripts/fixtures_weights.py --check  load exported.pth and exported.safetensors there, which the tests hold our
                                                writer to, into PyTorch's network and compare its output

The networks are those of scripts/fixtures_nn.py. The weights of a checkpoint are views of one small storage, so that the
files are small and every offset matters. `scripts/check_interop.py` does the same with networks of full size through
the program. Needs torch, numpy and safetensors.
"""

import argparse
import math
import os
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
from fixtures_nn import DiffusionUNet, UNet, uniform, values  # noqa: E402

FOLDER = Path(__file__).parent.parent / "tests" / "fixtures" / "weights"
WIDTHS = (4, 6, 8, 10, 12)
DIFFUSION = dict(c=32, mult=(1, 2), res=1, attention=(2,), head=32)


@torch.no_grad()
def shared(net, dtype=torch.float32):
    """A state dictionary whose tensors are views of one storage; running variances are above 0."""
    state = net.state_dict()
    most = max(t.numel() for t in state.values())
    store = torch.from_numpy(0.1 * uniform("store", most + 97)).to(dtype)
    out = OrderedDict()
    for k, (name, tensor) in enumerate(state.items()):
        if name.endswith("num_batches_tracked"):
            out[name] = torch.tensor(7 + k)
            continue
        at = (13 * k) % 97
        if name.endswith("running_var"):
            out[name] = 0.5 + store[at:at + tensor.numel()].abs()
        elif tensor.dim() == 4 and tensor.shape[0] > 1 and k % 3 == 0:
            # Stored with its first two axes exchanged: strides that are not row-major.
            a, b, *rest = tensor.shape
            out[name] = store[at:at + tensor.numel()].view(b, a, *rest).transpose(0, 1)
        else:
            out[name] = store[at:at + tensor.numel()].view(tensor.shape)
    return out


def output(net, state, *inputs):
    net = net.double().eval()
    net.load_state_dict({name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()})
    with torch.no_grad():
        found = net(*inputs)
    return found[0] if isinstance(found, tuple) else found


class Whole(torch.nn.Module):
    """What `torch.save(model)` pickles: the class itself."""


class Runs:
    """A pickle that calls a function when it is loaded by Python."""

    def __reduce__(self):
        return os.getpid, ()


def contiguous(state):
    return {name: tensor.clone().contiguous() for name, tensor in state.items()}


def write():
    FOLDER.mkdir(parents=True, exist_ok=True)
    x = values("x", 2, 1, 32, 32)
    expected = {"x": x}
    state = shared(UNet(1, 4, WIDTHS))
    expected["unet"] = output(UNet(1, 4, WIDTHS), state, x)
    # SSL4MIS: the state dictionary itself. UniMatch: under `model`, as its parallel wrapper names it, beside the
    # optimiser's. BCP: under `net`. The older form of files, before PyTorch 1.6.
    torch.save(state, FOLDER / "ssl4mis.pth")
    wrapped = OrderedDict((f"module.{name}", tensor) for name, tensor in state.items())
    momentum = {"state": {0: {"momentum_buffer": state["decoder.out_conv.weight"]}}, "param_groups": [{"lr": 0.01, "params": [0]}]}
    torch.save(
        {"model": wrapped, "optimizer": momentum, "epoch": 12, "previous_best": np.float64(88.9)}, FOLDER / "unimatch.pth"
    )
    torch.save(
        {"net": state, "opt": momentum, "args": argparse.Namespace(lr=0.01)}, FOLDER / "bcp_old_form.pth",
        _use_new_zipfile_serialization=False,
    )
    half = shared(UNet(1, 4, WIDTHS), torch.float16)
    torch.save(half, FOLDER / "half.pt")
    expected["half"] = output(UNet(1, 4, WIDTHS), half, x)
    save_file(contiguous(state), str(FOLDER / "unet.safetensors"))
    three = shared(UNet(1, 3, WIDTHS))
    heads = OrderedDict(three)
    for k, width in enumerate(WIDTHS[3:0:-1], 1):
        heads[f"decoder.out_conv_dp{k}.weight"] = torch.zeros(3, width, 3, 3)
    torch.save(heads, FOLDER / "urpc.pth")
    expected["urpc"] = output(UNet(1, 3, WIDTHS), three, x)

    t = torch.tensor([7, 250])
    small = x[:, :, :16, :16]
    half = shared(DiffusionUNet(**DIFFUSION), torch.float16)
    expected["diffusion"] = output(DiffusionUNet(**DIFFUSION), half, small, t)
    torch.save(half, FOLDER / "diffusion_half.pt")
    # Other choices: convolutions that resample, embeddings that are added, no attention but the middle's.
    plain = dict(DIFFUSION, updown=False, scale_shift=False, mult=(1, 1), res=2, attention=())
    state = shared(DiffusionUNet(**plain))
    expected["plain"] = output(DiffusionUNet(**plain), state, small, t)
    # With learned variance: a second output, which is no noise.
    learned = OrderedDict(state)
    learned["out.2.weight"] = torch.cat([state["out.2.weight"], torch.ones(1, 32, 3, 3)])
    learned["out.2.bias"] = torch.cat([state["out.2.bias"], torch.ones(1)])
    torch.save(learned, FOLDER / "diffusion_variance.pt")
    # Of colour images, which see a grey one three times and predict the mean of three noises.
    colour = OrderedDict(state)
    colour["input_blocks.0.0.weight"] = torch.from_numpy(uniform("rgb", 32 * 27).astype(np.float32)).view(32, 3, 3, 3) / 3
    colour["out.2.weight"] = torch.from_numpy(uniform("out", 6 * 288).astype(np.float32)).view(6, 32, 3, 3) / 17
    colour["out.2.bias"] = torch.arange(6).float()
    torch.save(colour, FOLDER / "diffusion_colour.pt")
    rgb = DiffusionUNet(**plain)
    rgb.input_blocks[0][0] = type(rgb.input_blocks[0][0])(3, 32, 3, padding=1)
    rgb.out[2] = torch.nn.Conv2d(32, 6, 3, padding=1)
    expected["colour"] = output(rgb, colour, small.expand(-1, 3, -1, -1), t)[:, :3].mean(1, keepdim=True)

    # What is refused.
    torch.save({"model": shared(UNet(1, 4, WIDTHS)), "run": Runs()}, FOLDER / "refused_code.pth")
    torch.save(Whole(), FOLDER / "refused_module.pth")
    torch.save({"weight": torch.zeros(3)}, FOLDER / "refused_unknown.pth")
    torch.save({"a": shared(UNet(1, 4, WIDTHS)), "b": shared(UNet(1, 4, WIDTHS))}, FOLDER / "refused_two.pth")
    nan = OrderedDict((name, tensor.clone()) for name, tensor in shared(UNet(1, 4, WIDTHS)).items())
    nan["decoder.out_conv.bias"][2] = math.nan
    torch.save(nan, FOLDER / "refused_nan.pth")
    save_file({name: t.float().contiguous() for name, t in expected.items()}, str(FOLDER / "expected.safetensors"))
    for path in sorted(FOLDER.iterdir()):
        path.chmod(0o644)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def check():
    expected = load_file(str(FOLDER / "expected.safetensors"))
    for name, load in [
        ("exported.pth", lambda p: torch.load(p, weights_only=True)),
        ("exported.safetensors", lambda p: load_file(str(p))),
    ]:
        state = load(FOLDER / name)
        net = UNet(1, 4, WIDTHS).double().eval()
        missing, unexpected = net.load_state_dict(state, strict=False)
        assert not unexpected and all(m.endswith("num_batches_tracked") for m in missing), (missing, unexpected)
        assert name != "exported.pth" or not missing, missing
        with torch.no_grad():
            found = net(expected["x"].double())
        worst = (found - expected["unet"]).abs().max() / expected["unet"].abs().max()
        assert worst < 1e-6, (name, worst)
        print(f"{name}: PyTorch's output differs by at most {worst:.1e} of its largest value")


if __name__ == "__main__":
    torch.manual_seed(0)
    check() if "--check" in sys.argv else write()
