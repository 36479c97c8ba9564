"""Attention whose heads keep different blocks: S2, heterogeneous context sharding.

s2  Efficient LLM training and serving with heterogeneous context sharding among attention heads
    (Lin et al., 2024): each head keeps the blocks near the diagonal and every eighth one, from
    an offset of its own, so that the heads together see the whole context. Checked against
    dense attention with a mask, forward and backward; decoding reads only the blocks that are
    kept, and a block that a head has dropped never comes back

pip install "gossamer[examples]"
python examples/sparse_attention.py       # a second
"""

from __future__ import annotations

import functools
from typing import Any

import gossamer
import numpy as np
from claims import claim, run
from gossamer import BlockLayout

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


PAPERS = {"s2": s2}
main = functools.partial(run, PAPERS, "Block-sparse attention.")

if __name__ == "__main__":
    main()
