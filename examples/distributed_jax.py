"""Two devices of JAX: prune, multiply, attend and train what neither holds alone.

The same four as in `distributed.py`, by `jax.shard_map` over two CPU devices of one process: the
ops work on one device's arrays, JAX moves what must move.

    pip install "gossamer[examples]" jax
    python examples/distributed_jax.py      # about ten seconds
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import gossamer
import numpy as np
from claims import claim, run
from gossamer import prune

try:
    import jax

    jax.config.update("jax_num_cpu_devices", 2)
    import gossamer.jax as gj
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P
except ImportError as error:
    sys.exit(f'{error}. This example needs: pip install "gossamer[examples]" jax')

PARTS = 2
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def mesh() -> Any:
    """Return the two devices in a row."""
    return Mesh(jax.devices()[:PARTS], ("part",))


def shared(function: Any, inputs: Any, outputs: Any) -> Any:
    """Return a function that runs on each device with its part of the arrays."""
    specs = {"mesh": mesh(), "in_specs": inputs, "out_specs": outputs}
    return jax.jit(jax.shard_map(function, **specs, check_vma=False))


def pruning() -> dict[str, Any]:
    """Keep exactly k of the weights of both devices; what travels between them are histograms."""
    w = jnp.asarray(np.random.default_rng(0).standard_normal((1024, 512)) * 50, jnp.float32).round()
    sharding = NamedSharding(mesh(), P("part"))
    mine = [shard.data for shard in jax.device_put(w, sharding).addressable_shards]
    add = shared(lambda counts: jax.lax.psum(counts, "part"), P("part"), P())
    k, rounds = w.size // 10, 0
    selection = prune.Selection(k)
    while not selection.done:
        counts = np.stack([selection.histogram(prune.score(part)) for part in mine])
        selection.narrow(np.asarray(add(counts.astype(np.int32)))[0].astype(np.int64))
        rounds += 1
    ties = [selection.ties(prune.score(part)) for part in mine]
    masks = [
        selection.emit(prune.score(part), ties_before=sum(ties[:i])) for i, part in enumerate(mine)
    ]
    expected = prune.topk_mask(prune.score(w), k)
    claim(np.array_equal(np.concatenate(masks), expected), "the masks are those of the whole")
    claim(int(expected.sum()) == k, f"exactly {k} are kept")
    return {"kept": k, "rounds": rounds}


def padded(a: gossamer.CSR, rows: int, nnz: int) -> gossamer.CSR:
    """Return a matrix with rows of stored zeros behind a's: one shape for all devices."""
    spare, width = nnz - a.nnz, a.shape[1]
    ends = np.minimum(np.arange(1, rows - a.shape[0] + 1) * width, spare)
    indptr = np.concatenate([a.indptr, a.indptr[-1] + ends]).astype(np.int32)
    indices = np.concatenate([a.indices, np.arange(spare) % width]).astype(np.int32)
    values = np.concatenate([a.values, np.zeros(spare, np.float32)])
    return gossamer.CSR(indptr, indices, values, (rows, width))


def alike(pieces: list[gossamer.CSR]) -> list[gossamer.CSR]:
    """Return matrices padded to one shape and one number of entries."""
    width, most = pieces[0].shape[1], max(piece.nnz for piece in pieces)
    rows = max(piece.shape[0] + -(-(most - piece.nnz) // width) for piece in pieces)
    return [padded(piece, rows, most) for piece in pieces]


def tensor_parallel() -> dict[str, Any]:
    """Cut a sparse MLP between the devices: hidden units by the nonzeros of the first layer."""
    rng = np.random.default_rng(1)
    inputs, hidden, outputs = 96, 256, 64
    up = rng.standard_normal((hidden, inputs)).astype(np.float32)
    up *= rng.random(up.shape) < np.linspace(0.6, 0, hidden)[:, None]
    down_t = rng.standard_normal((hidden, outputs)).astype(np.float32)
    down_t *= rng.random(down_t.shape) < 0.1
    x = jnp.linspace(-1, 1, 32 * inputs).reshape(32, inputs)

    first = gossamer.CSR.from_dense(up)
    inner = np.searchsorted(first.indptr, np.arange(1, PARTS) * first.nnz // PARTS)
    bounds = list(pairwise([0, *inner.tolist(), hidden]))
    # The second layer's transpose is cut at the same units.
    layers = [alike([gossamer.CSR.from_dense(w[i:j]) for i, j in bounds]) for w in (up, down_t)]
    trees = [jax.tree.structure(pieces[0]) for pieces in layers]
    leaves = [
        tuple(jnp.stack(same) for same in zip(*map(jax.tree.leaves, pieces), strict=True))
        for pieces in layers
    ]
    units = layers[1][0].shape[0]

    def layer(w_up: Any, w_down: Any, x: Any) -> Any:
        first, second = (
            jax.tree.unflatten(tree, [leaf[0] for leaf in own])
            for tree, own in zip(trees, (w_up, w_down), strict=True)
        )
        h = gj.linear(x, first, activation="relu")
        h = jnp.pad(h[:, :units], ((0, 0), (0, max(units - h.shape[1], 0))))
        return jax.lax.psum(gj.spmm(second, h.T, transpose_a=True).T, "part")

    both = shared(layer, (P("part"), P("part"), P()), P())

    def loss(v_up: Any, v_down: Any, x: Any) -> Any:
        w_up, w_down = ((*leaves[i][:2], v) for i, v in enumerate((v_up, v_down)))
        y = both(w_up, w_down, x)
        return (y**2).sum(), y

    def dense(up: Any, down_t: Any, x: Any) -> Any:
        y = jax.nn.relu(x @ up.T) @ down_t
        return (y**2).sum(), y

    values = leaves[0][2], leaves[1][2], x
    *slopes, g, y = jax.tree.leaves(jax.grad(loss, (0, 1, 2), has_aux=True)(*values))
    whole = jnp.asarray(up), jnp.asarray(down_t), x
    *expected, g_x, y_whole = jax.tree.leaves(jax.grad(dense, (0, 1, 2), has_aux=True)(*whole))
    close = {"rtol": 1e-3, "atol": 1e-2}
    np.testing.assert_allclose(y, y_whole, **CLOSE)
    np.testing.assert_allclose(g, g_x, **close)
    for slope, full, pieces in zip(slopes, expected, layers, strict=True):
        for own, piece, (i, j) in zip(slope, pieces, bounds, strict=True):
            kept = piece.with_values(np.ones(piece.nnz, np.float32)).to_dense()[: j - i]
            ours = piece.with_values(np.asarray(own)).to_dense()[: j - i]
            np.testing.assert_allclose(ours, np.where(kept, full[i:j], 0), **close)
    counts = [int(np.count_nonzero(up[i:j])) for i, j in bounds]
    longest = int(np.count_nonzero(up, axis=1).max())
    claim(max(counts) - min(counts) <= 2 * longest, f"pieces are in balance: {counts}")
    return {"rows": [j - i for i, j in bounds], "nonzeros": counts}


def sequence_parallel() -> dict[str, Any]:
    """Attend over a sequence that is cut in two; keys and values go round, parts are merged."""
    tokens, heads, features, block = 256, 4, 32, 16
    n, side = tokens // PARTS, tokens // PARTS // block
    rng = np.random.default_rng(2)
    q, k, v = (
        jnp.asarray(rng.standard_normal((1, tokens, heads, features)), jnp.float32)
        for _ in range(3)
    )
    pattern = gossamer.BlockLayout.local_stride(
        heads=heads, blocks=tokens // block, local=3, stride=4, block=block
    )
    kept = pattern.to_mask()[0]

    def part(queries: int, keys: int, q: Any, k: Any, v: Any) -> Any:
        """Return the attention of one device's queries to one device's keys."""
        if keys > queries:  # which are behind all of the queries
            return jnp.zeros_like(q), jnp.full((1, heads, n), -jnp.inf)
        mask = kept[:, queries * side : (queries + 1) * side, keys * side : (keys + 1) * side]
        layout = gossamer.BlockLayout.from_mask(mask, block=block)
        return gj.attention(q, k, v, layout, causal=True, q_offset=(queries - keys) * n)

    def ring(q: Any, k: Any, v: Any) -> Any:
        parts = []
        for turn in range(PARTS):
            mine = [partial(part, i, (i - turn) % PARTS) for i in range(PARTS)]
            parts.append(jax.lax.switch(jax.lax.axis_index("part"), mine, q, k, v))
            next_one = [(i, (i + 1) % PARTS) for i in range(PARTS)]
            k, v = (jax.lax.ppermute(x, "part", next_one) for x in (k, v))
        return gj.merge_attention(parts)[0]

    cut_in_two = P(None, "part")
    both = shared(ring, (cut_in_two,) * 3, cut_in_two)
    weights = jnp.cos(jnp.arange(q.size, dtype=jnp.float32)).reshape(q.shape)

    def whole(q: Any, k: Any, v: Any) -> Any:
        return gj.attention(q, k, v, pattern, causal=True)[0]

    np.testing.assert_allclose(both(q, k, v), whole(q, k, v), **CLOSE)
    slopes = (
        jax.jit(jax.grad(lambda *x, f=f: (f(*x) * weights).sum(), (0, 1, 2)))(q, k, v)
        for f in (both, whole)
    )
    for ours, theirs in zip(*slopes, strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE)
    return {"blocks": [int(half.sum()) for half in np.split(kept, PARTS, axis=1)]}


def training() -> dict[str, Any]:
    """Train a sparse layer with half of the batch on each device; gradients are averaged."""
    rng = np.random.default_rng(3)
    truth = rng.standard_normal((16, 64)).astype(np.float32) * (rng.random((16, 64)) < 0.2)
    x = jnp.asarray(rng.standard_normal((256, 64)), jnp.float32)
    y = x @ truth.T
    w = gossamer.CSR.from_mask(jnp.asarray(truth != 0))

    def loss(values: Any, x: Any, y: Any) -> Any:
        return ((gj.linear(x, w.with_values(values)) - y) ** 2).mean()

    def step(values: Any, x: Any, y: Any) -> Any:
        value, slope = jax.value_and_grad(loss)(values, x, y)
        value, slope = (jax.lax.pmean(z, "part") for z in (value, slope))
        return values - 2.0 * slope, value, slope

    both = shared(step, (P(), P("part"), P("part")), (P(), P(), P()))
    values = jnp.zeros(w.nnz)
    _, first, slope = both(values, x, y)
    np.testing.assert_allclose(slope, jax.grad(loss)(values, x, y), **CLOSE)
    for _ in range(100):
        values, last, _ = both(values, x, y)
    claim(last < 1e-3 * first, f"the loss falls from {first} to less than a thousandth: {last}")
    return {"first loss": round(float(first), 4), "last loss": float(last)}


STEPS = {
    "pruning": pruning,
    "tensor_parallel": tensor_parallel,
    "sequence_parallel": sequence_parallel,
    "training": training,
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the parts that the command line names, all of them by default."""
    return run(STEPS, __doc__ or "", argv)


if __name__ == "__main__":
    main()
