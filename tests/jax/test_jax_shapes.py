"""Each operand of each function of gossamer.jax, wrong in rank, size and element type in turn.

What is wrong about arrays before they hold anything is refused when JAX traces the call, by
Python's errors and by name; an error of a handler would be one of XLA's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import gossamer
import numpy as np
import pytest

jax = pytest.importorskip("jax")
import gossamer.jax as gj  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from gossamer.formats._compressed import Traced  # noqa: E402
from gossamer.formats._layout import TracedLayout  # noqa: E402
from gossamer.formats._nm import TracedNm  # noqa: E402

pytestmark = pytest.mark.once

M, K, N = 8, 6, 5
Arrays = dict[str, Any]
Case = tuple[Callable[..., Any], Arrays]


def floats(*shape: int) -> Any:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def integers(*numbers: int) -> Any:
    return jnp.array(numbers, jnp.int32)


DENSE = np.random.default_rng(0).standard_normal((M, K)).astype(np.float32)
DENSE[DENSE < 0] = 0


def csr(indptr: Any, indices: Any, values: Any) -> Any:
    return gossamer.CSR._wrap(Traced(indptr, indices, values, (M, K)))  # type: ignore[arg-type]


def bsr(indptr: Any, indices: Any, blocks: Any) -> Any:
    return gossamer.BSR._wrap(Traced(indptr, indices, blocks, (M, K)))  # type: ignore[arg-type]


def nm(values: Any, indices: Any) -> Any:
    return gossamer.NM._wrap(TracedNm(values, indices, (M, K), 2, 3, axis=1))  # type: ignore[arg-type]


def layout(indptr: Any, indices: Any, kinds: Any = None, bits: Any = None) -> Any:
    traced: Any = TracedLayout(indptr, indices, (1, 1, 3, 3), (4, 4), kinds=kinds, bits=bits)
    return gossamer.BlockLayout._wrap(traced)


def parts(matrix: Any, *names: str) -> Arrays:
    native = matrix._native
    return {name: jnp.asarray(getattr(native, name)) for name in names}


def matrix(kind: str) -> tuple[Callable[..., Any], Arrays]:
    """Return what makes the matrix of its arrays, and these."""
    if kind == "csr":
        return csr, parts(gossamer.CSR.from_dense(DENSE), "indptr", "indices", "values")
    if kind == "bsr":
        return bsr, parts(gossamer.BSR.from_dense(DENSE, (2, 3)), "indptr", "indices", "blocks")
    mask = gossamer.prune.nm_mask(gossamer.prune.score(DENSE), 2, 3)
    return nm, parts(gossamer.NM.from_dense(DENSE, 2, 3, mask=mask), "values", "indices")


def on_matrices() -> Iterator[tuple[str, Case]]:
    """Yield the products, which take matrices of several formats."""

    def product(function: Callable[..., Any], kind: str, **dense: Any) -> Case:
        make, arrays = matrix(kind)

        def call(**given: Any) -> Any:
            made = make(**{name: given.pop(name) for name in arrays})
            return function(made, **given)

        return call, {**arrays, **dense}

    for kind in ("csr", "bsr", "nm"):
        yield (
            f"linear {kind}",
            product(
                lambda w, x, bias: gj.linear(x, w, bias=bias),
                kind,
                x=floats(2, N, K),
                bias=floats(M),
            ),
        )
        yield (
            f"spmm {kind}",
            product(gj.spmm, kind, b=floats(K, N)),
        )
        yield (
            f"spmm transposed {kind}",
            product(lambda a, b: gj.spmm(a, b, transpose_a=True), kind, b=floats(M, N)),
        )
    for kind in ("csr", "bsr"):
        yield (
            f"sddmm {kind}",
            product(lambda p, a, b: gj.sddmm(a, b, p), kind, a=floats(M, N), b=floats(K, N)),
        )
    heads, depth = 2, 4
    yield (
        "csr_attention csr",
        product(
            lambda p, **x: gj.csr_attention(pattern=p, **x)[0],
            "csr",
            q=floats(M, heads, depth),
            k=floats(K, heads, depth),
            v=floats(K, heads, 3),
            bias=floats(len(gossamer.CSR.from_dense(DENSE).indices)),
        ),
    )
    yield (
        "csr_attention gat",
        product(
            lambda p, **x: gj.csr_attention(pattern=p, score="gat", **x)[0],
            "csr",
            q=floats(M, heads),
            k=floats(K, heads),
            v=floats(K, heads, 3),
        ),
    )
    yield "csr_softmax csr", product(lambda a: gj.csr_softmax(a).values, "csr")


def layers() -> dict[str, Case]:
    def threshold(k: int) -> Arrays:
        return {"threshold": abs(floats(k))}

    return {
        "sparse_linear": (
            gj.sparse_linear,
            {"x": floats(2, K), "wt": floats(K, M), **threshold(K), "bias": floats(M)},
        ),
        "delta_linear": (
            lambda x, wt, last, sums, **rest: gj.delta_linear(x, wt, (last, sums), **rest)[0],
            {
                "x": floats(2, K),
                "wt": floats(K, M),
                "last": floats(2, K),
                "sums": floats(2, M),
                **threshold(K),
            },
        ),
        "gated_mlp": (
            gj.gated_mlp,
            {
                "x": floats(2, K),
                **{name: floats(M, K) for name in ("w_gate", "w_up", "w_down_t")},
                **threshold(M),
            },
        ),
        "gather_decode": (
            gj.gather_decode,
            {
                "indices": jnp.array([[0, 2, 1], [4, 4, 0]], jnp.int32),
                "values": floats(2, 3),
                "table": floats(K, N),
                "bias": floats(N),
            },
        ),
        "topk_rows": (
            lambda x, key: gj.topk_rows(x, 2, key=key)[0],
            {"x": floats(M, K), "key": floats(M, K)},
        ),
    }


def attentions() -> dict[str, Case]:
    mask = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1]], bool)
    batch, tokens, heads, kv, depth, block = 2, 12, 4, 2, 8, 4
    elements = np.kron(mask, np.tril(np.ones((block, block), bool)))
    full = gossamer.BlockLayout.from_mask(mask[None], block=block)
    bits = gossamer.BlockLayout.from_csr(gossamer.CSR.from_mask(elements), block=block)
    qkv = {"q": floats(batch, tokens, heads, depth)}
    qkv |= {name: floats(batch, tokens, kv, depth) for name in "kv"}

    def attend(**given: Any) -> Any:
        names = [x for x in ("indptr", "indices", "kinds", "bits") if x in given]
        made = layout(**{name: given.pop(name) for name in names})
        return gj.attention(layout=made, **given)[0]

    flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in qkv.items()}
    starts = integers(0, tokens, 2 * tokens)
    pages = {name: floats(5, block, kv, depth) for name in ("k_cache", "v_cache")}
    pooled = {name: floats(batch, 3, kv, depth) for name in ("pooled", "pooled_min")}
    return {
        "attention": (
            attend,
            {
                **qkv,
                **parts(full, "indptr", "indices"),
                "bias": floats(1, heads, tokens, tokens),
                "sinks": floats(heads),
            },
        ),
        "attention bits": (attend, {**qkv, **parts(bits, "indptr", "indices", "kinds", "bits")}),
        "attention packed": (
            attend,
            {
                **flat,
                **parts(full, "indptr", "indices"),
                "cu_seqlens": starts,
                "cu_seqlens_k": starts,
            },
        ),
        "attention_decode": (
            lambda **x: gj.attention_decode(**x)[0],
            {
                "q": floats(batch, 1, heads, depth),
                **pages,
                "indptr": integers(0, 2, 3),
                "indices": integers(1, 4, 0),
                "lengths": integers(7, 3),
                "sinks": floats(heads),
            },
        ),
        "block_pool": (lambda x: gj.block_pool(x, 4), {"x": floats(batch, tokens, kv, depth)}),
        "block_topk": (
            lambda q, **pooled: gj.block_topk(q, k=2, **pooled),
            {"q": floats(batch, 2, heads, depth), **pooled},
        ),
        "merge_attention": (
            lambda o1, lse1, o2, lse2: gj.merge_attention([(o1, lse1), (o2, lse2)])[0],
            {
                **{f"o{i}": floats(batch, tokens, heads, depth) for i in (1, 2)},
                **{f"lse{i}": floats(batch, heads, tokens) for i in (1, 2)},
            },
        ),
    }


CASES: dict[str, Case] = {**dict(on_matrices()), **layers(), **attentions()}
#: Messages that depend on what arrays hold.
HELD = (
    r"indices.shape\[0\] is \d+, expected indptr\[-1\]|the number of kinds that are 2"
    r"|cu_seqlens(_k)?\[-1\] is \d+, expected|gather_decode: indices has \d+, expected 0 to"
)
EACH = [(name, operand) for name, (_, arrays) in CASES.items() for operand in arrays]


def wrong(x: Any) -> Iterator[tuple[str, Any]]:
    yield "an axis more", x[None]
    yield "an axis less", x[0]
    yield "no axis", x.reshape(-1)[0]
    for axis in range(x.ndim):
        yield f"more along {axis}", jnp.concatenate([x, x.take(jnp.array([-1]), axis)], axis)
        yield f"less along {axis}", jnp.delete(x, -1, axis)
        yield f"nothing along {axis}", x.take(jnp.array([], int), axis)
    for dtype in ("float32", "float16", "int32", "int16", "bool"):
        if x.dtype != dtype:
            yield dtype, x.astype(dtype)


def gradients(call: Callable[..., Any], arrays: Arrays) -> Callable[..., Any]:
    inexact = {n for n, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.floating)}

    def run(**given: Any) -> Any:
        rest = {n: x for n, x in given.items() if n not in inexact}
        floating = {n: given[n] for n in inexact}
        y, back = jax.vjp(lambda x: call(**rest, **x), floating)
        return back(jnp.ones(y.shape, y.dtype))

    return run


def several(call: Callable[..., Any], _arrays: Arrays) -> Callable[..., Any]:
    def run(**given: Any) -> Any:
        stacked = {name: jnp.stack([x, x]) for name, x in given.items()}
        return jax.vmap(lambda x: call(**x))(stacked)

    return run


MESSAGES = [
    (
        "linear csr",
        "values",
        floats(3),
        "linear: w.values.shape[0] is 3, expected indices.shape[0] = 25",
    ),
    ("linear csr", "values", floats(1, 1, 25), "linear: w.values.ndim is 3, expected 1"),
    (
        "spmm bsr",
        "indptr",
        integers(0, 1),
        "spmm: a.indptr.shape[0] is 2, expected shape[0] / blocks.shape[1] + 1 = 4 + 1",
    ),
    (
        "linear nm",
        "indices",
        jnp.zeros((M, 1), bool),
        "linear: w.indices.dtype is bool, expected float32, float64, float16, bfloat16, int32, "
        "int64 or uint8",
    ),
    ("attention", "k", floats(2, 12, 3, 8), "attention: v.shape[2] is 2, expected k.shape[2] = 3"),
    ("attention", "indptr", floats(4), "attention: layout.indptr.dtype is float32, expected int32"),
    (
        "csr_attention csr",
        "k",
        floats(K, 2, 3),
        "csr_attention: k.shape[2] is 3, expected q's depth = 4",
    ),
    (
        "attention_decode",
        "lengths",
        integers(7),
        "attention_decode: lengths.shape[0] is 1, expected q.shape[0] = 2",
    ),
]


@pytest.mark.parametrize("name, operand, array, message", MESSAGES, ids=[x[3] for x in MESSAGES])
def test_message(name: str, operand: str, array: Any, message: str) -> None:
    call, right = CASES[name]
    with pytest.raises((TypeError, ValueError)) as error:
        jax.jit(call)(**{**right, operand: array})
    assert str(error.value) == message


def test_each_function_is_here() -> None:
    assert {name.split()[0] for name in CASES} == set(gj.__all__)


def refusal(call: Callable[..., Any], arrays: Arrays) -> str:
    """Return what tracing a call says, "" if nothing."""
    try:
        jax.eval_shape(call, **arrays)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name, operand", EACH, ids=[" ".join(x) for x in EACH])
def test_what_is_wrong_is_refused_when_it_is_traced(name: str, operand: str) -> None:
    call, right = CASES[name]
    op = name.split(maxsplit=1)[0]
    refused = 0
    without_gradients = op in ("attention_decode", "block_topk")
    for place, (what, array) in enumerate(wrong(right[operand])):
        arrays = {**right, operand: array}
        said = refusal(call, arrays)
        refused += said != ""
        through = several if without_gradients or place % 2 else gradients
        assert refusal(through(call, arrays), arrays) == said, what
        if said:
            assert said.startswith(f"{op}: ") and ", expected " in said, what
            with pytest.raises((TypeError, ValueError)) as error:
                call(**arrays)
            assert str(error.value) == said
            continue
        try:
            jax.block_until_ready(call(**arrays))
        except jax.errors.JaxRuntimeError as error:  # by what an array holds
            assert re.search(HELD, str(error)), what
    # Of the pattern's values, csr_attention reads nothing.
    assert refused >= 4 or (op, operand) == ("csr_attention", "values")
