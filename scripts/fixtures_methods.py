#!/usr/bin/env python3
"""The losses of the methods, computed in PyTorch from their definitions, for fixed network outputs.

Writes tests/fixtures/methods.safetensors: logits, labels and CutMix masks in, and for every variant the loss and its
gradient with respect to each of the logits out. Needs torch, numpy and safetensors.
"""
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "methods.safetensors"
B, C, S, TAU = 2, 4, 8, 0.6


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


def main():
    torch.manual_seed(7)
    names = ["f_labelled", "f_weak", "f_strong0", "f_strong1", "f_partner", "g_labelled", "g_weak"]
    logits = {n: (1.5 * torch.randn(B, C, S, S)).float() for n in names}
    y = torch.randint(0, C, (B, S, S), dtype=torch.uint8)
    pasted = torch.zeros(2, B, S, S, dtype=torch.uint8)
    pasted[0, 0, 1:5, 2:7] = 1
    pasted[1, 1, 3:8, 0:4] = 1
    out = {f"in/{n}": t for n, t in logits.items()} | {"in/target": y, "in/pasted": pasted}
    for dfm, dic in [(0, 0), (1, 0), (0, 1), (1, 1)]:
        for feature_loss in ["literal", "mutual", "fused"] if dfm else ["mutual"]:
            for kind in ["ce", "ce_dice"]:
                z = {n: t.double().requires_grad_(n != "f_partner") for n, t in logits.items()}
                loss = mcsd(z, y, pasted, dfm, dic, feature_loss, kind)
                loss.backward()
                case = f"{dfm}{dic}/{feature_loss}/{kind}"
                out[f"{case}/loss"] = loss.detach().float().reshape(1)
                for n in ["f_labelled", "f_weak", "f_strong0", "g_labelled", "g_weak"]:
                    # A fingerprint of the gradient keeps the file small: image 0, row 3, all classes and columns.
                    grad = z[n].grad
                    row = torch.zeros(C, S) if grad is None else grad[0, :, 3].float()
                    out[f"{case}/{n}"] = row.contiguous()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    save_file(out, OUT)
    print(f"{OUT.name}: {len(out)} tensors, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
