"""gossamer.jax's attention, softmax and sparse_linear against the dense formulas."""

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

B, S, H, HKV, D, BLOCK = 2, 12, 4, 2, 8, 4
CLOSE = {"rtol": 2e-4, "atol": 2e-4}


def random(*shape: int, seed: int = 0) -> Any:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def operands() -> tuple[Any, ...]:
    return tuple(random(B, S, h, D, seed=i) for i, h in enumerate((H, HKV, HKV)))


BLOCKS = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1]], bool)
ELEMENTS = np.kron(BLOCKS, np.ones((BLOCK, BLOCK), bool))


def layout(kind: str = "blocks") -> Any:
    if kind == "blocks":
        return gossamer.BlockLayout.from_mask(BLOCKS[None], block=BLOCK)
    return gossamer.BlockLayout.from_csr(gossamer.CSR.from_mask(ELEMENTS), block=3)


def dense(
    q: Any, k: Any, v: Any, *, kept: Any = ELEMENTS, bias: Any = None, sinks: Any = None
) -> tuple[Any, Any]:
    k, v = (jnp.repeat(x, H // HKV, axis=2) for x in (k, v))
    s = jnp.einsum("bihd,bjhd->bhij", q, k) / D**0.5
    if bias is not None:
        s = s + bias
    s = jnp.where(kept, s, -jnp.inf)
    full = s
    if sinks is not None:
        sink = jnp.broadcast_to(sinks[None, :, None, None], (*s.shape[:-1], 1))
        full = jnp.concatenate([s, sink], -1)
    lse = jax.nn.logsumexp(full, axis=-1)
    return jnp.einsum("bhij,bjhd->bihd", jnp.exp(s - lse[..., None]), v), lse


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bits": {},
    "bias": {"bias": random(B, H, S, S, seed=5)},
    "broadcast": {"bias": random(1, H, S, S, seed=5)},
    "sinks": {"sinks": random(H, seed=5)},
}


def check(ours: Any, theirs: Any, arguments: tuple[Any, ...]) -> None:
    """Compare results and the gradients of all of them, under jit."""
    expected = jax.eval_shape(theirs, *arguments)
    weights = tuple(random(*x.shape, seed=9) for x in expected)

    def both(function: Any) -> Any:
        results, backward = jax.vjp(function, *arguments)
        return (*results, *backward(weights))

    got, expected = jax.jit(both, static_argnums=0)(ours), jax.jit(both, static_argnums=0)(theirs)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, **CLOSE)


def check_second(ours: Any, theirs: Any, arguments: tuple[Any, ...]) -> None:
    """Compare derivatives of the second order of the first argument."""

    def second(function: Any) -> Any:
        first = jax.grad(lambda x: (function(x, *arguments[1:])[0] ** 3).sum())
        return jax.jit(jax.grad(lambda x: (first(x) ** 2).sum()))(arguments[0])

    np.testing.assert_allclose(second(ours), second(theirs), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", OPTIONS)
def test_attention_and_its_gradients_are_those_of_the_formula(name: str) -> None:
    options, made = OPTIONS[name], layout("bits" if name == "bits" else "blocks")
    check(
        lambda q, k, v, *x: gj.attention(q, k, v, made, **dict(zip(options, x, strict=True))),
        lambda q, k, v, *x: dense(q, k, v, **dict(zip(options, x, strict=True))),
        (*operands(), *options.values()),
    )


def test_options_and_packed_sequences_are_the_cores() -> None:
    q, k, v = operands()
    options: dict[str, Any] = {"causal": True, "window": (5, None), "scale": 0.3, "softcap": 2.0}
    made = layout("bits")
    got = jax.jit(lambda q, k, v: gj.attention(q, k, v, made, q_offset=1, **options))(q, k, v)
    for a, b in zip(got, gossamer.attention(q, k, v, made, q_offset=1, **options), strict=True):
        np.testing.assert_array_equal(a, b)
    flat = [x.reshape(B * S, -1, D) for x in (q, k, v)]
    starts = jnp.array([0, S, 2 * S], jnp.int32)

    def packed(q: Any, k: Any, v: Any) -> Any:
        return gj.attention(q, k, v, layout(), cu_seqlens=starts)[0].reshape(B, S, H, D)

    np.testing.assert_array_equal(packed(*flat), gj.attention(q, k, v, layout())[0])
    got = jax.grad(lambda *x: (packed(*x) ** 2).sum())(*flat)
    expected = jax.grad(lambda *x: (gj.attention(*x, layout())[0] ** 2).sum())(q, k, v)
    np.testing.assert_array_equal(got.reshape(q.shape), expected)


def test_vmap_is_a_loop_and_layouts_are_pytrees() -> None:
    q, k, v = operands()
    many = jnp.stack([q, 2 * q, -q])
    got = jax.vmap(lambda q: gj.attention(q, k, v, layout())[0])(many)
    for a, x in zip(got, many, strict=True):
        np.testing.assert_array_equal(a, gj.attention(x, k, v, layout())[0])
    slopes = jax.vmap(jax.grad(lambda q: gj.attention(q, k, v, layout())[0].sum()))(many)
    np.testing.assert_array_equal(
        slopes[1], jax.grad(lambda q: gj.attention(q, k, v, layout())[0].sum())(many[1])
    )
    for kind in ("blocks", "bits"):
        made = layout(kind)
        again = jax.tree.unflatten(*jax.tree.flatten(made)[::-1])
        np.testing.assert_array_equal(again.to_mask(elements=True), made.to_mask(elements=True))
        traced = jax.jit(gj.attention)(q, k, v, made)
        np.testing.assert_array_equal(traced[0], gj.attention(q, k, v, made)[0])


def test_merged_parts_are_the_whole() -> None:
    q, k, v = operands()
    q = q.at[0, 0].set(0)
    masks = [np.where(np.arange(3)[None, :] == i, BLOCKS, False) for i in range(3)]
    layouts = [gossamer.BlockLayout.from_mask(mask[None], block=BLOCK) for mask in masks]

    def parts(q: Any, k: Any, v: Any) -> Any:
        return gj.merge_attention([gj.attention(q, k, v, part) for part in layouts])

    check(parts, dense, (q, k, v))
    nothing = jnp.ones((1, 1, 1, 2)), jnp.full((1, 1, 1), -jnp.inf)
    o, lse = gj.merge_attention([nothing] * 2)
    assert (o == 0).all() and jnp.isneginf(lse).all()
    slopes = jax.grad(lambda part: gj.merge_attention([part] * 2)[0].sum())(nothing)
    for slope in slopes:
        np.testing.assert_array_equal(slope, 0)


def entries() -> tuple[Any, np.ndarray]:
    mask = np.random.default_rng(3).random((7, 5)) < 0.5
    mask[2] = False
    return gossamer.CSR.from_mask(mask), mask


@pytest.mark.parametrize("score", ["dot", "gat"])
@pytest.mark.parametrize("biased", [False, True])
def test_csr_attention_and_its_gradients_are_those_of_the_formula(score: Any, biased: bool) -> None:
    pattern, mask = entries()
    rows, cols = np.nonzero(mask)
    one = () if score == "gat" else (D,)
    q, k, v = random(B, 7, H, *one), random(B, 5, HKV, *one, seed=1), random(B, 5, HKV, D, seed=2)
    bias = (random(H, pattern.nnz, seed=4),) if biased else ()

    def formula(q: Any, k: Any, v: Any, *bias: Any) -> tuple[Any, Any]:
        k, v = (jnp.repeat(x, H // HKV, axis=2) for x in (k, v))
        if score == "dot":
            s = jnp.einsum("bihd,bjhd->bhij", q, k) / D**0.5
        else:
            s = jax.nn.leaky_relu(q.swapaxes(1, 2)[..., None] + k.swapaxes(1, 2)[..., None, :], 0.3)
        if bias:
            s = s.at[..., rows, cols].add(bias[0])
        s = jnp.where(mask, s, -1e30)
        empty = ~mask.any(1)
        lse = jnp.where(empty, -jnp.inf, jax.nn.logsumexp(s, axis=-1))
        p = jnp.where(mask, jnp.exp(s - jnp.where(empty, 0, lse)[..., None]), 0)
        return jnp.einsum("bhij,bjhd->bihd", p, v), jnp.where(empty, 0, lse)

    def ours(q: Any, k: Any, v: Any, *bias: Any) -> tuple[Any, Any]:
        given = bias[0] if bias else None
        o, lse = gj.csr_attention(q, k, v, pattern, score=score, slope=0.3, bias=given)
        return o, jnp.where(~mask.any(1), 0, lse)

    check(ours, formula, (q, k, v, *bias))


def test_csr_softmax_and_its_gradient() -> None:
    pattern, mask = entries()
    x = random(3, pattern.nnz)
    a = pattern.with_values(x)
    rows, cols = np.nonzero(mask)

    def formula(x: Any) -> tuple[Any]:
        s = jnp.full((3, *mask.shape), -1e30).at[:, rows, cols].set(x)
        return (jax.nn.softmax(s, axis=-1)[:, rows, cols],)

    check(lambda x: (gj.csr_softmax(a.with_values(x)).values,), formula, (x,))
    batched = jax.vmap(lambda x: gj.csr_softmax(a.with_values(x)).values)(x)
    np.testing.assert_allclose(batched, gossamer.csr_softmax(a).values, rtol=1e-6)
    again = jax.jit(gj.csr_softmax)(a.with_values(x[0]))
    np.testing.assert_array_equal(again.values, batched[0])


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("tokens", [(), (3,), (2, 2)])
def test_sparse_linear_and_its_gradients_are_those_of_the_formula(
    tokens: tuple[int, ...], each: bool
) -> None:
    x, wt, bias = random(*tokens, 7), random(7, 5, seed=1), random(5, seed=2)
    threshold = abs(random(7, seed=3)) if each else 0.8

    def formula(x: Any, wt: Any, bias: Any) -> tuple[Any]:
        passes = ~(abs(x) < threshold).reshape(-1, 7).all(0)
        return (jax.nn.gelu(jnp.where(passes, x, 0) @ wt + bias, approximate=False),)

    def ours(x: Any, wt: Any, bias: Any) -> tuple[Any]:
        return (gj.sparse_linear(x, wt, threshold=threshold, bias=bias, activation="gelu"),)

    check(ours, formula, (x, wt, bias))
    check_second(ours, formula, (x, wt, bias))
    many = jnp.stack([x, 2 * x])
    got = jax.vmap(lambda x: ours(x, wt, bias)[0])(many)
    for a, one in zip(got, many, strict=True):
        np.testing.assert_array_equal(a, ours(one, wt, bias)[0])


@pytest.mark.parametrize("tokens, each", [((), True), ((3,), False), ((2, 2), True)])
def test_gated_mlp_and_its_gradients_are_those_of_the_formula(
    tokens: tuple[int, ...], each: bool
) -> None:
    x, weights = random(*tokens, 7), [random(5, 7, seed=seed) for seed in (1, 2, 3)]
    threshold = abs(random(5, seed=4)) / 2 if each else 0.3

    def formula(x: Any, w_gate: Any, w_up: Any, w_down_t: Any) -> tuple[Any]:
        a = jax.nn.silu(x @ w_gate.T)
        passes = ~(abs(a) < threshold).reshape(-1, 5).all(0)
        return (jnp.where(passes, a * (x @ w_up.T), 0) @ w_down_t,)

    def ours(*operands: Any) -> tuple[Any]:
        return (gj.gated_mlp(*operands, threshold=threshold),)

    check(ours, formula, (x, *weights))
    check_second(ours, formula, (x, *weights))
    many = jnp.stack([x, 2 * x])
    for a, one in zip(jax.vmap(lambda x: ours(x, *weights)[0])(many), many, strict=True):
        np.testing.assert_array_equal(a, ours(one, *weights)[0])
    for activation in (None, "relu", "relu6", "gelu", "silu", ("clamp", -0.5, 1.0)):
        got = gj.gated_mlp(x, *weights, threshold=threshold, activation=activation)
        expected = gossamer.gated_mlp(
            *map(np.asarray, (x, *weights)),
            threshold=np.asarray(threshold) if each else threshold,
            activation=activation,
        )
        np.testing.assert_allclose(got, expected, **CLOSE)


@pytest.mark.parametrize("tokens", [(), (3,), (2, 2)])
def test_gather_decode_and_its_gradients_are_those_of_the_formula(tokens: tuple[int, ...]) -> None:
    values, table, bias = random(*tokens, 4), random(6, 5, seed=1), random(5, seed=2)
    indices = jnp.asarray(np.random.default_rng(3).integers(0, 6, (*tokens, 4)), jnp.int32)

    def formula(values: Any, table: Any, bias: Any) -> tuple[Any]:
        return ((values[..., None] * table[indices]).sum(-2) + bias,)

    def ours(values: Any, table: Any, bias: Any) -> tuple[Any]:
        return (gj.gather_decode(indices, values, table, bias=bias),)

    check(ours, formula, (values, table, bias))
    check_second(ours, formula, (values, table, bias))
    check_second(
        lambda table, values: ours(values, table, bias),
        lambda table, values: formula(values, table, bias),
        (table, values),
    )

    def both(values: Any, table: Any) -> Any:
        return jax.grad(lambda *x: (ours(*x, bias)[0] ** 2).sum(), (0, 1))(values, table)

    for axes in ((0, None), (None, 0), (0, 0)):
        each = [
            [x, 2 * x] if axis == 0 else [x, x]
            for x, axis in zip((values, table), axes, strict=True)
        ]
        given = [jnp.stack(x) if axis == 0 else x[0] for x, axis in zip(each, axes, strict=True)]
        got = jax.vmap(both, axes)(*given)
        for i in (0, 1):
            for a, b in zip(got, both(each[0][i], each[1][i]), strict=True):
                np.testing.assert_array_equal(a[i], b)


def test_gather_decode_reads_no_row_that_is_not_there() -> None:
    for wrong in (-1, 6):
        with pytest.raises(Exception, match=rf"gather_decode: indices has {wrong}, expected 0"):
            jax.block_until_ready(
                gj.gather_decode(jnp.array([[0, wrong]]), random(1, 2), random(6, 5))
            )


@pytest.mark.parametrize("tokens", [(), (3,), (2, 2)])
@pytest.mark.parametrize("keyed", [False, True])
def test_topk_rows_and_its_gradients_are_those_of_the_formula(
    tokens: tuple[int, ...], keyed: bool
) -> None:
    x = random(*tokens, 7)
    key = -x if keyed else None

    def formula(x: Any) -> tuple[Any]:
        order = jax.lax.stop_gradient(-x if keyed else x)
        places = jnp.sort(jax.lax.top_k(order, 3)[1], -1)
        return (jnp.take_along_axis(x, places, -1),)

    def ours(x: Any) -> tuple[Any]:
        return (gj.topk_rows(x, 3, key=key)[0],)

    check(ours, formula, (x,))
    check_second(ours, formula, (x,))
    many = jnp.stack([x, x + 1])
    slopes = jax.vmap(jax.grad(lambda x: (ours(x)[0] ** 2).sum()))(many)
    for a, one in zip(slopes, many, strict=True):
        np.testing.assert_array_equal(a, jax.grad(lambda x: (ours(x)[0] ** 2).sum())(one))


def test_topk_rows_takes_ties_and_nan_as_the_core_does() -> None:
    x = np.array([[1, np.nan, 1, 1, 0], [0, 0, np.nan, -0.0, 0]], np.float32)
    for tie in ("low", "high"):
        for nan in ("lowest", "highest"):
            got = jax.jit(lambda x, tie=tie, nan=nan: gj.topk_rows(x, 2, tie=tie, nan=nan))(x)
            expected = gossamer.prune.topk_rows(x, 2, tie=tie, nan=nan)
            for a, b in zip(got, expected, strict=True):
                np.testing.assert_array_equal(a, b)
    with pytest.raises(Exception, match=r"topk_rows: .*NaN"):
        jax.block_until_ready(gj.topk_rows(x, 2, nan="error"))


def test_threshold_may_be_traced() -> None:
    x, wt = random(7), random(7, 5, seed=1)
    got = jax.jit(lambda t: gj.sparse_linear(x, wt, threshold=t))(0.8)
    np.testing.assert_array_equal(got, gj.sparse_linear(x, wt, threshold=0.8))


def sent(x: Any, threshold: Any) -> Any:
    """Return what the channels have sent after each step."""
    last, steps = jnp.zeros_like(x[0]), []
    for step in x:
        small = abs(jax.lax.stop_gradient(step - last)) < threshold
        last = jnp.where(~small.reshape(-1, x.shape[-1]).all(0), step, last)
        steps.append(last)
    return jnp.stack(steps)


@pytest.mark.parametrize("tokens, each", [((), False), ((3,), True)])
def test_delta_linear_and_its_gradients_are_those_of_the_formula(
    tokens: tuple[int, ...], each: bool
) -> None:
    x, wt, bias = random(5, *tokens, 7), random(7, 5, seed=1), random(5, seed=2)
    threshold = abs(random(7, seed=3)) if each else 1.1

    def formula(x: Any, wt: Any, bias: Any) -> tuple[Any]:
        return (jax.nn.gelu(sent(x, threshold) @ wt + bias, approximate=False),)

    def ours(x: Any, wt: Any, bias: Any, refreshed: int = 2) -> tuple[Any]:
        state, outputs = None, []
        for i, step in enumerate(x):
            options: Any = {"refresh": i == refreshed, "bias": bias, "activation": "gelu"}
            out, state = gj.delta_linear(step, wt, state, threshold=threshold, **options)
            outputs.append(out)
        return (jnp.stack(outputs),)

    check(ours, formula, (x, wt, bias))
    stream = gossamer.DeltaState()
    options: Any = {"threshold": threshold, "bias": bias, "activation": "gelu"}
    core = [gossamer.delta_linear(step, wt, stream, **options) for step in x]
    np.testing.assert_allclose(jnp.stack(core), ours(x, wt, bias, -1)[0], **CLOSE)

    def step(state: Any, x: Any) -> Any:
        out, state = gj.delta_linear(x, wt, state, **options)
        return state, out

    first = (jnp.zeros(x.shape[1:]), jnp.zeros((*tokens, 5)))
    loss = jax.jit(jax.grad(lambda x: (jax.lax.scan(step, first, x)[1] ** 2).sum()))
    expected = jax.grad(lambda x: (formula(x, wt, bias)[0] ** 2).sum())(x)
    np.testing.assert_allclose(loss(x), expected, **CLOSE)
    check_second(ours, formula, (x, wt, bias))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_steps_of_delta_linear_are_the_cores(dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        x, wt = (y.astype(dtype) for y in (random(6, 3, 7), random(7, 5, seed=1)))
        x = x.at[3, 1, 2].set(jnp.inf)  # after which the sums are computed anew
        stream, state = gossamer.DeltaState(), None
        step = jax.jit(gj.delta_linear, static_argnames=("threshold", "refresh"))
        for i, tokens in enumerate(x):
            options: dict[str, Any] = {"threshold": 0.8, "refresh": i == 1}
            y, state = step(tokens, wt, state, **options)
            assert y.dtype == dtype
            assert np.isfinite(y[0]).all() and np.isfinite(y[1]).all() == (i != 3)
            np.testing.assert_array_equal(y, gossamer.delta_linear(tokens, wt, stream, **options))
            np.testing.assert_array_equal(state[0], stream.last)
            np.testing.assert_array_equal(state[1], stream.sums)


def test_a_step_of_delta_linear_leaves_its_operands() -> None:
    x, wt, last, sums = random(2, 7), random(7, 5, seed=1), random(2, 7, seed=2), random(2, 5)
    before = np.array(last), np.array(sums)
    _, state = gj.delta_linear(x, wt, (last, sums), threshold=0.5)
    assert not np.array_equal(state[0], last)
    assert not np.array_equal(state[1], sums)
    np.testing.assert_array_equal(last, before[0])
    np.testing.assert_array_equal(sums, before[1])


@pytest.mark.parametrize("each", [False, True])
def test_vmap_of_delta_linear_has_a_stream_for_each(each: bool) -> None:
    x, wt = random(4, 3, 2, 7), random(7, 5, seed=1)
    threshold = abs(random(4, 7, seed=3)) if each else 0.8

    def stream(x: Any, wt: Any, threshold: Any) -> Any:
        state, outputs = None, []
        for step in x:
            y, state = gj.delta_linear(step, wt, state, threshold=threshold)
            outputs.append(y)
        return jnp.stack(outputs)

    axes = (0, None, 0 if each else None)
    loss = jax.grad(lambda *given: (stream(*given) ** 2).sum())
    limits = threshold if each else [threshold] * 4
    for function in (stream, loss):
        one_by_one = [function(a, wt, b) for a, b in zip(x, limits, strict=True)]
        if each:
            got = jax.vmap(function, axes)(x, wt, threshold)
        else:
            got = jax.vmap(lambda a, b, f=function: f(a, b, 0.8), (0, None))(x, wt)
        # Elements near zero are differences of larger ones.
        want = jnp.stack(one_by_one)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * abs(want).max())


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_gradients_of_narrow_streams_are_near_those_of_wide_ones(dtype: Any) -> None:
    x, wt = (y.astype(dtype) for y in (random(5, 3, 7), random(7, 5, seed=1)))

    def loss(x: Any, wt: Any) -> Any:
        state, total = None, 0.0
        for i, step in enumerate(x):
            y, state = gj.delta_linear(step, wt, state, threshold=0.8, refresh=i == 3)
            total += (y.astype(jnp.float32) ** 2).sum()
        return total

    got = jax.jit(jax.grad(loss, (0, 1)))(x, wt)
    expected = jax.grad(loss, (0, 1))(x.astype(jnp.float32), wt.astype(jnp.float32))
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.02 * float(abs(b).max()))


def test_corrupt_layouts_reach_no_kernel() -> None:
    q, k, v = operands()
    made = layout()
    leaves, tree = jax.tree.flatten(made)

    def shifted(by: Any) -> Any:
        moved = jax.tree.unflatten(tree, [leaves[0], jnp.asarray(leaves[1]) + by])
        return gj.attention(q, k, v, moved)[0]

    np.testing.assert_array_equal(jax.jit(shifted)(0), gj.attention(q, k, v, made)[0])
    with pytest.raises(Exception, match="indices"):
        jax.block_until_ready(jax.jit(shifted)(1000))


def test_traced_layout_is_refused_by_the_core() -> None:
    q = np.ones((1, S, 1, 4), np.float32)
    message = r"^attention: layout is traced, .*, gossamer\.jax\.attention works"
    with pytest.raises(TypeError, match=message):
        jax.jit(lambda made: gossamer.attention(q, q, q, made)[0])(layout())
    with pytest.raises(TypeError, match=r"^BlockLayout\.to_mask: layout is traced, .* not work"):
        jax.jit(lambda made: made.to_mask())(layout())


Q = jnp.ones((1, 4, 1, 4))
BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: gj.attention(*operands()[:2], 2.5, layout()),
        ValueError,
        "attention: v.ndim is 0, expected 4",
    ),
    (
        lambda: gj.attention(*operands(), layout(), sinks="s"),
        TypeError,
        "attention: sinks is a str, expected an array",
    ),
    (
        lambda: gj.attention(*operands(), layout(), causal="no"),
        TypeError,
        "attention: causal is 'no', expected True or False",
    ),
    (
        lambda: gj.delta_linear(jnp.ones(3), jnp.ones((4, 2)), None, threshold=1.0),
        ValueError,
        "delta_linear: x.shape[0] is 3, expected wt.shape[0] = 4",
    ),
    (
        lambda: gj.delta_linear(
            jnp.ones(3), jnp.ones((3, 2)), (jnp.ones(3), jnp.ones(3)), threshold=1.0
        ),
        ValueError,
        "delta_linear: state has sums of shape (3,), expected (2,)",
    ),
    (
        lambda: gj.delta_linear(
            *(jnp.ones(3, jnp.float16), jnp.ones((3, 2), jnp.float16)),
            (jnp.ones(3, jnp.float16), jnp.ones(2)),
            threshold=1.0,
        ),
        TypeError,
        "delta_linear: state has last of type float16, expected float32",
    ),
    (
        lambda: gj.attention(Q, Q, Q, Q),
        TypeError,
        "attention: layout is a ArrayImpl, expected a BlockLayout",
    ),
    (
        lambda: gj.attention(Q[0, 0], Q, Q, layout()),
        ValueError,
        "attention: q.ndim is 2, expected 3 or 4",
    ),
    (
        lambda: gj.attention(Q, Q.astype(jnp.float16), Q, layout()),
        TypeError,
        "attention: k.dtype is float16, expected q.dtype = float32",
    ),
    (
        lambda: gj.csr_attention(Q, Q, Q, layout()),
        TypeError,
        "csr_attention: pattern is a BlockLayout, expected a CSR",
    ),
    (
        lambda: gj.csr_attention(Q, Q, Q, entries()[0], score="cos"),
        ValueError,
        "csr_attention: score is 'cos', expected 'dot' or 'gat'",
    ),
    (
        lambda: gj.csr_softmax(entries()[0].with_values(None)),
        ValueError,
        "csr_softmax: a.values is None, expected an array of values",
    ),
    (
        lambda: gj.sparse_linear(random(3), random(4, 5), threshold=1.0),
        ValueError,
        "sparse_linear: x.shape[0] is 3, expected wt.shape[0] = 4",
    ),
    (
        lambda: gj.sparse_linear(random(3), random(3, 5), threshold=jnp.ones(1)),
        ValueError,
        "sparse_linear: threshold.shape is (1,), expected (3,)",
    ),
    (
        lambda: gj.sparse_linear(random(3), random(3, 5), threshold=float("nan")),
        ValueError,
        "sparse_linear: threshold is nan, expected a number",
    ),
    (
        lambda: gj.sparse_linear(random(3), random(3, 5), threshold="1.0"),
        TypeError,
        "sparse_linear: threshold is '1.0', expected a number",
    ),
    (  # which was cut off
        lambda: gj.attention(Q, Q, Q, layout(), q_offset=1.5),
        TypeError,
        "attention: q_offset is 1.5, expected an integer",
    ),
    (
        lambda: gj.attention(Q, Q, Q, layout(), window=(1.5, 2)),
        TypeError,
        "attention: window[0] is 1.5, expected an integer",
    ),
    (
        lambda: gj.attention(Q, Q, Q, layout(), scale="1"),
        TypeError,
        "attention: scale is '1', expected a number",
    ),
    (
        lambda: gj.delta_linear(jnp.ones(3), jnp.ones((3, 2)), (jnp.ones(3),), threshold=1.0),
        ValueError,
        "delta_linear: len(state) is 1, expected 2",
    ),
    (
        lambda: gj.attention(Q, Q, Q, layout(), cu_seqlens_k=jnp.array([0, 4], jnp.int32)),
        ValueError,
        "attention: one of cu_seqlens and cu_seqlens_k is given, expected both or none",
    ),
    (
        lambda: gj.gated_mlp(*(jnp.ones((2, 3)),) * 3, jnp.ones((2, 4)), threshold=1.0),
        ValueError,
        "gated_mlp: w_down_t.shape[1] is 4, expected x.shape[1] = 3",
    ),
    (
        lambda: gj.gather_decode(jnp.zeros((2, 1), jnp.int32), jnp.ones((2, 2)), jnp.ones((3, 4))),
        ValueError,
        "gather_decode: indices.shape is (2, 1), expected (2, 2)",
    ),
    (
        lambda: gj.gather_decode(
            *(jnp.zeros(2, jnp.int32), jnp.ones(2), jnp.ones((3, 4))), bias=jnp.ones(1)
        ),
        ValueError,
        "gather_decode: bias.shape is (1,), expected (4,)",
    ),
    (lambda: gj.topk_rows(jnp.ones(3), 4), ValueError, "topk_rows: k is 4, expected 0 to 3"),
    (
        lambda: gj.topk_rows(jnp.ones(3), 1, tie="first"),
        ValueError,
        "topk_rows: tie is 'first', expected 'low' or 'high'",
    ),
    (
        lambda: gj.merge_attention([(Q, Q[..., 0].mT), (Q.astype(jnp.float16), Q[..., 0].mT)]),
        TypeError,
        "merge_attention: parts[1] has o of type float16, expected float32",
    ),
    (
        lambda: gj.merge_attention([(Q, Q[..., 0])]),
        ValueError,
        "merge_attention: parts[0] has lse of shape (1, 4, 1), expected (1, 1, 4)",
    ),
    (
        lambda: gj.merge_attention([]),
        ValueError,
        "merge_attention: parts is empty, expected pairs (o, lse)",
    ),
    (
        lambda: gj.merge_attention([(Q, Q[..., 0]), (Q, Q[0])]),
        ValueError,
        "merge_attention: parts[1] has lse of shape (4, 1, 4), expected (1, 4, 1)",
    ),
]


@pytest.mark.parametrize("call, kind, message", BAD, ids=[message for _, _, message in BAD])
def test_message(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message
