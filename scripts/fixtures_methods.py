#!/usr/bin/env python3
"""The losses of the methods, computed in PyTorch from their definitions, for fixed network outputs.

Writes tests/fixtures/methods.safetensors (MCSD: logits, labels and CutMix masks in, and for every variant the loss and
its gradient with respect to each of the logits out), methods_others.safetensors (the same of every other method, with
ramps, masks, sharpening, moving averages and connected components), nn_mcnet.safetensors, nn_pyramid.safetensors and
nn_swin.safetensors (three networks). Needs torch, numpy, scipy and safetensors.
"""
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from scipy import ndimage
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
import fixtures_nn as of_nn  # noqa: E402

OUT = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "methods.safetensors"
B, C, S, TAU = 2, 4, 5, 0.6


def dice(p, target, keep=None):
    """Mean over classes of 1 - (2 sum(s t) + eps) / (sum(s^2) + sum(t^2) + eps), sums over batch and kept pixels."""
    t = F.one_hot(target.long(), C).permute(0, 3, 1, 2).double()
    k = torch.ones_like(target, dtype=torch.double) if keep is None else keep.double()
    k = k[:, None]
    losses = []
    for c in range(C):
        s, y, m = p[:, c], t[:, c], k[:, 0]
        inter, square = (s * y * m).sum(), (s * s * m).sum() + (y * y * m).sum()
        losses.append(1 - (2 * inter + 1e-5) / (square + 1e-5))
    return sum(losses) / C


def supervised(z, y, kind):
    ce = F.cross_entropy(z, y.long())
    return ce if kind == "ce" else 0.5 * (ce + dice(z.softmax(1), y))


def pseudo(p):
    confidence, label = p.detach().max(1)
    return label, confidence


def consistency(z, label, confidence):
    return dice(z.softmax(1), label, confidence >= TAU)


def mcsd(z, y, pasted, dfm, dic, feature_loss, kind):
    """L = 1/2 [sup(f) + 1/2 image + 1/2 feature] + 1/2 sup(g); sup(f) alone without both modules."""
    sup = supervised(z["f_labelled"], y, kind)
    if not (dfm or dic):
        return sup
    f, g = z["f_weak"].softmax(1), z["g_weak"].softmax(1)
    target_f = pseudo(0.5 * (f + g) if dfm and feature_loss == "fused" else f)
    total = sup
    if dic:
        partner = pseudo(z["f_partner"].softmax(1))
        image = 0
        for k in range(2):
            m = pasted[k].bool()
            label = torch.where(m, partner[0], target_f[0])
            confidence = torch.where(m, partner[1], target_f[1])
            image = image + 0.5 * consistency(z[f"f_strong{k}"], label, confidence)
        total = total + 0.5 * image
    if dfm:
        feature = 0.5 * consistency(z["g_weak"], *target_f)
        if feature_loss != "literal":
            back = target_f if feature_loss == "fused" else pseudo(g)
            feature = feature + 0.5 * consistency(z["f_weak"], *back)
        total = total + 0.5 * feature
    total = 0.5 * total
    if dfm:
        total = total + 0.5 * supervised(z["g_labelled"], y, kind)
    return total


# The other methods -------------------------------------------------------------------------------------------------

def ramp(i, total, weight=0.1, share=1.0, delay=0):
    """0.1 exp(-5 (1 - min(floor(i / 150), 200) / 200)^2) over 30,000 steps."""
    if i < delay:
        return 0.0
    rung = min(math.floor(200 * i / (share * total)), 200) if share else 200
    return weight * math.exp(-5 * (1 - rung / 200) ** 2)


class Case:
    """Inputs of a loss, and its value and gradients once it is computed."""

    def __init__(self, out, name, size=6):
        self.out, self.name, self.size = out, name, size
        self.leaves = {}

    def logits(self, name, batch=2, scale=1.5):
        t = (scale * torch.randn(batch, C, self.size, self.size)).float()
        return self.leaf(name, t)

    def leaf(self, name, t):
        self.out[f"{self.name}/in/{name}"] = t
        self.leaves[name] = t.double().requires_grad_()
        return self.leaves[name]

    def fixed(self, name, t):
        self.out[f"{self.name}/in/{name}"] = t.contiguous()
        return t.double() if t.is_floating_point() else t

    def labels(self, name, batch=2):
        return self.fixed(name, torch.randint(0, C, (batch, self.size, self.size), dtype=torch.uint8))

    def finish(self, loss):
        loss.backward()
        self.out[f"{self.name}/loss"] = loss.detach().float().reshape(1)
        for name, leaf in self.leaves.items():
            self.out[f"{self.name}/grad/{name}"] = leaf.grad.float().contiguous()


def mean_teacher(out):
    case = Case(out, "mean_teacher")
    labelled, free, y = case.logits("labelled"), case.logits("free"), case.labels("target")
    taught = case.fixed("taught", torch.randn(2, C, 6, 6).softmax(1))
    consistency = ((free.softmax(1) - taught) ** 2).mean()
    case.finish(supervised(labelled, y, "ce_dice") + ramp(12_345, 30_000, delay=1000) * consistency)


def ua_mt(out):
    case, i, total = Case(out, "ua_mt"), 777, 3000
    labelled, free, y = case.logits("labelled"), case.logits("free"), case.labels("target")
    taught = case.fixed("taught", torch.randn(2, C, 6, 6).softmax(1))
    mean = case.fixed("mean", (3 * torch.randn(2, C, 6, 6) + 0.5 * torch.randn(8, 2, C, 6, 6)).softmax(2).mean(0).float())
    uncertainty = -(mean * torch.log(mean + 1e-6)).sum(1, keepdim=True)
    threshold = (0.75 + 0.25 * math.exp(-5 * (1 - i / total) ** 2)) * math.log(2)
    mask = (uncertainty < threshold).double()
    assert 0.1 < mask.mean() < 0.9, mask.mean()
    out["ua_mt/mask"] = mask[:, 0].byte().contiguous()
    consistency = (mask * (free.softmax(1) - taught) ** 2).sum() / (2 * mask.sum() + 1e-16)
    case.finish(supervised(labelled, y, "ce_dice") + ramp(i, total) * consistency)


def urpc(out):
    case = Case(out, "urpc")
    y = case.labels("target")
    labelled = [case.logits(f"labelled{s}") for s in range(4)]
    free = [case.logits(f"free{s}") for s in range(4)]
    logs = [z.log_softmax(1) for z in free]
    mean = sum(l.exp() for l in logs) / 4
    loss = sum(F.cross_entropy(z, y.long()) + dice(z.softmax(1), y) for z in labelled) / 8
    consistency = 0
    for l in logs:
        v = (mean * (mean.log() - l)).sum(1, keepdim=True)
        e = torch.exp(-v)
        consistency = consistency + ((mean - l.exp()) ** 2 * e).mean() / (e.mean() + 1e-8) + v.mean()
    case.finish(loss + ramp(20_000, 30_000) * consistency / 4)


def cross(out, name):
    case = Case(out, name)
    y = case.labels("target")
    labelled = [case.logits(f"labelled{k}") for k in range(2)]
    free = [case.logits(f"free{k}") for k in range(2)]
    loss = 0
    for k in range(2):
        label = free[1 - k].detach().argmax(1)
        against = F.cross_entropy(free[k], label) if name == "cps" else dice(free[k].softmax(1), label)
        loss = loss + supervised(labelled[k], y, "ce_dice") + ramp(29_000, 30_000) * against
    case.finish(loss)


def half_dice(p, target):
    t = F.one_hot(target.long(), C).permute(0, 3, 1, 2).double()
    each = [1 - (p[:, c] * t[:, c]).sum() / ((p[:, c] ** 2).sum() + (t[:, c] ** 2).sum() + 1e-10) for c in range(C)]
    return sum(each) / C


def mc_net(out, decoders):
    case = Case(out, f"mc_net{decoders}")
    y = case.labels("target")
    all_ = [case.logits(f"all{d}", batch=4) for d in range(decoders)]
    p = [z.softmax(1) for z in all_]
    q = [a**10 / (a**10 + (1 - a) ** 10) for a in p]
    loss = sum(half_dice(a[:2], y) for a in p)
    consistency = sum(((p[i] - q[j]) ** 2).mean() for i in range(decoders) for j in range(decoders) if i != j)
    case.finish(loss + ramp(15_001, 30_000) * consistency)


def bcp(out):
    case = Case(out, "bcp")
    logits = case.logits("logits")
    stays, comes = case.labels("stays"), case.labels("comes")
    m = torch.ones(2, 6, 6, dtype=torch.uint8)
    m[:, 2:6, 1:5] = 0
    m = case.fixed("mask", m).double()
    p, ce = logits.softmax(1), lambda y: F.cross_entropy(logits, y.long(), reduction="none")

    def masked(y, m, eps=1e-10):
        t = F.one_hot(y.long(), C).permute(0, 3, 1, 2).double()
        total = 0
        for c in range(C):
            inter = (p[:, c] * t[:, c] * m).sum()
            square = (p[:, c] ** 2 * m).sum() + (t[:, c] ** 2 * m).sum()
            total = total + 1 - (2 * inter + eps) / (square + eps)
        return total / C + (ce(y) * m).sum() / (m.sum() + 1e-16)

    case.finish(0.5 * (0.5 * masked(stays, m) + 1.0 * masked(comes, 1 - m)))


def components(out):
    """The largest 8-connected component of each class, the first of equals."""
    rng = np.random.default_rng(3)
    smooth = ndimage.gaussian_filter(rng.standard_normal((3, 24, 24)), (0, 1.1, 1.1))
    labels = np.digitize(smooth, np.quantile(smooth, [0.3, 0.55, 0.8])).astype(np.uint8)
    labels[2][labels[2] == 3] = 1  # a class that is not there
    labels[1, :4] = 0
    labels[1, 1, 3] = labels[1, 1, 9] = 2  # and specks of equal size
    kept = np.zeros_like(labels)
    for image, into in zip(labels, kept):
        for c in range(1, C):
            parts, count = ndimage.label(image == c, structure=np.ones((3, 3)))
            if count:
                sizes = np.bincount(parts.ravel())[1:]
                into[parts == sizes.argmax() + 1] = c
    out["components/in"], out["components/out"] = torch.from_numpy(labels), torch.from_numpy(kept)


def ssim(x, y):
    t = torch.exp(-0.5 * ((torch.arange(11).double() - 5) / 1.5) ** 2)
    t = t / t.sum()
    window = (t[:, None] * t[None, :])[None, None]
    mean = lambda a: F.conv2d(a.flatten(0, 1)[:, None], window, padding=5).reshape(a.shape)
    mx, my = mean(x), mean(y)
    sx, sy, sxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    return ((2 * mx * my + 1e-4) * (2 * sxy + 9e-4) / ((mx**2 + my**2 + 1e-4) * (sx + sy + 9e-4))).mean()


def sc_ssl(out):
    case = Case(out, "sc_ssl", size=9)
    y = case.labels("target", batch=1)
    labelled = [case.logits(f"labelled{k}", batch=1) for k in range(2)]
    free = [case.logits(f"free{k}", batch=1) for k in range(2)]
    corrected = case.logits("corrected", batch=1)
    goal = case.fixed("goal", (3 * torch.randn(1, C, 9, 9)).float())
    q, label = goal.softmax(1), goal.argmax(1)
    loss = supervised(corrected, y, "ce_dice")
    for k in range(2):
        p = free[k].softmax(1)
        loss = loss + supervised(labelled[k], y, "ce_dice")
        loss = loss + ramp(25_000, 30_000) * (dice(p, label) + 0.5 * (1 - ssim(p, q)))
    case.finish(loss)

    case = Case(out, "contrast")
    a, b = case.leaf("a", torch.randn(14, 6)), case.leaf("b", torch.randn(14, 6))
    classes = case.fixed("classes", torch.tensor([0, 1, 1, 2, 0, 3, 2, 2, 1, 0, 0, 3, 1, 2], dtype=torch.uint8))
    s = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.1
    positive = (classes[:, None] == classes[None, :]).double()
    one = lambda s: -(positive * s.log_softmax(1)).sum(1).div(positive.sum(1)).mean()
    case.finish(0.5 * (one(s) + one(s.T)))


def unimatch(out):
    case = Case(out, "unimatch")
    y, pasted = case.labels("target"), torch.zeros(2, 2, 6, 6, dtype=torch.uint8)
    pasted[0, 0, 1:4, 2:6] = 1
    pasted[1, 1, 3:6, 0:4] = 1
    case.fixed("pasted", pasted)
    labelled, perturbed = case.logits("labelled"), case.logits("perturbed")
    strong = [case.logits(f"strong{k}") for k in range(2)]
    weak = case.fixed("weak", (1.5 * torch.randn(2, C, 6, 6)).float())
    partner = case.fixed("partner", (1.5 * torch.randn(2, C, 6, 6)).float())
    own, other = pseudo(weak.softmax(1)), pseudo(partner.softmax(1))
    loss = supervised(labelled, y, "ce_dice") + 0.5 * consistency(perturbed, *own)
    for k in range(2):
        m = pasted[k].bool()
        mixed = [torch.where(m, b, a) for a, b in zip(own, other)]
        loss = loss + 0.25 * consistency(strong[k], *mixed)
    case.finish(0.5 * loss)


def mcsd_perturbed(out):
    """MCSD's image stream with UniMatch's perturbed features as a further term."""
    case = Case(out, "mcsd_perturbed")
    y, labelled, perturbed = case.labels("target"), case.logits("labelled"), case.logits("perturbed")
    weak = case.fixed("weak", (1.5 * torch.randn(2, C, 6, 6)).float())
    term = consistency(perturbed, *pseudo(weak.softmax(1)))
    case.finish(0.5 * (supervised(labelled, y, "ce_dice") + 0.5 * term))


def averages(out):
    """Three steps of a teacher: with warm-up, weights alone; and without, statistics too."""
    start = torch.randn(2, 5)
    students = torch.randn(3, 2, 5)
    out["average/start"], out["average/students"] = start, students
    for name, warm_up in [("warm", True), ("constant", False)]:
        teacher = start.double().clone()
        for i, student in enumerate(students.double()):
            alpha = min(1 - 1 / (i + 1), 0.99) if warm_up else 0.99
            teacher = alpha * teacher + (1 - alpha) * student
        out[f"average/{name}"] = teacher.float()


def ramps(out):
    steps = [0, 149, 150, 999, 1000, 15_000, 29_849, 29_850, 29_999, 30_000]
    out["ramp/steps"] = torch.tensor(steps)
    out["ramp/weights"] = torch.tensor([ramp(i, 30_000) for i in steps], dtype=torch.float64)


def others():
    out = {}
    for write in [mean_teacher, ua_mt, urpc, bcp, components, sc_ssl, unimatch, mcsd_perturbed, averages, ramps]:
        write(out)
    for name in ["cps", "cross_teaching"]:
        cross(out, name)
    for decoders in [2, 3]:
        mc_net(out, decoders)
    path = OUT.parent / "methods_others.safetensors"
    save_file(out, path)
    print(f"{path.name}: {len(out)} tensors, {path.stat().st_size} bytes")


# Networks ----------------------------------------------------------------------------------------------------------

WIDTHS = (2, 2, 4, 4, 4)


class Decoder(nn.Module):
    """A decoder of MC-Net that up-samples by a transposed convolution or by repetition."""

    def __init__(self, transposed, widths=WIDTHS):
        super().__init__()
        for k in range(1, 5):
            i, skip = widths[5 - k], widths[4 - k]
            up = nn.Module()
            if transposed:
                up.up = nn.ConvTranspose2d(i, skip, 2, stride=2)
            else:
                up.conv1x1 = nn.Conv2d(i, skip, 1)
            up.conv = of_nn.ConvBlock(2 * skip, skip, 0.0)
            setattr(self, f"up{k}", up)
        self.out_conv = nn.Conv2d(widths[0], C, 3, padding=1)
        self.transposed = transposed

    def forward(self, features):
        x = features[4]
        for k in range(1, 5):
            up = getattr(self, f"up{k}")
            y = up.up(x) if self.transposed else F.interpolate(up.conv1x1(x), scale_factor=2, mode="nearest")
            x = up.conv(torch.cat([features[4 - k], y], 1))
        return self.out_conv(x)


def encode(net, x):
    features = [net.encoder.in_conv(x)]
    for k in range(1, 5):
        features.append(getattr(net.encoder, f"down{k}")(features[-1]))
    return features


def mcnet_network():
    net = of_nn.UNet(1, C, WIDTHS)
    net.decoder2, net.decoder3 = Decoder(True), Decoder(False)
    net = of_nn.fill(net.double()).train()
    x, target = of_nn.values("x", 2, 1, 16, 16).requires_grad_(), of_nn.values("target", 6, C, 16, 16)
    features = encode(net, x)
    h = features[4]
    for k in range(1, 5):
        h = getattr(net.decoder, f"up{k}")(h, features[4 - k])
    y = torch.cat([net.decoder.out_conv(h), net.decoder2(features), net.decoder3(features)])
    F.mse_loss(y, target).backward()
    of_nn.save("nn_mcnet", {"y": y, "dx": x.grad} | of_nn.gradients(net))


def pyramid_network():
    net = of_nn.UNet(1, C, WIDTHS)
    for k in (4, 3, 2, 1):
        setattr(net.decoder, f"out_conv_dp{k}", nn.Conv2d(WIDTHS[k], C, 3, padding=1))
    net = of_nn.fill(net.double()).eval()
    features = encode(net, of_nn.values("x", 2, 1, 16, 16))
    h, scales = features[4], []
    for k in range(1, 5):
        h = getattr(net.decoder, f"up{k}")(h, features[4 - k])
        if k < 4:
            scales.insert(0, F.interpolate(getattr(net.decoder, f"out_conv_dp{4 - k}")(h), (16, 16), mode="nearest"))
    of_nn.save("nn_pyramid", {"y": torch.cat([net.decoder.out_conv(h), *scales])})


def main():
    torch.manual_seed(7)
    names = ["f_labelled", "f_weak", "f_strong0", "f_strong1", "f_partner", "g_labelled", "g_weak"]
    logits = {n: (1.5 * torch.randn(B, C, S, S)).float() for n in names}
    y = torch.randint(0, C, (B, S, S), dtype=torch.uint8)
    pasted = torch.zeros(2, B, S, S, dtype=torch.uint8)
    pasted[0, 0, 1:4, 1:5] = 1
    pasted[1, 1, 2:5, 0:3] = 1
    out = {f"in/{n}": t for n, t in logits.items()} | {"in/target": y, "in/pasted": pasted}
    for dfm, dic in [(0, 0), (1, 0), (0, 1), (1, 1)]:
        for feature_loss in ["literal", "mutual", "fused"] if dfm else ["mutual"]:
            for kind in ["ce", "ce_dice"]:
                z = {n: t.double().requires_grad_(n != "f_partner") for n, t in logits.items()}
                loss = mcsd(z, y, pasted, dfm, dic, feature_loss, kind)
                loss.backward()
                case = f"{dfm}{dic}/{feature_loss}/{kind}"
                out[f"{case}/loss"] = loss.detach().float().reshape(1)
                for n in names:
                    if n != "f_partner":
                        grad = z[n].grad
                        out[f"{case}/{n}"] = torch.zeros(B, C, S, S) if grad is None else grad.float().contiguous()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    save_file(out, OUT)
    print(f"{OUT.name}: {len(out)} tensors, {OUT.stat().st_size} bytes")


class SwinBlock(nn.Module):
    def __init__(self, side, d, heads, window, shift):
        super().__init__()
        if side <= window:
            window, shift = side, 0
        self.side, self.heads, self.window, self.shift = side, heads, window, shift
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn = nn.Module()
        self.attn.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.attn.qkv, self.attn.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def attention(self, x):
        """Every pair of tokens of a map, masked to the pairs that share a shifted window and did not wrap around."""
        b, n, d = x.shape
        side, w, s, h = self.side, self.window, self.shift, self.heads
        y, c = torch.arange(n) // side, torch.arange(n) % side
        rolled_y, rolled_x = (y - s) % side, (c - s) % side
        part = lambda r: (r >= side - w).long() + (r >= side - s).long() if s else torch.zeros_like(r)
        window = rolled_y // w * side + rolled_x // w
        region = 3 * part(rolled_y) + part(rolled_x)
        q, k, v = self.attn.qkv(x).reshape(b, n, 3, h, d // h).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / math.sqrt(d // h)
        inside = lambda r: r % w
        dy = inside(rolled_y)[:, None] - inside(rolled_y)[None, :] + w - 1
        dx = inside(rolled_x)[:, None] - inside(rolled_x)[None, :] + w - 1
        bias = self.attn.relative_position_bias_table[dy * (2 * w - 1) + dx]  # of pairs of one window alone
        scores = scores + bias.permute(2, 0, 1)
        scores = scores + torch.where(region[:, None] == region[None, :], 0.0, -100.0)
        scores = scores.masked_fill(window[:, None] != window[None, :], -math.inf)
        return self.attn.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, d))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


def swin_stage(side, d, heads, window):
    stage = nn.Module()
    stage.blocks = nn.ModuleList([SwinBlock(side, d, heads, window, k * (window // 2)) for k in range(2)])
    return stage


class Expand(nn.Module):
    def __init__(self, side, d, factor):
        super().__init__()
        self.side, self.factor, self.to = side, factor, d // 2 if factor == 2 else d
        self.expand = nn.Linear(d, factor**2 * self.to, bias=False)
        self.norm = nn.LayerNorm(self.to)

    def forward(self, x):
        b, s, f = x.shape[0], self.side, self.factor
        x = self.expand(x).reshape(b, s, s, f, f, self.to).permute(0, 1, 3, 2, 4, 5)
        return self.norm(x.reshape(b, s * f * s * f, self.to))


class SwinUnet(nn.Module):
    def __init__(self, size, classes, d, window):
        super().__init__()
        heads, side = (3, 6, 12, 24), size // 4
        self.size, self.d = size, d
        self.patch_embed = nn.Module()
        self.patch_embed.proj, self.patch_embed.norm = nn.Conv2d(3, d, 4, stride=4), nn.LayerNorm(d)
        self.layers = nn.ModuleList()
        for k in range(4):
            stage = swin_stage(side >> k, d << k, heads[k], window)
            if k < 3:
                stage.downsample = nn.Module()
                stage.downsample.norm = nn.LayerNorm(4 * (d << k))
                stage.downsample.reduction = nn.Linear(4 * (d << k), 2 * (d << k), bias=False)
            self.layers.append(stage)
        self.norm = nn.LayerNorm(d << 3)
        self.layers_up = nn.ModuleList([Expand(side >> 3, d << 3, 2)])
        self.concat_back_dim = nn.ModuleList([nn.Identity()])
        for k in (2, 1, 0):
            self.concat_back_dim.append(nn.Linear(2 * (d << k), d << k))
            stage = swin_stage(side >> k, d << k, heads[k], window)
            if k:
                stage.upsample = Expand(side >> k, d << k, 2)
            self.layers_up.append(stage)
        self.norm_up = nn.LayerNorm(d)
        self.up = Expand(side, d, 4)
        self.output = nn.Conv2d(d, classes, 1, bias=False)

    def forward(self, x):
        b, side = x.shape[0], self.size // 4
        x = self.patch_embed.norm(self.patch_embed.proj(x.repeat(1, 3, 1, 1)).flatten(2).transpose(1, 2))
        skips = []
        for k, stage in enumerate(self.layers):
            skips.append(x)
            for block in stage.blocks:
                x = block(x)
            if k < 3:
                m = x.reshape(b, side >> k, side >> k, -1)
                m = torch.cat([m[:, 0::2, 0::2], m[:, 1::2, 0::2], m[:, 0::2, 1::2], m[:, 1::2, 1::2]], -1)
                x = stage.downsample.reduction(stage.downsample.norm(m.flatten(1, 2)))
        x = self.layers_up[0](self.norm(x))
        for k in (1, 2, 3):
            x = self.concat_back_dim[k](torch.cat([x, skips[3 - k]], -1))
            for block in self.layers_up[k].blocks:
                x = block(x)
            if k < 3:
                x = self.layers_up[k].upsample(x)
        x = self.up(self.norm_up(x))
        return self.output(x.reshape(b, self.size, self.size, -1).permute(0, 3, 1, 2))


def swin_network():
    with torch.no_grad():
        count = sum(p.numel() for p in SwinUnet(224, 4, 96, 7).parameters())
    assert count == 27_168_420, count
    net = of_nn.fill(SwinUnet(32, 3, 6, 2).double())
    x, target = of_nn.values("x", 2, 1, 32, 32).requires_grad_(), of_nn.values("target", 2, 3, 32, 32)
    y = net(x)
    F.mse_loss(y, target).backward()
    of_nn.save("nn_swin", {"y": y, "dx": x.grad} | of_nn.gradients(net))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
    others()
    mcnet_network()
    pyramid_network()
    swin_network()
