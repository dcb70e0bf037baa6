"""Writes tests/fixtures/ops.safetensors: what PyTorch computes for each training op, forward and backward.

A case NAME holds its inputs (NAME/x, NAME/w, ...), its output NAME/y, a cotangent NAME/r and the gradients of
sum(y * r) by input (NAME/dx, NAME/dw, ...). Losses have no cotangent. Sizes are odd and small.

    python scripts/fixtures_ops.py [OUT]
"""

import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(20)
torch.set_num_threads(1)
OUT = {}


def rand(*shape):
    return torch.randn(*shape)


def case(name, function, extra=(), **inputs):
    """Records function(**inputs); `extra` are inputs without a gradient (u8 targets, grids)."""
    leaves = {}
    for key, value in inputs.items():
        learns = key not in extra and value.is_floating_point()
        leaves[key] = value.clone().requires_grad_(learns)
        OUT[f"{name}/{key}"] = value.clone()
    y = function(**leaves)
    OUT[f"{name}/y"] = y.detach().clone()
    if y.dim() == 0:
        y.backward()
    else:
        r = rand(*y.shape)
        OUT[f"{name}/r"] = r
        (y * r).sum().backward()
    for key, leaf in leaves.items():
        if leaf.requires_grad:
            OUT[f"{name}/d{key}"] = leaf.grad.clone()


def convolutions():
    sizes = {  # name: batch, in, out, height, width, kernel, stride, padding
        "conv3": (2, 3, 5, 7, 9, 3, 1, 1),
        "conv3_one": (1, 1, 16, 11, 6, 3, 1, 1),
        "conv3_wide": (1, 2, 9, 3, 50, 3, 1, 1),
        "conv3_tiny": (3, 17, 8, 2, 1, 3, 1, 1),
        "conv3_four": (2, 16, 4, 5, 5, 3, 1, 1),
        "conv1": (2, 5, 7, 4, 5, 1, 1, 0),
        "conv3_stride": (2, 3, 4, 7, 8, 3, 2, 1),
        "conv3_valid": (1, 2, 3, 6, 5, 3, 1, 0),
        "conv4_patch": (2, 1, 6, 8, 8, 4, 4, 0),
        "conv5": (1, 2, 2, 6, 7, 5, 1, 2),
    }
    for name, (b, i, o, h, w, k, stride, padding) in sizes.items():
        case(
            name,
            lambda x, w, b, s=stride, p=padding: F.conv2d(x, w, b, stride=s, padding=p),
            x=rand(b, i, h, w), w=rand(o, i, k, k) / (i * k * k) ** 0.5, b=rand(o),
        )
    case("transpose", lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2),
         x=rand(2, 3, 3, 5), w=rand(3, 4, 2, 2), b=rand(4))
    case("linear", lambda x, w, b: F.linear(x, w, b), x=rand(2, 3, 5), w=rand(4, 5), b=rand(4))


def normalisations():
    for name, shape, offset in [("batch", (3, 5, 3, 7), 0.5), ("batch_far", (2, 2, 5, 5), 300.0)]:
        mean, var = rand(shape[1]), rand(shape[1]).abs() + 0.5
        after_mean, after_var = mean.clone(), var.clone()
        x, gamma, beta = rand(*shape) + offset, rand(shape[1]), rand(shape[1])
        run = lambda x, gamma, beta: F.batch_norm(x, after_mean, after_var, gamma, beta, True, 0.1, 1e-5)
        case(name, run, x=x, gamma=gamma, beta=beta)
        OUT.update({f"{name}/mean": mean, f"{name}/var": var})
        OUT.update({f"{name}/mean_after": after_mean, f"{name}/var_after": after_var})
        case(f"{name}_eval", lambda x, gamma, beta: F.batch_norm(x, mean, var, gamma, beta, False, 0.1, 1e-5),
             x=x, gamma=gamma, beta=beta)
        OUT.update({f"{name}_eval/mean": mean, f"{name}_eval/var": var})
        fused = lambda x, gamma, beta: F.leaky_relu(
            F.batch_norm(x, mean.clone(), var.clone(), gamma, beta, True, 0.1, 1e-5), 0.01)
        case(f"{name}_leaky", fused, x=x, gamma=gamma, beta=beta)
        OUT.update({f"{name}_leaky/mean": mean, f"{name}_leaky/var": var})
    group = dict(x=rand(2, 6, 3, 5) + 2, gamma=rand(6), beta=rand(6))
    case("group", lambda x, gamma, beta: F.group_norm(x, 3, gamma, beta, 1e-5), **group)
    case("group_silu", lambda x, gamma, beta: F.silu(F.group_norm(x, 3, gamma, beta, 1e-5)), **group)
    case("scale_shift", lambda x, s, t: x * (1 + s[..., None, None]) + t[..., None, None],
         x=rand(2, 3, 3, 5), s=rand(2, 3), t=rand(2, 3))
    case("add_channel", lambda x, v: x + v[..., None, None], x=rand(2, 3, 3, 5), v=rand(2, 3))


def attention(qkv, heads):
    """guided-diffusion's QKVAttentionLegacy."""
    b, width, t = qkv.shape
    d = width // (3 * heads)
    q, k, v = qkv.reshape(b * heads, 3 * d, t).split(d, dim=1)
    scale = d ** -0.25
    weight = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), dim=-1)
    return torch.einsum("bts,bcs->bct", weight, v).reshape(b, -1, t)


def elementwise():
    x = rand(2, 3, 5, 3) * 3
    case("leaky", lambda x: F.leaky_relu(x, 0.01), x=x)
    case("silu", lambda x: F.silu(x), x=x)
    case("gelu", lambda x: F.gelu(x), x=x)
    case("softmax", lambda x: torch.softmax(x, 1), x=x)
    case("add", lambda a, b: a + b, a=rand(2, 3, 2, 2), b=rand(2, 3, 2, 2))
    case("concat", lambda a, b: torch.cat([a, b], 1), a=rand(2, 3, 2, 3), b=rand(2, 1, 2, 3))
    case("attention", lambda x: attention(x, 2), x=rand(2, 2 * 3 * 4, 7))


def resizes():
    x = rand(2, 2, 5, 7)
    ties = torch.randint(0, 3, (2, 2, 5, 7)).float()
    case("max", lambda x: F.max_pool2d(x, 2), x=x)
    case("max_even", lambda x: F.max_pool2d(x, 2), x=rand(1, 3, 6, 4))
    case("max_ties", lambda x: F.max_pool2d(x, 2), x=ties)
    case("average", lambda x: F.avg_pool2d(x, 2), x=x)
    case("nearest", lambda x: F.interpolate(x, scale_factor=2), x=x)
    for name, size, align in [("up", (10, 14), True), ("up_half", (10, 14), False), ("odd", (11, 4), True),
                              ("odd_half", (3, 13), False), ("same", (5, 7), True), ("one", (1, 1), True)]:
        case(f"bilinear_{name}",
             lambda x, s=size, a=align: F.interpolate(x, size=s, mode="bilinear", align_corners=a), x=x)
    # Positions in pixels of a 6×6 image; negative ones lie outside.
    side = 6
    grid = torch.rand(2, side, side, 2) * (side - 1)
    outside = torch.rand(2, side, side) < 0.2
    grid[outside] = -1.0

    def sample(x, grid):
        at = (grid + 0.5) / side * 2 - 1
        y = F.grid_sample(x, at.flip(-1), mode="bilinear", padding_mode="border", align_corners=False)
        return y * (~outside)[:, None]

    case("sample", sample, extra=("grid",), x=rand(2, 3, 3, 4), grid=grid)


def dice(logits, target, keep, eps=1e-5):
    """SSL4MIS's DiceLoss(softmax=True), with UniMatch's mask of pixels that count."""
    s = torch.softmax(logits, 1)
    t = F.one_hot(target.long(), s.shape[1]).permute(0, 3, 1, 2).float()
    k = keep[:, None].float()
    both, squares, hits = [(v * k).sum((0, 2, 3)) for v in (s * t, s * s, t * t)]
    return (1 - (2 * both + eps) / (squares + hits + eps)).mean()


def losses():
    logits = rand(3, 4, 5, 7) * 2
    target = torch.randint(0, 4, (3, 5, 7), dtype=torch.uint8)
    keep = (torch.rand(3, 5, 7) < 0.4).to(torch.uint8)
    case("cross_entropy", lambda x, target: F.cross_entropy(x, target.long()), x=logits, target=target)
    case("dice", lambda x, target, keep: dice(x, target, keep), x=logits, target=target, keep=torch.ones_like(keep))
    case("dice_kept", dice_kept := lambda x, target, keep: dice(x, target, keep), x=logits, target=target, keep=keep)
    case("dice_none", dice_kept, x=logits, target=target, keep=torch.zeros_like(keep))
    case("mse", lambda x, target: F.mse_loss(x, target), extra=("target",), x=rand(2, 3, 5), target=rand(2, 3, 5))


def optimisers():
    def run(name, make):
        params = [rand(3, 4).requires_grad_(), rand(5).requires_grad_()]
        for i, p in enumerate(params):
            OUT[f"{name}/before{i}"] = p.detach().clone()
        optimiser = make(params)
        for step in range(3):
            for i, p in enumerate(params):
                p.grad = rand(*p.shape)
                OUT[f"{name}/grad{step}{i}"] = p.grad.clone()
            optimiser.step()
        for i, p in enumerate(params):
            OUT[f"{name}/after{i}"] = p.detach().clone()

    run("sgd", lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-4))
    run("adamw", lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.01))


if __name__ == "__main__":
    for part in (convolutions, normalisations, elementwise, resizes, losses, optimisers):
        part()
    save_file({k: v.contiguous().clone() for k, v in OUT.items()}, sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/ops.safetensors")
