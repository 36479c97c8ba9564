"""gossamer.jax: products under jit, grad and vmap; matrices as pytrees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
import pytest

jax = pytest.importorskip("jax")
import gossamer.jax as gj  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from gossamer.jax._arguments import ACTIVATIONS  # noqa: E402

pytestmark = pytest.mark.once

KINDS = ["csr", "bsr"]
M, K, N = 8, 6, 5


def dense() -> np.ndarray:
    """Return integers with an empty row and an empty column, in blocks of 2 × 3."""
    rng = np.random.default_rng(0)
    w = rng.integers(1, 5, (M, K)) * np.kron(rng.integers(0, 2, (M // 2, K // 3)), np.ones((2, 3)))
    w[:2] = 0
    return w


def matrix(kind: str, dtype: Any = jnp.float32) -> Any:
    w = jnp.asarray(dense(), dtype)
    if kind == "nm":
        mask = gossamer.prune.nm_mask(gossamer.prune.score(w), 2, 3)
        return gossamer.NM.from_dense(w, 2, 3, mask=mask)
    return gossamer.CSR.from_dense(w) if kind == "csr" else gossamer.BSR.from_dense(w, (2, 3))


def values_of(a: Any) -> Any:
    return getattr(a, getattr(a, "_VALUES", "values"))


def integers(*shape: int, dtype: Any = jnp.float32, seed: int = 1) -> Any:
    return jnp.asarray(np.random.default_rng(seed).integers(-4, 5, shape), dtype)


def spread(a: Any, values: Any) -> Any:
    """Return the dense matrix of other values, differentiable."""
    count = np.arange(1, values.size + 1, dtype=np.float32).reshape(values.shape)
    order = a.with_values(count).to_dense().astype(int)
    return jnp.where(order > 0, values.reshape(-1)[jnp.maximum(order, 1) - 1], 0)


CALLS: dict[str, tuple[Callable[..., Any], Callable[..., Any], list[tuple[int, ...]]]] = {
    "linear": (lambda w, x: gj.linear(x, w), lambda w, x: x @ w.T, [(2, 3, K)]),
    "linear 1": (lambda w, x: gj.linear(x, w), lambda w, x: x @ w.T, [(K,)]),
    "linear relu": (
        lambda w, x, b: gj.linear(x, w, bias=b, activation="relu"),
        lambda w, x, b: jax.nn.relu(x @ w.T + b),
        [(N, K), (M,)],
    ),
    "linear clamp": (
        lambda w, x: gj.linear(x, w, activation=("clamp", -3.5, 2.5)),
        lambda w, x: jnp.clip(x @ w.T, -3.5, 2.5),
        [(N, K)],
    ),
    "spmm": (gj.spmm, lambda w, x: w @ x, [(K, N)]),
    "spmm 1": (gj.spmm, lambda w, x: w @ x, [(K,)]),
    "spmm transposed": (
        lambda w, x, b: gj.spmm(w, x, transpose_a=True, bias=b),
        lambda w, x, b: w.T @ x + b[:, None],
        [(M, N), (K,)],
    ),
    "sddmm": (
        lambda w, a, b: gj.sddmm(a, b, w) * values_of(w),
        lambda w, a, b: (a @ b.T) * w,
        [(M, N), (K, N)],
    ),
}


@pytest.mark.parametrize("kind, jit", [("csr", True), ("bsr", False), ("nm", True)])
@pytest.mark.parametrize("call", CALLS)
def test_results_and_gradients_are_those_of_the_dense_product(
    call: str, kind: str, jit: bool
) -> None:
    if (call, kind) == ("sddmm", "nm"):
        pytest.skip("an NM is no pattern")
    ours, theirs, shapes = CALLS[call]
    w = matrix(kind)
    operands = [integers(*s, seed=i) for i, s in enumerate(shapes)]

    def sparse(v: Any, *operands: Any) -> Any:
        result = ours(w.with_values(v), *operands)
        return spread(w, result) if call == "sddmm" else result

    def full(v: Any, *operands: Any) -> Any:
        return theirs(spread(w, v), *operands)

    got = (jax.jit(sparse) if jit else sparse)(values_of(w), *operands)
    expected = full(values_of(w), *operands)
    np.testing.assert_array_equal(got, expected)
    weights = integers(*got.shape, seed=9)
    grads = [
        jax.grad(lambda *x, f=f: (f(*x) * weights).sum(), argnums=tuple(range(len(operands) + 1)))
        for f in (sparse, full)
    ]
    if jit:
        grads[0] = jax.jit(grads[0])
    for a, b in zip(*(g(values_of(w), *operands) for g in grads), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_activations_have_the_cores_limits(activation: str, jit: bool) -> None:
    """At a sum of finite products that overflows, JAX's own give −∞·0 and ∞·0."""
    w = gossamer.CSR.from_dense(jnp.ones((1, 2)))
    ends, far = jnp.array([[-3e38, -3e38], [-1e30, 0]]), jnp.array([[3e38, 3e38], [1e30, 0]])

    def out(x: Any) -> Any:
        return gj.linear(x, w, activation=activation).sum()

    for x, value, slope in ((ends, 0, 0), (far, np.inf, 1)):
        got = (jax.jit if jit else lambda f: f)(jax.value_and_grad(out))(x)
        assert got[0] == value
        np.testing.assert_array_equal(got[1], slope)
        np.testing.assert_array_equal(gossamer.linear(x, w, activation=activation).sum(), value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_activations_are_jaxs_between_their_limits(activation: str, dtype: str) -> None:
    ends = jnp.finfo(dtype)
    drawn = np.random.default_rng(0).standard_normal(500) * 4
    x = jnp.array([*drawn, 0.0, -0.0, float(ends.max), float(ends.min), float(ends.tiny)], dtype)

    def ours(x: Any) -> Any:
        return ACTIVATIONS[activation](x, 0, 0)

    def theirs(x: Any) -> Any:
        return jax.nn.silu(x) if activation == "silu" else jax.nn.gelu(x, approximate=False)

    for f, g in ((ours, theirs), (jax.vmap(jax.grad(ours)), jax.vmap(jax.grad(theirs)))):
        np.testing.assert_array_equal(f(x), g(x))
    assert jnp.isnan(jax.grad(ours)(jnp.array(jnp.nan, dtype)))
    past = jnp.array(jnp.inf, dtype)
    assert jax.grad(ours)(past) == 1 and jax.grad(jax.grad(ours))(past) == 0


@pytest.mark.parametrize(
    "call, kind",
    [
        *((c, "csr") for c in ("linear", "spmm", "spmm transposed", "sddmm")),
        *((c, "nm") for c in ("linear", "spmm", "spmm transposed")),
    ],
)
def test_second_derivatives_are_right(call: str, kind: str) -> None:
    from jax.test_util import check_grads

    ours, _, shapes = CALLS[call]
    w = matrix(kind)
    operands = [integers(*s, seed=i) / 4 for i, s in enumerate(shapes)]
    v = values_of(w) / 4
    check_grads(
        lambda v, *x: ours(w.with_values(v), *x), (v, *operands), 2, ["rev"], rtol=0.02, atol=0.02
    )


@pytest.mark.parametrize("batched", ["x", "values", "both", "twice"])
@pytest.mark.parametrize("name", ["linear", "spmm", "sddmm", "linear nm", "spmm nm"])
def test_vmap_is_a_loop(name: str, batched: str) -> None:
    name, _, kind = name.partition(" ")
    w = matrix(kind or "csr")
    call: Callable[..., Any] = {
        "linear": lambda v, x: gj.linear(x, w.with_values(v)),
        "spmm": lambda v, x: gj.spmm(w.with_values(v), x),
        "sddmm": lambda v, x: gj.sddmm(integers(M, N), x, w) * v,
    }[name]
    shape = {"linear": (N, K), "spmm": (K, N), "sddmm": (K, N)}[name]
    many_x = integers(3, *shape)
    many_v = jnp.stack([values_of(w) * i for i in range(3)])
    if batched == "twice":
        got = jax.vmap(lambda v: jax.vmap(lambda x: call(v, x))(many_x))(many_v)
        expected = jnp.stack([jnp.stack([call(v, x) for x in many_x]) for v in many_v])
    else:
        axes = {"x": (None, 0), "values": (0, None), "both": (0, 0)}[batched]
        operands = (many_v if axes[0] == 0 else many_v[1], many_x if axes[1] == 0 else many_x[0])
        got = jax.vmap(call, axes)(*operands)
        expected = jnp.stack(
            [
                call(*(x if a is None else x[i] for x, a in zip(operands, axes, strict=True)))
                for i in range(3)
            ]
        )
    np.testing.assert_array_equal(got, expected)


def test_gradients_of_each_sample() -> None:
    w, x = matrix("csr"), integers(4, K)

    def loss(v: Any, x: Any) -> Any:
        return (gj.linear(x, w.with_values(v)) ** 2).sum()

    got = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(w.values, x)
    for i in range(4):
        np.testing.assert_array_equal(got[i], jax.grad(loss)(w.values, x[i]))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_narrow_types(dtype: Any) -> None:
    w, x = matrix("csr", dtype), integers(3, K, dtype=dtype)
    y = jax.jit(gj.linear)(x, w)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.astype(float), np.asarray(x, float) @ dense().T)


def test_float64() -> None:
    with jax.enable_x64(True):
        w = gossamer.CSR.from_dense(dense())
        x = integers(3, K, dtype=jnp.float64)
        y = jax.jit(gj.linear)(x, w)
        assert y.dtype == jnp.float64
        np.testing.assert_array_equal(y, np.asarray(x) @ dense().T)


def test_matrices_of_other_arrays_are_constants() -> None:
    w = gossamer.CSR.from_dense(dense().astype(np.float32))
    x = integers(3, K)
    np.testing.assert_array_equal(
        jax.jit(lambda x: gj.linear(x, w))(x), np.asarray(x) @ w.T.to_dense()
    )


@pytest.mark.parametrize("kind", [*KINDS, "nm"])
def test_matrices_are_pytrees(kind: str) -> None:
    w, x = matrix(kind), integers(N, K)
    leaves, tree = jax.tree.flatten(w)
    types = ["float32", "uint8"] if kind == "nm" else ["int32", "int32", "float32"]
    assert [leaf.dtype.name for leaf in leaves] == types
    again = jax.tree.unflatten(tree, leaves)
    np.testing.assert_array_equal(again.to_dense(), w.to_dense())
    assert type(again) is type(w)

    @jax.jit
    def step(w: Any, x: Any) -> Any:
        return w.with_values(values_of(w) * 2), gj.linear(x, w)

    doubled, y = step(w, x)
    np.testing.assert_array_equal(y, gossamer.linear(x, w))
    np.testing.assert_array_equal(gossamer.linear(x, doubled), 2 * y)  # the core takes the result
    gradient = jax.grad(lambda w: gj.linear(x, w).sum(), allow_int=True)(w)
    assert values_of(gradient).shape == values_of(w).shape
    stacked = jax.vmap(lambda s: w.with_values(values_of(w) * s))(jnp.arange(3.0))
    assert values_of(stacked).shape == (3, *values_of(w).shape)


@pytest.mark.parametrize("kind", [*KINDS, "nm", "pattern", "sets"])
@pytest.mark.parametrize("through", ["jit", "tree.map", "device_get"])
def test_matrices_that_come_out_are_whole(kind: str, through: str) -> None:
    """What is no longer traced is a matrix again, over NumPy's arrays and without values, too."""
    w = matrix(kind if kind in (*KINDS, "nm") else "csr")
    if kind == "pattern":
        w = w.with_values(None)
    elif kind == "sets":
        w = w.with_values(jnp.ones((2, w.nnz)))
    again = {
        "jit": jax.jit(lambda w: w),
        "tree.map": lambda w: jax.tree.map(np.asarray, w),
        "device_get": jax.device_get,
    }[through](w)
    assert again == w
    assert again.device == "cpu"
    if kind in KINDS:
        np.testing.assert_array_equal(again.to_dense(), w.to_dense())
        pattern, a, b = again, np.ones((M, 2), np.float32), np.ones((K, 2), np.float32)
        np.testing.assert_array_equal(gossamer.sddmm(a, b, pattern), 2)


def test_a_matrix_is_no_static_argument() -> None:
    """Matrices of one structure are equal: jit would take the values of the first for all."""
    with pytest.raises(ValueError, match=r"[Nn]on-hashable"):
        jax.jit(gj.linear, static_argnums=1)(integers(3, K), matrix("csr"))


def test_traced_matrix_is_refused_by_the_core() -> None:
    x = integers(N, K)
    message = r"^linear: w is traced, expected an array with values: inside jit, grad and vmap, "
    with pytest.raises(TypeError, match=message + r"gossamer\.jax\.linear works"):
        jax.jit(lambda w: gossamer.linear(np.asarray(x), w))(matrix("csr"))
    with pytest.raises(TypeError, match=r"^CSR\.to_dense: a is traced, .* it does not work"):
        jax.jit(lambda w: w.to_dense())(matrix("csr"))


def test_corrupt_structure_reaches_no_kernel() -> None:
    w, x = matrix("csr"), integers(N, K)

    def shifted(by: Any) -> Any:
        moved = gossamer.CSR._wrap(type_of_traced()(w.indptr, w.indices + by, w.values, w.shape))
        return gj.linear(x, moved)

    np.testing.assert_array_equal(jax.jit(shifted)(0), gj.linear(x, w))
    with pytest.raises(Exception, match=r"Csr: indices\[|indices"):
        jax.block_until_ready(jax.jit(shifted)(1000))


def type_of_traced() -> Any:
    from gossamer.formats._compressed import Traced

    return Traced


def test_learns_a_sparse_layer_under_jit() -> None:
    w, target, x = matrix("csr"), jnp.asarray(dense(), jnp.float32), integers(32, K) / 4

    def loss(values: Any) -> Any:
        return ((gj.linear(x, w.with_values(values)) - x @ target.T) ** 2).mean()

    @jax.jit
    def step(values: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(values)
        return values - 0.3 * gradient, value

    values, first = step(jnp.zeros(w.nnz))
    for _ in range(300):
        values, last = step(values)
    assert last < 0.01 * first


W = matrix("csr")
BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: gj.linear("x", W), TypeError, "linear: x is a str, expected an array"),
    (lambda: gj.spmm(W, None), TypeError, "spmm: b is a NoneType, expected an array"),
    (
        lambda: gj.linear(integers(2, K), W, bias="b"),
        TypeError,
        "linear: bias is a str, expected an array",
    ),
    (
        lambda: gj.spmm(W, integers(K, 2), transpose_a="no"),
        TypeError,
        "spmm: transpose_a is 'no', expected True or False",
    ),
    (
        lambda: gj.linear(integers(2, 3), W),
        ValueError,
        "linear: x.shape[1] is 3, expected w.shape[1] = 6",
    ),
    (
        lambda: gj.linear(jnp.float32(1), W),
        ValueError,
        "linear: x.ndim is 0, expected at least 1",
    ),
    (
        lambda: gj.linear(integers(2, K, dtype=jnp.float16), W),
        TypeError,
        "linear: x.dtype is float16, expected w.dtype = float32",
    ),
    (
        lambda: gj.linear(integers(2, K), W, activation="tanh"),
        ValueError,
        "linear: activation is 'tanh', expected None, 'relu', 'relu6', 'gelu', 'silu' or "
        "('clamp', lo, hi)",
    ),
    (  # which would be broadcast
        lambda: gj.linear(integers(2, K), W, bias=jnp.ones(1)),
        ValueError,
        f"linear: bias.shape is (1,), expected ({M},)",
    ),
    (
        lambda: gj.spmm(W, integers(K, M), bias=jnp.ones((M, M))),
        ValueError,
        f"spmm: bias.shape is ({M}, {M}), expected ({M},)",
    ),
    (
        lambda: gj.linear(integers(2, K), W, bias=jnp.ones(M, jnp.float16)),
        TypeError,
        "linear: bias.dtype is float16, expected float32",
    ),
    (
        lambda: gj.linear(integers(2, K), W, activation=("clamp", 2.0, 1.0)),
        ValueError,
        "linear: activation is clamp from 2.0 to 1.0, expected lo <= hi",
    ),
    (
        lambda: gj.linear(integers(2, K), integers(M, K)),
        TypeError,
        "linear: w is a ArrayImpl, expected a CSR, a BSR or an NM",
    ),
    (
        lambda: gj.spmm(W, integers(3, 4)),
        ValueError,
        "spmm: b.shape[0] is 3, expected a.shape[1] = 6",
    ),
    (lambda: gj.spmm(W, integers(1, 6, 4)), ValueError, "spmm: b.ndim is 3, expected 1 or 2"),
    (
        lambda: gj.sddmm(integers(M, 2), integers(K, 3), W),
        ValueError,
        "sddmm: b.shape[1] is 3, expected a.shape[1] = 2",
    ),
    (
        lambda: gj.sddmm(integers(K, 2), integers(K, 2), W),
        ValueError,
        "sddmm: a.shape[0] is 6, expected pattern.shape[0] = 8",
    ),
]


@pytest.mark.parametrize("call, kind, message", BAD, ids=[message for _, _, message in BAD])
def test_message(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message


def test_hints_name_what_is_there() -> None:
    from gossamer import _interop

    assert set(gj.__all__) == _interop.DIFFERENTIABLE["jax"] | _interop.CONSTANT
