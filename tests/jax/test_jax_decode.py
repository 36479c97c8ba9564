"""gossamer.jax's attention to a cache and choice of blocks against the core and dense formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
import pytest

jax = pytest.importorskip("jax")
import gossamer.jax as gj  # noqa: E402
import jax.numpy as jnp  # noqa: E402

pytestmark = pytest.mark.once

B, T, H, HKV, D, DV, PAGES, SIZE = 2, 2, 4, 2, 8, 5, 6, 4


def random(*shape: int, seed: int = 0) -> Any:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def integers(*shape: int, seed: int = 0) -> Any:
    return jnp.asarray(np.random.default_rng(seed).integers(-3, 4, shape), jnp.float32)


def cache() -> tuple[Any, ...]:
    q, k = random(B, T, H, D), random(PAGES, SIZE, HKV, D, seed=1)
    lists = jnp.array([0, 2, 5], jnp.int32), jnp.array([4, 0, 1, 5, 2], jnp.int32)
    return (q, k, random(PAGES, SIZE, HKV, DV, seed=2), *lists)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "lengths": {"lengths": jnp.array([7, 9], jnp.int32), "causal": True},
    "rule": {"scale": 0.3, "softcap": 2.0, "sinks": random(H, seed=5)},
}


def dense(q: Any, k: Any, v: Any, indptr: Any, indices: Any, **options: Any) -> tuple[Any, Any]:
    """Attend sequence after sequence, in the order of its pages."""
    cap, sinks = options.get("softcap"), options.get("sinks")
    results = []
    for b in range(B):
        pages = indices[indptr[b] : indptr[b + 1]]
        keys, values = (x[pages].reshape(-1, *x.shape[2:]) for x in (k, v))
        keys, values = (jnp.repeat(x, H // HKV, axis=1) for x in (keys, values))
        length = options["lengths"][b] if "lengths" in options else len(keys)
        s = jnp.einsum("thd,jhd->htj", q[b], keys) * options.get("scale", D**-0.5)
        s = s if cap is None else cap * jnp.tanh(s / cap)
        behind = T - 1 - jnp.arange(T)[:, None] if options.get("causal") else 0
        s = jnp.where(jnp.arange(len(keys))[None, :] < length - behind, s, -jnp.inf)
        full = s
        if sinks is not None:
            sink = jnp.broadcast_to(sinks[:, None, None], (H, T, 1))
            full = jnp.concatenate([s, sink], -1)
        lse = jax.nn.logsumexp(full, axis=-1)
        results.append((jnp.einsum("htj,jhd->thd", jnp.exp(s - lse[..., None]), values), lse))
    o, lse = map(jnp.stack, zip(*results, strict=True))
    return o, lse


@pytest.mark.parametrize("name", OPTIONS)
def test_attention_decode_is_the_formula(name: str) -> None:
    options = OPTIONS[name]
    arrays = {key: x for key, x in options.items() if isinstance(x, jax.Array)}
    rest = {key: x for key, x in options.items() if key not in arrays}
    run = jax.jit(lambda given, named: gj.attention_decode(*given, **named, **rest))
    for a, b in zip(run(cache(), arrays), dense(*cache(), **options), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_attention_decode_has_the_cores_bits() -> None:
    for options in OPTIONS.values():
        plain = {k: np.asarray(x) if hasattr(x, "shape") else x for k, x in options.items()}
        expected = gossamer.attention_decode(*map(np.asarray, cache()), **plain)
        for a, b in zip(gj.attention_decode(*cache(), **options), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_vmap_of_attention_decode_is_a_loop() -> None:
    q, *rest = cache()
    many = jnp.stack([q, 2 * q, -q])
    got = jax.vmap(lambda q: gj.attention_decode(q, *rest))(many)
    lengths = jnp.array([[8, 12], [1, 0], [5, 9]], jnp.int32)
    cut = jax.jit(jax.vmap(lambda n: gj.attention_decode(q, *rest, lengths=n)))(lengths)
    for i in range(3):
        one = gj.attention_decode(many[i], *rest)
        short = gj.attention_decode(q, *rest, lengths=lengths[i])
        for j in (0, 1):
            np.testing.assert_array_equal(got[j][i], one[j])
            np.testing.assert_array_equal(cut[j][i], short[j])


def test_attention_decode_has_no_derivative_and_says_so() -> None:
    q, *rest = cache()
    with pytest.raises(NotImplementedError, match=r"^attention_decode: a derivative is asked for"):
        jax.grad(lambda q: gj.attention_decode(q, *rest)[0].sum())(q)
    # One that does not reach it is none.
    got = jax.grad(lambda x: (x * gj.attention_decode(q, *rest)[0]).sum())(2.0)
    np.testing.assert_allclose(got, gj.attention_decode(q, *rest)[0].sum(), rtol=1e-5)


def test_attention_decode_reads_no_page_that_is_not_there() -> None:
    q, k, v, indptr, indices = cache()
    for name, lists in {
        r"indices\[2\] is 6, expected 0 to 5": (indptr, indices.at[2].set(6)),
        r"indptr\[1\] is -1, expected at least": (indptr.at[1].set(-1), indices),
    }.items():
        with pytest.raises(Exception, match=f"attention_decode: {name}"):
            jax.block_until_ready(jax.jit(gj.attention_decode)(q, k, v, *lists))


def pooled_by(mode: str, block: int) -> Callable[[Any], Any]:
    def formula(x: Any) -> Any:
        cuts = [x[:, i : i + block] for i in range(0, x.shape[1], block)]
        return jnp.stack([getattr(jnp, mode)(cut, axis=1) for cut in cuts], axis=1)

    return formula


@pytest.mark.parametrize("mode", ["mean", "max", "min"])
@pytest.mark.parametrize("block", [1, 3, 7, 9])
def test_block_pool_and_its_gradients_are_those_of_the_formula(mode: str, block: int) -> None:
    x = integers(2, 7, 2, 3, seed=block)  # with ties
    formula = pooled_by(mode, block)
    weights = random(*formula(x).shape, seed=9)
    ours = jax.jit(lambda x: gj.block_pool(x, block, mode=mode))
    np.testing.assert_allclose(ours(x), formula(x), rtol=1e-6)
    for power in (1, 2):
        got, expected = (
            jax.grad(lambda x, f=f, n=power: (f(x) ** n * weights).sum())(x)
            for f in (ours, formula)
        )
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)

    def second(f: Any) -> Any:
        return jax.grad(lambda x: (jax.grad(lambda x: (f(x) ** 3).sum())(x) ** 2).sum())(x)

    np.testing.assert_allclose(second(ours), second(formula), rtol=1e-5, atol=1e-5)
    many = jnp.stack([x, 2 * x])
    for a, one in zip(jax.vmap(ours)(many), many, strict=True):
        np.testing.assert_array_equal(a, ours(one))


def test_narrow_types_are_pooled_in_float32() -> None:
    x = integers(1, 5, 2, 3).astype(jnp.bfloat16)
    for mode in ("mean", "max"):
        pooled, slope = jax.value_and_grad(lambda x, m=mode: gj.block_pool(x, 2, mode=m).sum())(x)
        assert pooled.dtype == jnp.float32 and slope.dtype == jnp.bfloat16
    assert gj.block_pool(integers(1, 0, 2, 3), 2).shape == (1, 0, 2, 3)
    x = jnp.array([1, jnp.nan, 3, 4]).reshape(1, 4, 1, 1)
    slope = jax.grad(lambda x: gj.block_pool(x, 2, mode="max").sum())(x)
    assert slope.ravel().tolist() == [0, 1, 0, 1]


TOPK: dict[str, dict[str, Any]] = {
    "plain": {},
    "quest": {"pooled_min": integers(B, 6, HKV, D, seed=3) - 3},
    "kept": {
        **{"rows": 4, "block": 2, "causal": True, "q_offset": -4, "keep_first": 1},
        "keep_local": 1,
    },
}


@pytest.mark.parametrize("name", TOPK)
def test_block_topk_has_the_cores_bits(name: str) -> None:
    q, pooled, options = integers(B, 3, H, D), integers(B, 6, HKV, D, seed=1), TOPK[name]
    plain = {k: np.asarray(x) if hasattr(x, "shape") else x for k, x in options.items()}
    expected = gossamer.block_topk(np.asarray(q), np.asarray(pooled), 3, **plain)
    assert len(np.unique(expected)) > 2
    run = jax.jit(lambda q, pooled: gj.block_topk(q, pooled, 3, **options))
    np.testing.assert_array_equal(run(q, pooled), expected)
    many = jnp.stack([q, -q])
    for a, one in zip(jax.vmap(lambda q: run(q, pooled))(many), many, strict=True):
        np.testing.assert_array_equal(a, run(one, pooled))


def test_block_topk_is_a_constant_to_derivatives() -> None:
    q, pooled = integers(B, 3, H, D), integers(B, 6, HKV, D, seed=1)

    def chosen(q: Any, pooled: Any) -> Any:
        places = jax.lax.stop_gradient(gj.block_topk(q, pooled, 2))
        return (q.sum() * places).sum()

    slopes = jax.grad(chosen, (0, 1))(q, pooled)
    np.testing.assert_array_equal(slopes[0], gj.block_topk(q, pooled, 2).sum())
    np.testing.assert_array_equal(slopes[1], 0)


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (lambda: gj.block_pool("x", 2), TypeError, "block_pool: x is a str, expected an array"),
        (lambda: gj.block_pool(jnp.ones(3), 2), ValueError, "block_pool: x.ndim is 1, expected 4"),
        (
            lambda: gj.block_pool(jnp.ones((1, 2, 1, 1)), 0),
            ValueError,
            "block_pool: block is 0, expected 1 to 2147483647",
        ),
        (
            lambda: gj.block_pool(jnp.ones((1, 2, 1, 1)), 1.5),
            TypeError,
            "block_pool: block is 1.5, expected an integer",
        ),
        (
            lambda: gj.block_pool(jnp.ones((1, 2, 1, 1)), 1, mode="sum"),
            ValueError,
            "block_pool: mode is 'sum', expected 'mean', 'max' or 'min'",
        ),
        (
            lambda: gj.block_topk(jnp.ones((1, 2, 1, 1)), jnp.ones((1, 2, 1)), 1),
            ValueError,
            "block_topk: pooled.ndim is 3, expected 4",
        ),
        (
            lambda: gj.block_topk(jnp.ones((1, 2, 1, 1)), jnp.ones((1, 2, 1, 1)), -1),
            ValueError,
            "block_topk: k is -1, expected 0 to 2147483647",
        ),
        (
            lambda: gj.block_topk(jnp.ones((1, 2, 1, 1)), jnp.ones((1, 2, 1, 1)), 1, rows="a"),
            TypeError,
            "block_topk: rows is 'a', expected an integer",
        ),
        (
            lambda: gj.attention_decode(cache()[0][0], *cache()[1:]),
            ValueError,
            "attention_decode: q.ndim is 3, expected 4",
        ),
        (
            lambda: gj.attention_decode(*cache()[:3], jnp.zeros(3), cache()[4]),
            TypeError,
            "attention_decode: indptr.dtype is float32, expected int32",
        ),
        (
            lambda: gj.attention_decode(*cache(), causal="yes"),
            TypeError,
            "attention_decode: causal is 'yes', expected True or False",
        ),
        (
            lambda: gj.attention_decode(*cache(), softcap="a"),
            TypeError,
            "attention_decode: softcap is 'a', expected a number",
        ),
        (
            lambda: jax.jit(lambda x: gossamer.block_pool(x, 1))(jnp.ones((1, 2, 1, 1))),
            TypeError,
            "block_pool: x is traced, expected an array with values: inside jit, grad and vmap, "
            "gossamer.jax.block_pool works",
        ),
        (
            lambda: jax.jit(lambda x: gossamer.prune.block_pool(x, (1, 1)))(jnp.ones((2, 2))),
            TypeError,
            "block_pool: score is traced, expected an array with values: inside jit, grad and "
            "vmap, it does not work",
        ),
        (
            lambda: jax.jit(lambda x: gossamer.attention_decode(x, *cache()[1:]))(cache()[0]),
            TypeError,
            "attention_decode: q is traced, expected an array with values: inside jit, grad and "
            "vmap, gossamer.jax.attention_decode works",
        ),
        (
            lambda: jax.jit(lambda x: gossamer.BlockLayout.from_topk(x, cols=4, block=4))(
                jnp.zeros((1, 1, 2, 1), jnp.int32)
            ),
            TypeError,
            "BlockLayout.from_topk: indices is traced, expected an array with values: inside jit, "
            "grad and vmap, it does not work",
        ),
    ],
)
def test_message(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message
