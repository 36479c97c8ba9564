"""Attention that keeps some pairs: S2's blocks for each head, a sliding window, masks of instances.

s2  Efficient LLM training and serving with heterogeneous context sharding among attention heads
    (Lin et al., 2024): each head keeps the blocks near the diagonal and every eighth one, from
    an offset of its own, so that the heads together see the whole context. Checked against
    dense attention with a mask, forward and backward; decoding reads only the blocks that are
    kept, and a block that a head has dropped never comes back
window  Longformer (Beltagy et al., 2020): each token sees the last ones only, exactly, whatever the
    blocks that cover them. Checked against dense attention with a mask; keys before the window
    change nothing; the work grows with the tokens, not with their square
instance  Sparsifiner (Wei et al., 2023): each head of each image has a mask of its own, a quarter
    of the keys of each token by a guess of the scores in few dimensions. Checked against dense
    attention with a mask, forward and backward, and against softmax between two products

pip install "gossamer[examples]"
python examples/sparse_attention.py       # a second
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
from claims import claim, run
from gossamer import CSR, BlockLayout, prune

try:
    import torch
except ImportError as error:
    raise SystemExit(f'{error}. This example needs: pip install "gossamer[examples]"') from error

Array = np.ndarray
LOCAL, STRIDE = 4, 8  # blocks near the diagonal, and the distance of the others


def offsets(heads: int) -> Array:
    """Return the place of each head's far blocks within a stride: all places, one after another."""
    return np.arange(heads) % STRIDE


def sharded(heads: int, blocks: int, places: Array) -> Array:
    """Mark the blocks that each head keeps, [heads, blocks of queries, blocks of keys]."""
    q, k = np.arange(blocks)[:, None], np.arange(blocks)
    far = (k + places[:, None, None]) % STRIDE == 0
    return (q >= k) & ((q - k < LOCAL) | far)


def dense(q: Any, k: Any, v: Any, mask: Array) -> Any:
    """Attend in 64-bit floats with a mask of single keys; tensors are [B, S, heads, D]."""
    group = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(group, 2) for x in (k, v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / q.shape[3] ** 0.5
    p = torch.softmax(scores.masked_fill(~torch.from_numpy(mask), -torch.inf), -1)
    return torch.einsum("bhij,bjhd->bihd", p, v)


def attend(q: Array, k: Array, v: Array, layout: BlockLayout) -> tuple[Array, Array]:
    """Attend causally to the blocks of a layout."""
    return gossamer.attention(q, k, v, layout, causal=True)


def visits(q: Array, k: Array, v: Array, layout: BlockLayout) -> Array:
    """Find out which blocks of keys each head's blocks of queries visit.

    Those whose outputs change, to NaN, when the values of a block are NaN.
    """
    o, block = attend(q, k, v, layout)[0][0], layout.block[1]
    starts = np.arange(0, len(o), block)
    found = []
    for start in starts:
        spoiled = v.copy()
        spoiled[:, start : start + block] = np.nan
        touched = (attend(q, k, spoiled, layout)[0][0] != o).any(2)  # [queries, heads]
        found.append(np.logical_or.reduceat(touched, starts))
    return np.stack(found, -1).swapaxes(0, 1)


def s2() -> dict[str, Any]:
    """Check layouts, attention and its gradients, and decoding."""
    rng = np.random.default_rng(0)
    heads, shared, blocks, block, d = 8, 2, 32, 16, 32
    kept = sharded(heads, blocks, offsets(heads))
    layout = BlockLayout.from_mask(kept, block=block)
    causal = heads * blocks * (blocks + 1) // 2
    claim(layout.nblocks == int(kept.sum()), "the layout has the blocks of the formula")
    density = sharded(heads, 64, offsets(heads)).sum() / (heads * 64 * 65 / 2)
    claim(0.2 < density < 0.26, f"at 64 blocks a head keeps about a quarter: {density:.3f}")
    for h in range(heads):
        gone = np.zeros(blocks, bool)
        for row in range(blocks):
            claim(not (kept[h, row] & gone).any(), f"head {h} takes back no block it has dropped")
            gone |= ~kept[h, row] & (np.arange(blocks) <= row)

    # All heads together see everything where there are as many as places; four of eight do not.
    whole = np.tri(blocks, dtype=bool)
    together = {n: bool((sharded(n, blocks, offsets(n)).any(0) == whole).all()) for n in (8, 4)}
    claim(together == {8: True, 4: False}, f"heads that cover the context: {together}")

    shape = (2, blocks * block - 5)  # a last block that is not full
    q = rng.standard_normal((*shape, heads, d), np.float32)
    k, v = (rng.standard_normal((*shape, shared, d), np.float32) for _ in range(2))
    single = np.kron(kept, np.ones((block, block), bool))[:, : shape[1], : shape[1]]
    single &= np.tri(shape[1], dtype=bool)
    o, lse = attend(q, k, v, layout)
    exact = [torch.from_numpy(x).double().requires_grad_() for x in (q, k, v)]
    expected = dense(*exact, single)
    off = float(np.abs(o - expected.detach().numpy()).max())
    claim(off < 1e-5, f"sparse attention is the masked dense one, off by {off:.1e}")
    do = rng.standard_normal(o.shape, np.float32)
    slopes = gossamer.attention_backward(do, q, k, v, o, lse, layout, causal=True)
    expected.backward(torch.from_numpy(do).double())
    gradient_off = max(
        float(np.abs(found - x.grad.numpy()).max())
        for found, x in zip(slopes[:3], exact, strict=True)
    )
    claim(gradient_off < 1e-4, f"so are its gradients, off by {gradient_off:.1e}")

    visited = visits(q[:1], k[:1], v[:1], layout)
    claim(np.array_equal(visited, kept), f"visited are the layout's blocks: {visited.sum()}")

    # Decoding: the last query alone, with NaN in all the keys that its heads do not keep.
    last, length = blocks - 1, shape[1]
    row = BlockLayout.from_mask(kept[:, last:], block=(1, block))
    for h in range(heads):
        of_head = h // (heads // shared)
        spoiled, values = k[:, :, [of_head]].copy(), v[:, :, [of_head]].copy()
        dropped = np.repeat(~kept[h, last], block)[:length]
        spoiled[:, dropped], values[:, dropped] = np.nan, np.nan
        only = BlockLayout.from_mask(kept[[h], last:], block=(1, block))
        step = gossamer.attention(q[:, -1:, [h]], spoiled, values, only, causal=True)[0]
        apart = float(np.abs(step[:, 0, 0] - o[:, -1, h]).max())
        claim(apart < 1e-5, f"head {h} decodes from its own blocks, off by {apart:.1e}")
    step = gossamer.attention(q[:, -1:], k, v, row, causal=True)[0]
    apart = float(np.abs(step[:, 0] - o[:, -1]).max())
    claim(apart < 1e-5, f"all heads decode at once, off by {apart:.1e}")
    return {
        "blocks": {"kept": layout.nblocks, "causal": causal},
        "density at 64 blocks": float(density),
        "off by": off,
        "gradients off by": gradient_off,
        "blocks to decode": {"kept": row.nblocks, "all": heads * blocks},
    }


def milliseconds(call: Callable[[], Any]) -> float:
    """Return the least time of a few calls."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def cost(kept: int, dense_scores: int, ours: Callable[[], Any], masked: Any) -> dict[str, Any]:
    """Say what is computed and how long it takes, here and by dense attention with a mask."""
    q, k, v, mask = masked
    heads_first = [torch.from_numpy(x).transpose(1, 2).contiguous() for x in (q, k, v)]
    mask = torch.from_numpy(mask)
    sdpa = torch.nn.functional.scaled_dot_product_attention
    return {
        "scores": {"kept": kept, "dense": dense_scores},
        "ms": {
            "gossamer": milliseconds(ours),
            "masked dense": milliseconds(lambda: sdpa(*heads_first, attn_mask=mask)),
        },
    }


def window() -> dict[str, Any]:
    """Check a sliding window, forward, backward and what it costs."""
    rng = np.random.default_rng(1)
    tokens, heads, d, block, width = 1000, 4, 32, 32, 100
    blocks = -(-tokens // block)
    q, k, v, do = (rng.standard_normal((1, tokens, heads, d), np.float32) for _ in range(4))
    near = -(-(width - 1) // block)  # blocks behind a query's own that its window reaches
    layout = BlockLayout.window_global(blocks=blocks, window=(near, 0), block=block)
    options: dict[str, Any] = {"causal": True, "window": (width - 1, 0)}
    behind = np.arange(tokens)[:, None] - np.arange(tokens)
    mask = (behind >= 0) & (behind < width)

    o, lse = gossamer.attention(q, k, v, layout, **options)
    exact = [torch.from_numpy(x).double().requires_grad_() for x in (q, k, v)]
    expected = dense(*exact, mask)
    off = float(np.abs(o - expected.detach().numpy()).max())
    claim(off < 1e-5, f"attention in a window is the masked dense one, off by {off:.1e}")
    slopes = gossamer.attention_backward(do, q, k, v, o, lse, layout, **options)
    expected.backward(torch.from_numpy(do).double())
    gradient_off = max(
        float(np.abs(found - x.grad.numpy()).max())
        for found, x in zip(slopes[:3], exact, strict=True)
    )
    claim(gradient_off < 1e-4, f"so are its gradients in the window, off by {gradient_off:.1e}")

    # The last query alone, with NaN in all the blocks of keys that its window does not reach.
    row = BlockLayout.from_mask(layout.to_mask()[0, :, -1:], block=(1, block))
    read_k, read_v, before = k.copy(), v.copy(), (blocks - 1 - near) * block
    read_k[:, :before], read_v[:, :before] = np.nan, np.nan
    last = gossamer.attention(q[:, -1:], read_k, read_v, row, **options)[0]
    apart = float(np.abs(last[:, 0] - o[:, -1]).max())
    claim(apart < 1e-5, f"blocks before the window are not read, off by {apart:.1e}")

    computed = layout.nblocks * heads * block**2
    claim(computed < 0.4 * heads * tokens**2 / 2, f"a window computes few scores: {computed}")
    twice = BlockLayout.window_global(blocks=2 * blocks, window=(near, 0), block=block)
    claim(twice.nblocks < 2.1 * layout.nblocks, "twice the tokens are twice the work")
    return {
        "off by": off,
        "gradients off by": gradient_off,
        **cost(
            computed,
            heads * tokens * (tokens + 1) // 2,
            lambda: gossamer.attention(q, k, v, layout, **options),
            (q, k, v, mask),
        ),
    }


def guessed(q: Array, k: Array, rank: int, keep: int) -> Array:
    """Keep for each token the keys with the largest scores in a few dimensions; the first sees all.

    Sparsifiner learns the projections; here they are random. Masks are [B, heads, N, N].
    """
    rng = np.random.default_rng(2)
    down = rng.standard_normal((q.shape[-1], rank), np.float32)
    scores = np.einsum("bihr,bjhr->bhij", q @ down, k @ down)
    tokens = scores.shape[-1]
    mask = prune.topk_mask(scores.reshape(-1, tokens), keep, per="row").reshape(scores.shape)
    mask[:, :, 0] = True  # the class token
    return mask


def instance() -> dict[str, Any]:
    """Check masks of images and heads, forward, backward, composed, and what they cost."""
    rng = np.random.default_rng(3)
    images, tokens, heads, d, keep = 2, 197, 3, 32, 50
    q, k, v, do = (rng.standard_normal((images, tokens, heads, d), np.float32) for _ in range(4))
    mask = guessed(q, k, 8, keep)
    claim(not (mask[0, 0] == mask[1, 0]).all(), "images have masks of their own")
    pattern = CSR.from_mask(mask.reshape(-1, tokens), dtype=None)
    kept = images * heads * (keep * (tokens - 1) + tokens)
    claim(pattern.nnz == kept, "each token keeps as many keys, the class token all")

    o, lse = gossamer.csr_attention(q, k, v, pattern)
    exact = [torch.from_numpy(x).double().requires_grad_() for x in (q, k, v)]
    expected = dense(*exact, mask)
    off = float(np.abs(o - expected.detach().numpy()).max())
    claim(off < 1e-5, f"attention under the masks is the masked dense one, off by {off:.1e}")
    slopes = gossamer.csr_attention_backward(do, q, k, v, o, lse, pattern)
    expected.backward(torch.from_numpy(do).double())
    gradient_off = max(
        float(np.abs(found - x.grad.numpy()).max())
        for found, x in zip(slopes[:3], exact, strict=True)
    )
    claim(gradient_off < 1e-4, f"so are its gradients under masks, off by {gradient_off:.1e}")

    # The same of single products, for the first head of the first image.
    one = CSR.from_mask(mask[0, 0], dtype=None)
    scores = gossamer.sddmm(q[0, :, 0], k[0, :, 0], one, scale=d**-0.5)
    weights = gossamer.csr_softmax(one.with_values(scores))
    apart = float(np.abs(gossamer.spmm(weights, v[0, :, 0].copy()) - o[0, :, 0]).max())
    claim(apart < 1e-5, f"softmax between two products is the same, off by {apart:.1e}")
    return {
        "off by": off,
        "gradients off by": gradient_off,
        **cost(
            pattern.nnz,
            mask.size,
            lambda: gossamer.csr_attention(q, k, v, pattern),
            (q, k, v, mask),
        ),
    }


PAPERS = {"s2": s2, "window": window, "instance": instance}
main = functools.partial(run, PAPERS, "Sparse attention.")

if __name__ == "__main__":
    main()
