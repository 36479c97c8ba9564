"""Three papers on sparse convolutions, which are sparse products in disguise.

A 1 x 1 convolution of an image in CHW order is a matrix of weights times a matrix with a column for
each pixel: `spmm` as it is. A submanifold convolution is one product for each offset of its kernel.

    pointwise   Fast sparse ConvNets (Elsen et al., 2020): 1 x 1 convolutions with bias and ReLU6,
                weights in CSR, or in blocks that share an index between 2 or 4 output channels;
                then layers of MobileNet, timed beside PyTorch's dense convolution
    groups      SparseByteNN (2023): groups of weights go together, so that indices shrink; channels
                are rearranged first, and back
    voxels      Less is more (2023): submanifold depthwise separable convolution of a 3D point cloud

    pip install "gossamer[examples]"
    python examples/sparse_conv.py            # all, a few seconds
    python examples/sparse_conv.py voxels     # one
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
from claims import claim, run
from gossamer import prune

try:
    import torch
except ImportError as error:
    raise SystemExit(f'{error}. This example needs: pip install "gossamer[examples]"') from error

Array = np.ndarray
RELU6 = ("clamp", 0.0, 6.0)


def dense_conv(w: Array, image: Array, bias: Array) -> Array:
    """Return PyTorch's 1 x 1 convolution and ReLU6, in 64-bit floats."""
    kernel = torch.from_numpy(w.astype(np.float64))[:, :, None, None]
    out = torch.nn.functional.conv2d(
        torch.from_numpy(image.astype(np.float64))[None], kernel, torch.from_numpy(bias).double()
    )
    return torch.clamp(out[0], 0, 6).numpy()


def conv(w: Any, image: Array, bias: Array) -> Array:
    """Convolve an image [channels, height, width] with sparse 1 x 1 weights."""
    channels, height, width = image.shape
    out = gossamer.spmm(w, image.reshape(channels, -1), bias=bias, activation=RELU6)
    return out.reshape(-1, height, width)


def seconds(*calls: Callable[[], Any], rounds: int = 7) -> list[float]:
    """Time calls in turn, and return the least time of each."""
    best = [float("inf")] * len(calls)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def mobilenet() -> dict[str, dict[str, float]]:
    """Time layers of MobileNet (outputs, inputs, side of the image) beside PyTorch's dense ones."""
    rng = np.random.default_rng(0)
    ratios: dict[str, dict[str, float]] = {}
    for out, channels, side in ((128, 64, 56), (256, 128, 28), (512, 512, 14), (1024, 1024, 7)):
        w = rng.standard_normal((out, channels), np.float32)
        bias = rng.standard_normal(out, np.float32)
        image = rng.standard_normal((channels, side, side), np.float32)
        pixels = torch.from_numpy(image)[None]
        found = ratios.setdefault(f"{out}x{channels} at {side}x{side}", {})
        for sparsity in (0.8, 0.9):
            mask = grouped(w, sparsity, (4, 1))
            kernel = torch.from_numpy(np.where(mask, w, 0))[:, :, None, None]
            dense = functools.partial(
                torch.nn.functional.conv2d, pixels, kernel, torch.tensor(bias)
            )
            forms = {
                "CSR": gossamer.pack(gossamer.CSR.from_dense(w, mask), n=side**2),
                "4x1": gossamer.BSR.from_dense(w, (4, 1), mask),
            }
            calls = [functools.partial(conv, form, image, bias) for form in forms.values()]
            want = torch.clamp(dense()[0], 0, 6).numpy()
            for name, call in zip(forms, calls, strict=True):
                apart = float(np.abs(call() - want).max())
                claim(
                    apart < 1e-3, f"{name} is the convolution of {out}x{channels}, off by {apart}"
                )
            ours = seconds(lambda dense=dense: torch.nn.functional.relu6(dense()), *calls)
            for name, taken in zip(forms, ours[1:], strict=True):
                found[f"{name} {sparsity:.0%}"] = round(ours[0] / taken, 2)
    return ratios


def pointwise() -> dict[str, Any]:
    """Convolve images of several sizes with weights of several sparsities and blocks."""
    rng = np.random.default_rng(0)
    worst, entries = 0.0, {}
    for sparsity, height in itertools.product((0.7, 0.8, 0.9), (1, 5, 7, 14)):
        w = rng.standard_normal((64, 48), np.float32)
        bias = rng.standard_normal(64, np.float32) + 2
        image = rng.standard_normal((48, height, height), np.float32)
        mask = prune.topk_mask(prune.score(w), round((1 - sparsity) * w.size))
        mask[[3, 40]] = False
        kept = np.where(mask, w, 0)
        out = conv(gossamer.CSR.from_dense(w, mask), image, bias)
        worst = max(worst, float(np.abs(out - dense_conv(kept, image, bias)).max()))
        empty = np.broadcast_to(np.clip(bias[3], 0, 6), (height, height))
        claim(np.array_equal(out[3], empty), "a channel without weights is its clamped bias")
        for rows in (2, 4):
            mask = prune.block_mask(
                prune.score(w), round((1 - sparsity) * w.size / rows), (rows, 1)
            )
            blocks = gossamer.BSR.from_dense(w, (rows, 1), mask)
            single = gossamer.CSR.from_dense(w, mask)
            apart = np.abs(conv(blocks, image, bias) - conv(single, image, bias)).max()
            claim(apart < 1e-4, f"{rows} x 1 blocks convolve as single weights, off by {apart:.1e}")
            claim(blocks.nnz == single.nnz, "blocks have as many weights")
            entries[f"{rows} x 1"] = single.indices.size / blocks.indices.size
    claim(worst < 1e-4, f"the product is the convolution, off by {worst:.1e}")
    claim(entries == {"2 x 1": 2.0, "4 x 1": 4.0}, f"channels share their indices: {entries}")
    return {"off by": worst, "weights per index": entries, "times PyTorch's dense": mobilenet()}


def grouped(w: Array, sparsity: float, block: tuple[int, int]) -> Array:
    """Mark groups of weights of largest sum of magnitudes."""
    size = block[0] * block[1]
    return prune.block_mask(prune.score(w), round((1 - sparsity) * w.size / size), block)


def rearranged(w: Array, image: Array, order: Array) -> tuple[Array, Array]:
    """Order the input channels of the weights, and those of the image alike."""
    return np.ascontiguousarray(w[:, order]), np.ascontiguousarray(image[order])


def by_importance(w: Array) -> Array:
    """Order input channels by their weights."""
    return np.argsort(-np.abs(w).sum(0), kind="stable")


def groups() -> dict[str, Any]:
    """Prune groups along outputs and inputs to 30 % and more."""
    rng = np.random.default_rng(0)
    worst = 0.0
    w = rng.standard_normal((64, 64), np.float32) * np.repeat(np.exp(rng.standard_normal(16)), 4)
    w = np.ascontiguousarray(w[:, rng.permutation(64)].astype(np.float32))
    bias = rng.standard_normal(64, np.float32)
    image = rng.standard_normal((64, 14, 14), np.float32)
    for sparsity, block in itertools.product((0.3, 0.75), ((4, 1), (1, 4), (1, 8))):
        mask = grouped(w, sparsity, block)
        blocks = gossamer.BSR.from_dense(w, block, mask)
        out = conv(blocks, image, bias)
        worst = max(worst, float(np.abs(out - dense_conv(np.where(mask, w, 0), image, bias)).max()))
        single = gossamer.CSR.from_dense(w, mask)
        ratio = single.indices.nbytes / blocks.indices.nbytes
        claim(ratio == block[0] * block[1], f"indices of {block} groups shrink {ratio} times")
    claim(worst < 1e-4, f"a layer of groups is the masked dense one, off by {worst:.1e}")

    # Channels of like importance side by side: groups along the inputs then keep more.
    order = by_importance(w)
    kept = {}
    for name, columns in (("as it is", np.arange(64)), ("rearranged", order)):
        weights = np.ascontiguousarray(w[:, columns])
        mask = grouped(weights, 0.5, (1, 4))
        kept[name] = float(np.abs(weights[mask]).sum() / np.abs(weights).sum())
    claim(kept["rearranged"] > kept["as it is"] + 0.02, f"rearranging keeps more: {kept}")
    whole = rng.integers(-4, 5, (64, 64)).astype(np.float32)
    pixels = rng.integers(-4, 5, (64, 7, 7)).astype(np.float32)
    there, images = rearranged(whole, pixels, order)
    mask = grouped(there, 0.5, (1, 4))
    back = np.ascontiguousarray(mask[:, np.argsort(order)])
    straight = conv(gossamer.CSR.from_dense(whole, back), pixels, bias)
    around = conv(gossamer.BSR.from_dense(there, (1, 4), mask), images, bias)
    claim(np.array_equal(straight, around), "rearranging both sides changes no bit")
    return {"off by": worst, "kept by groups of four": kept}


def neighbours(sites: Array, offset: tuple[int, int, int]) -> gossamer.CSR:
    """Select for each site the one that lies at an offset, if it is active."""
    known = {tuple(site): at for at, site in enumerate(sites.tolist())}
    found = [known.get(tuple(site)) for site in (sites + offset).tolist()]
    rows = np.array([0, *itertools.accumulate(j is not None for j in found)], np.int32)
    columns = np.array([j for j in found if j is not None], np.int32)
    return gossamer.CSR(rows, columns, np.ones(len(columns)), (len(sites), len(sites)))


def depthwise(rulebook: list[gossamer.CSR], features: Array, kernel: Array) -> Array:
    """Add up the neighbours' features at all offsets, each by its weight of the channel."""
    out = np.zeros_like(features)
    for select, weight in zip(rulebook, kernel, strict=True):
        out += weight * gossamer.spmm(select, features)
    return out


def voxels() -> dict[str, Any]:
    """Convolve the active twentieth of a grid, and count what that takes."""
    rng = np.random.default_rng(0)
    side, inputs, outputs = 16, 16, 32
    active = prune.random_mask((side, side, side), side**3 // 20, seed=0)
    sites = np.argwhere(active)
    n = len(sites)
    features = rng.standard_normal((n, inputs))
    kernel, mix = rng.standard_normal((27, inputs)), rng.standard_normal((inputs, outputs))
    offsets = list(itertools.product((-1, 0, 1), repeat=3))
    rulebook = [neighbours(sites, offset) for offset in offsets]
    out = depthwise(rulebook, features, kernel) @ mix

    grid = np.zeros((inputs, side, side, side))
    grid[:, active] = features.T
    weight = torch.from_numpy(kernel.T.reshape(inputs, 1, 3, 3, 3).copy())
    dense = torch.nn.functional.conv3d(
        torch.from_numpy(grid)[None], weight, padding=1, groups=inputs
    )[0].numpy()
    off = float(np.abs(out - dense[:, active].T @ mix).max())
    claim(off < 1e-10, f"it is the dense convolution at the active sites, off by {off:.1e}")
    dilated = int((np.abs(dense).sum(0) > 0).sum())
    claim(len(out) == n < dilated / 3, f"the pattern stays: {n} sites, {dilated} if dense")
    pairs = sum(select.nnz for select in rulebook)
    ours = pairs * inputs + n * inputs * outputs
    full, whole = pairs * inputs * outputs, 27 * side**3 * inputs * outputs
    claim(ours < full < whole / 100, f"multiplications: {ours}, {full} and {whole}")
    # Every pair once from either side, and each site with itself.
    counted = int((np.abs(sites[:, None] - sites).max(2) <= 1).sum())
    claim(pairs == counted, f"as many pairs as a loop finds: {pairs}, {counted}")
    parameters = {"separable": kernel.size + mix.size, "full": 27 * inputs * outputs}
    claim(parameters == {"separable": 944, "full": 13_824}, f"parameters: {parameters}")
    work = {"separable": ours, "full submanifold": full, "dense": whole}
    return {"off by": off, "multiplications": work, "parameters": parameters}


PAPERS = {paper.__name__: paper for paper in (pointwise, groups, voxels)}
main = functools.partial(run, PAPERS, "Papers on sparse convolutions.")

if __name__ == "__main__":
    main()
