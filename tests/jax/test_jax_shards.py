"""gossamer.jax inside `jax.shard_map`: a process with two devices runs this file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from library import run

jax = pytest.importorskip("jax")
import gossamer  # noqa: E402
import gossamer.jax as gj  # noqa: E402
import jax.numpy as jnp  # noqa: E402

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="an older JAX"),
]


def random(*shape: int, seed: int = 0) -> Any:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def weight() -> Any:
    w = np.asarray(random(16, 32))
    return jnp.asarray(w * gossamer.prune.nm_mask(abs(w), 2, 4))


def values_of(a: Any) -> Any:
    """Return the values as an array that JAX may put on any device."""
    return jnp.asarray(np.asarray(a.blocks if isinstance(a, gossamer.BSR) else a.values))


def cases() -> dict[str, tuple[Callable[..., Any], Any, Any]]:
    """Functions of an operand that all devices have and of one that is cut, and both."""
    csr = gossamer.CSR.from_dense(weight())
    bsr = gossamer.BSR.from_dense(weight(), 4)
    nm = gossamer.NM.from_dense(weight(), 2, 4)
    pattern = gossamer.CSR.from_mask(jnp.ones((8, 8), bool))
    layout = gossamer.BlockLayout.from_mask(jnp.ones((1, 2, 2), bool), block=4)
    columns = jnp.asarray([[1, 2, 3]], jnp.int32)
    x, q = random(4, 32, seed=1), random(2, 8, 2, 8, seed=2)
    streams = {"last": (2, 32), "sums": (2, 16)}

    def delta(wt: Any, x: Any) -> Any:
        state = tuple(jnp.zeros((len(x), size)) for _, size in streams.values())
        return gj.delta_linear(x, wt, state, threshold=0.0)[0]

    def sampled(b: Any, a: Any) -> Any:
        return [gj.sddmm(one, b, pattern) for one in a]

    made = {
        "linear, CSR": (lambda v, x: gj.linear(x, csr.with_values(v)), values_of(csr), x),
        "linear, BSR": (lambda v, x: gj.linear(x, bsr.with_values(v)), values_of(bsr), x),
        "linear, NM": (lambda v, x: gj.linear(x, nm.with_values(v)), values_of(nm), x),
        "spmm, CSR": (lambda v, x: gj.spmm(csr.with_values(v), x.T), values_of(csr), x),
        "spmm, NM": (
            lambda v, x: gj.spmm(nm.with_values(v), x.T[:16], transpose_a=True),
            *(values_of(nm), x),
        ),
        "sddmm": (sampled, random(8, 4), random(2, 8, 4, seed=1)),
        "sparse_linear": (lambda w, x: gj.sparse_linear(x, w, threshold=0.0), random(32, 16), x),
        "delta_linear": (delta, random(32, 16), x),
        "gated_mlp": (lambda w, x: gj.gated_mlp(x, *w, threshold=0.0), random(3, 16, 32), x),
        "attention": (
            lambda b, q: gj.attention(q, q, q, layout, bias=b, sinks=b[0, 0, 0, :2]),
            *(random(1, 1, 8, 8), q),
        ),
        "csr_attention": (lambda k, q: gj.csr_attention(q, k + 0 * q, k * q, pattern), q[:1], q),
        "csr_softmax": (
            lambda k, x: gj.csr_softmax(pattern.with_values(k * x)).values,
            *(random(64), random(2, 64, seed=1)),
        ),
        "block_pool": (lambda k, q: gj.block_pool(q + k, 4), random(1, 1, 2, 8, seed=3), q),
        "gather_decode": (
            lambda t, v: gj.gather_decode(jnp.repeat(columns, len(v), 0), v, t),
            *(random(16, 8), random(4, 3)),
        ),
        "topk_rows": (lambda k, x: gj.topk_rows(x * k, 3)[0], random(1, 32, seed=3), x),
        "block_topk": (lambda k, q: gj.block_topk(q, k * q, 2), q[:1], q),
    }

    def decode(cache: Any, q: Any) -> Any:
        lists = jnp.arange(len(q) + 1, dtype=jnp.int32), jnp.zeros(len(q), jnp.int32)
        return gj.attention_decode(q, cache, cache, *lists)

    return {**made, "attention_decode": (decode, q[:1], q)}


def total(results: Any) -> Any:
    leaves = jax.tree.leaves(results)
    return sum((y**2).sum() for y in leaves if jnp.issubdtype(y.dtype, jnp.floating))


def check(name: str, function: Callable[..., Any], same: Any, cut: Any) -> None:
    """Compare two devices with one; on both, `same` is whole and `cut` is half."""
    whole, half = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("d")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("d",))

    def sharded(f: Callable[..., Any], cut_as: Any, out: Any) -> Any:
        return jax.shard_map(f, mesh=mesh, in_specs=(whole, cut_as), out_specs=out)

    with pytest.raises(ValueError, match="require replication"):
        jax.jit(sharded(function, half, whole))(same, cut)
    alone = jax.jit(sharded(function, whole, whole))(same, cut)
    for got, want in zip(jax.tree.leaves(alone), jax.tree.leaves(function(same, cut)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=name)
    if name in {"block_topk", "attention_decode"}:  # without a derivative
        return
    summed = sharded(lambda s, c: jax.lax.psum(total(function(s, c)), "d"), half, whole)
    both = jax.jit(jax.grad(summed, (0, 1)))(same, cut)
    one = jax.grad(lambda s, c: total(function(s, c)), (0, 1))(same, cut)
    for got, want in zip(both, one, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-4, err_msg=name)


def test_shards_know_what_varies_and_sum_the_gradients_of_what_does_not() -> None:
    flags = "--xla_force_host_platform_device_count=2"
    path = os.pathsep.join(sys.path)
    printed = run(sys.executable, __file__, XLA_FLAGS=flags, PYTHONPATH=path)
    assert printed.split() == ["right"] * len(cases())


if __name__ == "__main__":
    for case, (function, same, cut) in cases().items():
        check(case, function, same, cut)
        print("right")
