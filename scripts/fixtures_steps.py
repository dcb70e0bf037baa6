#!/usr/bin/env python3
"""Whole steps of every method, computed in PyTorch from their definitions: images in, loss and gradients out.

Writes tests/fixtures/methods_steps.safetensors. For each case: the loss, and of the gradient of every weight and of every
running statistic after the forward passes the norm and the product with a fixed vector, in the order of their names.
Networks, images and labels are computed from names (fixtures_nn.py), here as in src/methods/tests/steps.rs; noise, masks
and boxes come from the program's random streams (streams.py). In double precision, without dropout but for what a method
drops itself. Needs torch, numpy, scipy and safetensors.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
import fixtures_methods as of_losses  # noqa: E402
import fixtures_nn as of_nn  # noqa: E402
from fixtures_methods import C, dice, half_dice, pseudo, ramp, ssim, supervised  # noqa: E402
from streams import Stream, dropout, stream_seed  # noqa: E402

B, SIDE, WIDTHS = 4, 32, (4, 4, 8, 8, 8)
# Confidence threshold; seeds of the training and of the tape; where the training stands.
TAU, SEED, TAPE, STEP, STEPS = 0.6, 9, 5, 60, 100
# Begins the names of inputs; with this one rounding errors decide nothing: no pseudo-label (see `sure`), and
# nothing at a kink of the networks (see `main`).
SET = "a"
# What heads are multiplied with.
SHARP, CORRECTOR = 4, 1.65
# What running variances are multiplied with.
SPREAD = 0.125
# Maps of diffusion features, (channels, side), and what they are reduced to.
MAPS, DIM = ((6, 4), (4, 8), (6, 4), (4, 8)), 5


# Inputs from names -----------------------------------------------------------------------------------------------

DTYPE = torch.float64


def tensor(array):
    return torch.from_numpy(array).to(DTYPE)


def values(name, *shape):
    return of_nn.values(name, *shape).to(DTYPE)


def image(name):
    return 0.5 + 0.5 * values(SET + name, B, 1, SIDE, SIDE)


def classes(name):
    return (2 * (of_nn.values(SET + name, B, SIDE, SIDE) + 1)).floor().to(torch.uint8)


def boxes():
    """Where the partner is pasted into the two strong views."""
    pasted = torch.zeros(2, B, SIDE, SIDE, dtype=torch.bool)
    pasted[0, 0, 4:20, 6:30] = pasted[0, 2, 10:32, 0:12] = pasted[1, 1, 2:9, 3:31] = pasted[1, 2, 0:16, 16:32] = True
    return pasted


def maps(name):
    return [values(f"{SET}{name}/map{k}", B, c, h, h) for k, (c, h) in enumerate(MAPS)]


def grid(name):
    """Positions in pixels, some outside."""
    return 14 + 18 * values(f"{SET}{name}/grid", B, SIDE, SIDE, 2)


def fill(**parts):
    """A container of networks with the weights of their names; sharper heads, so that some predictions are sure."""
    net = nn.Module()
    for name, part in parts.items():
        setattr(net, name, part)
    of_nn.fill(net.double()).to(DTYPE).train()
    with torch.no_grad():
        for name, tensor in net.named_parameters():
            if name.endswith("out_conv.weight"):
                tensor.mul_(CORRECTOR if name.startswith("corrector") else SHARP)
        # So that predictions in evaluation mode are sure too.
        for name, tensor in net.named_buffers():
            if name.endswith("running_var"):
                tensor.mul_(SPREAD)
    return net


def unet(channels=1):
    return of_nn.UNet(channels, C, WIDTHS)


def logits_of(net, images):
    """Without gradient."""
    with torch.no_grad():
        return net(images)


def sure(logits, *thresholds):
    """Pseudo-labels that rounding does not change: no class is nearly as probable, no confidence nearly a threshold."""
    p = logits.detach().softmax(1)
    best = p.topk(2, 1).values
    assert (best[:, 0] - best[:, 1]).min() > 2e-6, "a tie"
    for t in thresholds:
        assert (best[:, 0] - t).abs().min() > 2e-6, "on the threshold"
    return pseudo(p)


def against(logits, label, confidence):
    return dice(logits.softmax(1), label, confidence >= TAU)


def dropped(feature, draw):
    """Channels of images dropped with probability one half, by the `draw`-th mask of the tape."""
    factors = tensor(dropout(TAPE, draw, feature.shape[0] * feature.shape[1], 0.5))
    return feature * factors.reshape(*feature.shape[:2], 1, 1)


def decode(net, features):
    h = features[4]
    for k in range(1, 5):
        h = getattr(net.decoder, f"up{k}")(h, features[4 - k])
    return h, net.decoder.out_conv(h)


# Methods: each returns the networks and the loss of one step --------------------------------------------------------

def only_supervised(x, y, kind):
    net = fill(f=unet())
    return net, supervised(net.f(x), y, kind)


def noisy(u, number):
    noise = tensor(Stream(SEED, f"teacher/{number}/noise", STEP).normal(*u.shape))
    return u + (0.1 * noise).clamp(-0.2, 0.2)


def mean_teacher(x, y, u):
    net = fill(f=unet(), teacher=unet())
    labelled, free = net.f(torch.cat([x, u])).split(B)
    taught = logits_of(net.teacher, noisy(u, 0)).softmax(1)
    return net, supervised(labelled, y, "ce_dice") + ramp(STEP, STEPS) * ((free.softmax(1) - taught) ** 2).mean()


def ua_mt(x, y, u):
    net = fill(f=unet(), teacher=unet())
    labelled, free = net.f(torch.cat([x, u])).split(B)
    taught = logits_of(net.teacher, noisy(u, 0)).softmax(1)
    # Eight predictions: four passes over the images twice, each copy with noise of its own.
    eight = [logits_of(net.teacher, noisy(torch.cat([u, u]), 1 + k)).softmax(1).split(B) for k in range(4)]
    mean = sum(a + b for a, b in eight) / 8
    uncertainty = -(mean * torch.log(mean + 1e-6)).sum(1, keepdim=True)
    threshold = (0.75 + 0.25 * np.exp(-5 * (1 - STEP / STEPS) ** 2)) * np.log(2)
    assert (uncertainty - threshold).abs().min() > 1e-5
    mask = (uncertainty < threshold).double()
    assert 0.1 < mask.mean() < 0.9, mask.mean()
    consistency = (mask * (free.softmax(1) - taught) ** 2).sum() / (2 * mask.sum() + 1e-16)
    return net, supervised(labelled, y, "ce_dice") + ramp(STEP, STEPS) * consistency


def urpc(x, y, u):
    f = unet()
    for k in (4, 3, 2, 1):
        setattr(f.decoder, f"out_conv_dp{k}", nn.Conv2d(WIDTHS[k], C, 3, padding=1))
    net = fill(f=f)
    features = of_losses.encode(net.f, torch.cat([x, u]))
    h, all_ = features[4], []
    drawn = stream_seed(SEED, "perturbation", STEP)
    for k in range(1, 5):
        h = getattr(net.f.decoder, f"up{k}")(h, features[4 - k])
        if k == 4:
            all_.insert(0, net.f.decoder.out_conv(h))
            break
        if k == 1:  # dropout
            seen = h * tensor(dropout(TAPE, 0, h.numel(), 0.5)).reshape(h.shape)
        elif k == 2:  # where attention is high
            attention = h.mean(1, keepdim=True)
            cut = Stream(drawn, "feature dropout", 0).between(0.7, 0.9) * attention.amax((2, 3), keepdim=True)
            assert (attention - cut).abs().min() > 1e-5
            seen = h * (attention < cut)
        else:  # noise, the same for all images
            noise = Stream(drawn, "feature noise", 0).singles_between(-0.3, 0.3, h[0].numel())
            seen = h * (1 + tensor(noise).reshape(h[0].shape))
        z = getattr(net.f.decoder, f"out_conv_dp{4 - k}")(seen)
        all_.insert(0, F.interpolate(z, (SIDE, SIDE), mode="nearest"))
    labelled, free = zip(*(z.split(B) for z in all_))
    loss = sum(F.cross_entropy(z, y.long()) + dice(z.softmax(1), y) for z in labelled) / 8
    logs = [z.log_softmax(1) for z in free]
    mean, consistency = sum(l.exp() for l in logs) / 4, 0
    for l in logs:
        v = (mean * (mean.log() - l)).sum(1, keepdim=True)
        e = torch.exp(-v)
        consistency = consistency + ((mean - l.exp()) ** 2 * e).mean() / (e.mean() + 1e-8) + v.mean()
    return net, loss + ramp(STEP, STEPS) * consistency / 4


def cross(x, y, u, name):
    second = {"swin": of_losses.SwinUnet(SIDE, C, 6, 2)} if name == "cross_teaching" else {"f2": unet()}
    net = fill(f=unet(), **second)
    all_ = [part(torch.cat([x, u])).split(B) for part in (net.f, *(getattr(net, k) for k in second))]
    loss = 0
    for (labelled, free), (_, other) in zip(all_, reversed(all_)):
        label, _ = sure(other)
        held = F.cross_entropy(free, label) if name == "cps" else dice(free.softmax(1), label)
        loss = loss + supervised(labelled, y, "ce_dice") + ramp(STEP, STEPS) * held
    return net, loss


def mc_net(x, y, u, decoders):
    f = unet()
    for k in range(2, decoders + 1):
        setattr(f, f"decoder{k}", of_losses.Decoder(k == 2, WIDTHS))
    net = fill(f=f)
    features = of_losses.encode(net.f, torch.cat([x, u]))
    all_ = [decode(net.f, features)[1], *(getattr(net.f, f"decoder{k}")(features) for k in range(2, decoders + 1))]
    p = [z.softmax(1) for z in all_]
    q = [a**10 / (a**10 + (1 - a) ** 10) for a in p]
    loss = sum(half_dice(a[:B], y) for a in p)
    consistency = sum(((p[i] - q[j]) ** 2).mean() for i in range(decoders) for j in range(decoders) if i != j)
    # The reference counts the step before it reads the ramp.
    return net, loss + ramp(STEP + 1, STEPS) * consistency


def masked(z, y, m, eps=1e-10):
    t, p = F.one_hot(y.long(), C).permute(0, 3, 1, 2).double(), z.softmax(1)
    total = 0
    for c in range(C):
        inter = (p[:, c] * t[:, c] * m).sum()
        square = (p[:, c] ** 2 * m).sum() + (t[:, c] ** 2 * m).sum()
        total = total + 1 - (2 * inter + eps) / (square + eps)
    ce = F.cross_entropy(z, y.long(), reduction="none")
    return total / C + (ce * m).sum() / (m.sum() + 1e-16)


def largest(label):
    """Of each image and class the largest 8-connected component."""
    kept = torch.zeros_like(label)
    for image_, into in zip(label, kept):
        for c in range(1, C):
            parts, count = ndimage.label((image_ == c).numpy(), structure=np.ones((3, 3)))
            if count:
                into[torch.from_numpy(parts == np.bincount(parts.ravel())[1:].argmax() + 1)] = c
    return kept


def bcp(x, y, u, phase):
    net = fill(f=unet(), teacher=unet())
    (a, b), (y_a, y_b), (u_a, u_b) = x.split(B // 2), y.split(B // 2), u.split(B // 2)
    inner = 2 * SIDE // 3
    box = Stream(SEED, "copy-paste", STEP)
    top, left = box.below(SIDE - inner), box.below(SIDE - inner)
    m = torch.ones(SIDE, SIDE, dtype=DTYPE)
    m[top : top + inner, left : left + inner] = 0
    mix = lambda z, out, in_, w_out, w_in: 0.5 * (
        w_out * masked(z, out, m.expand(B // 2, -1, -1)) + w_in * masked(z, in_, 1 - m.expand(B // 2, -1, -1))
    )
    if phase == 1:
        return net, mix(net.f(m * a + (1 - m) * b), y_a, y_b, 1.0, 1.0)
    pl_a, pl_b = (largest(sure(logits_of(net.teacher, images))[0]) for images in (u_a, u_b))
    first = mix(net.f(m * u_a + (1 - m) * a), pl_a, y_a, 0.5, 1.0)
    second = mix(net.f(m * b + (1 - m) * u_b), y_b, pl_b, 1.0, 0.5)
    return net, first + second


def sc_ssl(x, y, u):
    net = fill(f=unet(), f2=unet(), corrector=unet(1 + 2 * C), projection=nn.Linear(WIDTHS[0], 32),
               projection2=nn.Linear(WIDTHS[0], 32))
    joint = torch.cat([x, u])
    decoded, all_ = zip(*(decode(part, of_losses.encode(part, joint)) for part in (net.f, net.f2)))
    corrected, goal = net.corrector(torch.cat([joint, *(z.detach().softmax(1) for z in all_)], 1)).split(B)
    label, confidence = sure(goal, 0.9)
    q = goal.detach().softmax(1)
    loss = supervised(corrected, y, "ce_dice")
    for z in all_:
        labelled, free = z.split(B)
        p = free.softmax(1)
        held = dice(p, label) + 0.5 * (1 - ssim(p.double(), q.double()))
        loss = loss + supervised(labelled, y, "ce_dice") + ramp(STEP, STEPS) * held
    chosen = confidence > 0.9
    of_class = label[chosen]
    # Up to 64 of a class are drawn; here there are fewer, so that all are.
    counts = torch.bincount(of_class, minlength=C)
    assert counts.max() <= 64 and (counts > 0).sum() >= 3, counts
    rows = [h[B:].permute(0, 2, 3, 1)[chosen] for h in decoded]
    v, w = (F.normalize(project(h), dim=1) for project, h in zip((net.projection, net.projection2), rows))
    s, positive = v @ w.T / 0.1, (of_class[:, None] == of_class[None, :]).to(DTYPE)
    one = lambda s: -(positive * s.log_softmax(1)).sum(1).div(positive.sum(1)).mean()
    return net, loss + 0.1 * 0.5 * (one(s) + one(s.T))


def with_perturbed(net, images):
    """Logits, and those of the same features with channels dropped, decoded together."""
    both = [torch.cat([f, dropped(f, k)]) for k, f in enumerate(of_losses.encode(net, images))]
    return decode(net, both)[1].split(len(images))


def strong_targets(own, partner, pasted):
    assert (partner[1][pasted[0]] >= TAU).double().mean() > 0.1, "the partner counts"
    return [tuple(torch.where(m, theirs, ours) for ours, theirs in zip(own, partner)) for m in pasted]


def unimatch(x, y, u, strong, partner, pasted):
    net = fill(f=unet())
    net.eval()
    other = sure(logits_of(net.f, partner), TAU)
    net.train()
    plain, perturbed = with_perturbed(net.f, torch.cat([x, u]))
    (labelled, weak), (_, perturbed) = plain.split(B), perturbed.split(B)
    s = net.f(torch.cat(strong)).split(B)
    own = sure(weak, TAU)
    image_loss = sum(0.25 * against(z, *t) for z, t in zip(s, strong_targets(own, other, pasted)))
    return net, 0.5 * (supervised(labelled, y, "ce_dice") + image_loss + 0.5 * against(perturbed, *own))


def reduce(layer, features, grid_):
    """Every map moved to the image's grid at full size, all concatenated, one 1x1 convolution; 0 outside."""
    where = (grid_.flip(-1) + 0.5) / SIDE * 2 - 1
    large = [F.grid_sample(m, where, padding_mode="border", align_corners=False) for m in features]
    inside = (grid_ >= 0).all(-1)[:, None]
    return layer(torch.cat(large, 1)) * inside


def mcsd(x, y, u, strong, partner, pasted, feature_loss, feature_dropout):
    net = fill(f=unet(), g=unet(DIM), reduction=nn.Conv2d(sum(c for c, _ in MAPS), DIM, 1))
    net.eval()
    other = sure(logits_of(net.f, partner), TAU)
    net.train()
    joint = torch.cat([x, u])
    plain, perturbed = with_perturbed(net.f, joint) if feature_dropout else (net.f(joint), None)
    f_x, f_u = plain.split(B)
    s = net.f(torch.cat(strong)).split(B)
    both = [torch.cat(pair) for pair in zip(maps("labelled"), maps("unlabelled"))]
    g_x, g_u = net.g(reduce(net.reduction, both, torch.cat([grid("labelled"), grid("unlabelled")]))).split(B)
    own, of_g = sure(f_u, TAU), sure(g_u, TAU)
    if feature_loss == "fused":
        own = of_g = sure((0.5 * (f_u.softmax(1) + g_u.softmax(1))).log(), TAU)
    image_loss = sum(0.5 * against(z, *t) for z, t in zip(s, strong_targets(own, other, pasted)))
    feature = 0.5 * against(g_u, *own) + (0 if feature_loss == "literal" else 0.5 * against(f_u, *of_g))
    loss = supervised(f_x, y, "ce_dice") + 0.5 * image_loss + 0.5 * feature
    if feature_dropout:
        loss = loss + 0.5 * against(perturbed.split(B)[1], *own)
    return net, 0.5 * loss + 0.5 * supervised(g_x, y, "ce_dice")


# -------------------------------------------------------------------------------------------------------------------

def summary(named):
    """Norms, and products with fixed vectors, in the order of the names."""
    named = sorted(named)
    dots = [float((t.flatten() * torch.from_numpy(of_nn.uniform("v:" + n, t.numel()))).sum()) for n, t in named]
    return torch.tensor([[float(t.norm()) for _, t in named], dots], dtype=torch.float64)


def compute():
    """Of each case the loss, its gradients and the running statistics."""
    x, u, partner = image("x"), image("u"), image("partner")
    y, strong, pasted = classes("y"), [image("strong0"), image("strong1")], boxes()
    views = (x, y, u, strong, partner, pasted)
    cases = {
        "supervised": only_supervised(x, y, "ce_dice"),
        "supervised_ce": only_supervised(x, y, "ce"),
        "mean_teacher": mean_teacher(x, y, u),
        "ua_mt": ua_mt(x, y, u),
        "urpc": urpc(x, y, u),
        "cps": cross(x, y, u, "cps"),
        "cross_teaching": cross(x, y, u, "cross_teaching"),
        "mc_net": mc_net(x, y, u, 2),
        "mc_net_plus": mc_net(x, y, u, 3),
        "bcp_first": bcp(x, y, u, 1),
        "bcp": bcp(x, y, u, 2),
        "sc_ssl": sc_ssl(x, y, u),
        "unimatch": unimatch(*views),
        "mcsd": mcsd(*views, "mutual", False),
        "mcsd_literal": mcsd(*views, "literal", False),
        "mcsd_fused": mcsd(*views, "fused", False),
        "mcsd_perturbed": mcsd(*views, "mutual", True),
    }
    out = {}
    for name, (net, loss) in cases.items():
        loss.backward()
        # Teachers get no gradient.
        learnt = [(n, p.grad.double()) for n, p in net.named_parameters() if p.grad is not None and "teacher." not in n]
        running = [(n, t.double()) for n, t in net.named_buffers() if not n.endswith("num_batches_tracked")]
        out[f"{name}/loss"] = loss.detach().double().reshape(1)
        out[f"{name}/gradients"], out[f"{name}/running"] = summary(learnt), summary(running)
    return out


def main():
    global DTYPE
    torch.set_num_threads(1)
    out = compute()
    # In single precision a maximum or a kink that hangs on a rounding error would show in a gradient.
    DTYPE = torch.float32
    for name, single in compute().items():
        allowed = 2e-4 * out[name][:1].abs() + 1e-5 * out[name].abs().max()
        assert ((single - out[name]).abs() <= allowed).all(), f"{name} hangs on rounding errors: choose another SET"
    for name, found in out.items():
        if name.endswith("loss"):
            print(f"{name:24} {float(found):.6f}")
    path = of_nn.FOLDER / "methods_steps.safetensors"
    of_nn.save_file({name: found.contiguous() for name, found in out.items()}, str(path))
    path.chmod(0o644)
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
