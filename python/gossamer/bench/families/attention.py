"""Attention over block layouts, its gradients, and decoding from a cache of pages."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from importlib import import_module
from typing import Any

import numpy as np

from ..cuda import CUDA
from ..dtypes import ITEM_BYTES, Array, from_bits, to_bits
from ..libraries import GOSSAMER, TORCH, Call, Library, as_values, torch_module
from ..op import Case, Contender, Op, Parameter, Work
from ..targets import Part, Target
from .forms import gossamer_module
from .parameters import K, M, positive

DTYPES = ("f32", "bf16", "f16")
#: Layouts by name: what is kept of each head's blocks. The first is all, of an attention that is
#: not causal; those from S2-Attention on are causal.
LAYOUTS = ("all", "causal", "s2", "window", "random50", "random25", "random10", "random5")
CAUSAL = ("causal", "s2", "window")
LOCAL, STRIDE = 8, 16  # of s2, in blocks
WINDOW = 512  # of window, in tokens
# What a number may differ by, as a share of the largest that is expected.
TOLERANCE = {"f32": 2e-5, "bf16": 3e-2, "f16": 4e-3}
ROWS = 48  # queries whose results are checked


def _word(known: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in known:
            raise ValueError
        return text

    return parse


HEADS = Parameter(
    "heads",
    help="positive integers: heads of queries [8]",
    usual="8",
    quick="2",
    parse=positive,
    head="heads",
    label=lambda heads: f"H={heads}",
)
KEY_HEADS = Parameter(
    "key_heads",
    help="positive integers that divide those: heads of keys [8]",
    usual="8",
    quick="2",
    parse=positive,
    head="of keys",
    label=lambda heads: f"Hkv={heads}",
)
BLOCK = Parameter(
    "block",
    help="positive integers: queries and keys of a block [64]",
    usual="64",
    quick="16",
    parse=positive,
    head="block",
    label=lambda block: f"block={block}",
    default=64,
)
LAYOUT = Parameter(
    "layout",
    help=f"of {', '.join(LAYOUTS)}: which blocks are kept [all,causal,s2]",
    usual="all,causal,s2",
    quick="all,s2",
    parse=_word(LAYOUTS),
    word=True,
    default="causal",
)
CHOICE = Parameter(
    "keys",
    help="of all, pages, tokens: what is read of the cache [all,pages]",
    usual="all,pages",
    quick="all,pages",
    parse=_word(("all", "pages", "tokens")),
    word=True,
    default="all",
)


def block_mask(case: Case) -> Array:
    """Say which blocks of each head are kept, [heads, n, n]."""
    heads, n, kind = case["heads"], -(-case["m"] // case["block"]), case["layout"]
    h, i, j = np.ogrid[:heads, :n, :n]
    kept: Array = np.ones((heads, n, n), bool)
    if kind in CAUSAL:
        kept = kept & (j <= i)
    if kind == "s2":
        shift = max(1, STRIDE // heads)
        kept = kept & ((i - j < LOCAL) | ((j + 1 + h * shift) % STRIDE == 0))
    elif kind == "window":
        kept = kept & ((i - j) * case["block"] <= WINDOW)
    elif kind.startswith("random"):
        rng = np.random.default_rng([case.seed, n, 21])
        kept = (rng.random((heads, n, n)) < int(kind.removeprefix("random")) / 100) | (i == j)
    return kept


class AttentionOp(Op):
    """Self-attention of one sequence of m tokens, with heads of k numbers."""

    parameters = (M, K, HEADS, BLOCK, LAYOUT)

    def weights_key(self, case: Case) -> Hashable:
        """Share layouts between the forward and the backward pass."""
        return tuple(case[x] for x in ("m", "heads", "block", "layout"))

    def weights(self, case: Case) -> Array:
        """Return which blocks are kept."""
        return block_mask(case)

    def nnz(self, case: Case, weights: Array) -> int:
        """Count the scores that are computed."""
        if case["layout"] in CAUSAL:
            inner = weights & np.tri(weights.shape[1], weights.shape[2], -1, dtype=bool)
            diagonal = int(case["heads"] * case["m"] * (case["block"] + 1) // 2)
            return int(inner.sum()) * int(case["block"]) ** 2 + diagonal
        return int(weights.sum()) * int(case["block"]) ** 2

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw q, k, v and a gradient, [1, m, heads, k]."""
        rng = np.random.default_rng([case.seed, case["m"], case["k"], 22])
        shape = (1, case["m"], case["heads"], case["k"])
        return {
            x: to_bits(rng.standard_normal(shape, np.float32), case.dtype)
            for x in ("q", "k", "v", "do")
        }

    def error(
        self, case: Case, weights: Array, reference: dict[str, Array], result: Any, storage: str
    ) -> float:
        """Compare with the expected numbers of the layout, or of the dense attention."""
        kind, got = result
        expected = reference[kind]
        got = np.asarray(got).astype(np.float64)
        if got.shape != expected.shape or not np.isfinite(got).all():
            return float("inf")
        scale = max(float(np.abs(expected).max()), 1e-3)
        return float(np.abs(got - expected).max()) / scale / TOLERANCE[storage]

    def rows(self, case: Case) -> Array:
        """Draw the queries, or keys, whose results are checked."""
        rng = np.random.default_rng([case.seed, 23])
        return np.sort(rng.permutation(case["m"])[:ROWS])

    def masks(self, case: Case, weights: Array) -> dict[str, Callable[[Array], Array]]:
        """Return functions from queries to their masks [heads, queries, keys]: ours, and dense."""
        keys = np.arange(case["m"])
        causal = case["layout"] in CAUSAL

        def sparse(rows: Array) -> Array:
            kept: Array = weights[:, rows // case["block"]][:, :, keys // case["block"]]
            return kept & dense(rows)

        def dense(rows: Array) -> Array:
            if not causal:
                return np.ones((1, rows.size, keys.size), bool)
            seen: Array = (keys <= rows[:, None])[None]
            return seen

        return {"sparse": sparse, "dense": dense}


class Forward(AttentionOp):
    """softmax(q·kᵀ/√k)·v on the kept blocks."""

    name = "attention-forward"

    def reference(self, case: Case, weights: Array, inputs: dict[str, Array]) -> dict[str, Array]:
        """Attend in float64, for some queries."""
        q, k, v = (from_bits(inputs[x], case.dtype)[0].astype(np.float64) for x in "qkv")
        rows, found = self.rows(case), {}
        for kind, mask in self.masks(case, weights).items():
            p = _softmax(np.einsum("ihd,jhd->hij", q[rows], k) * case["k"] ** -0.5, mask(rows))
            found[kind] = np.einsum("hij,jhd->ihd", p, v)
        return found

    def work(self, case: Case, nnz: int) -> Work:
        """Count two products of each kept pair; q, k, v and o are moved once."""
        elements = case["m"] * case["heads"] * case["k"]
        pairs = case["heads"] * case["m"] ** 2 / (2 if case["layout"] in CAUSAL else 1)
        return Work(
            4.0 * nnz * case["k"],
            4.0 * pairs * case["k"],
            4.0 * elements * ITEM_BYTES[case.dtype],
            0.0,
        )

    def make_contenders(self) -> list[Contender]:
        """List ours, SDPA without the layout, SDPA with it as a mask, and FlexAttention."""
        return [
            _one(self, "attention", "ours", GOSSAMER, _ours),
            _one(self, "sdpa", "dense", TORCH, _sdpa),
            _one(self, "sdpa-mask", "sparse", TORCH, _sdpa_mask),
            # Compiling it takes a minute.
            _one(self, "flex", "sparse", TORCH, _flex, default=False),
            _one(self, "cuda-attention", "ours", CUDA, _ours),
            _one(self, "cuda-sdpa", "dense", CUDA, _sdpa),
        ]


class Backward(AttentionOp):
    """The gradients of q, k and v, from that of the result."""

    name = "attention-backward"

    def reference(self, case: Case, weights: Array, inputs: dict[str, Array]) -> dict[str, Array]:
        """Differentiate in float64: dq of some queries."""
        q, k, v, do = (
            from_bits(inputs[x], case.dtype)[0].astype(np.float64) for x in ("q", "k", "v", "do")
        )
        rows, found, scale = self.rows(case), {}, case["k"] ** -0.5
        for kind, mask in self.masks(case, weights).items():
            p = _softmax(np.einsum("ihd,jhd->hij", q[rows], k) * scale, mask(rows))
            dp = np.einsum("ihd,jhd->hij", do[rows], v)
            ds = p * (dp - (p * dp).sum(-1, keepdims=True))
            found[kind] = np.einsum("hij,jhd->ihd", ds, k) * scale
        return found

    def work(self, case: Case, nnz: int) -> Work:
        """Count five products of each kept pair."""
        forward = FORWARD.work(case, nnz)
        return Work(2.5 * forward.flops, 2.5 * forward.dense_flops, 2.0 * forward.bytes, 0.0)

    def make_contenders(self) -> list[Contender]:
        """List ours and SDPA's, without the layout."""
        return [
            _one(self, "backward", "ours", GOSSAMER, _ours_backward),
            _one(self, "sdpa", "dense", TORCH, _sdpa_backward),
            _one(self, "cuda-backward", "ours", CUDA, _ours_backward),
            _one(self, "cuda-sdpa", "dense", CUDA, _sdpa_backward),
        ]


class Layouts(AttentionOp):
    """Building the layout, and the attention for which it is built."""

    name = "attention-layout"

    def reference(self, case: Case, weights: Array, inputs: dict[str, Array]) -> dict[str, Array]:
        """Expect the blocks that are kept, and the attention to them."""
        return FORWARD.reference(case, weights, inputs) | {"blocks": weights}

    def error(
        self, case: Case, weights: Array, reference: dict[str, Array], result: Any, storage: str
    ) -> float:
        """Compare the blocks exactly, an attention as ever."""
        kind, got = result
        if kind != "blocks":
            return super().error(case, weights, reference, result, storage)
        same = np.broadcast_to(got, weights.shape) == weights
        return 0.0 if same.all() else float("inf")

    def work(self, case: Case, nnz: int) -> Work:
        """Count the attention's."""
        return FORWARD.work(case, nnz)

    def make_contenders(self) -> list[Contender]:
        """List our builder, and our attention as what it is measured by."""

        def bind(case: Case, mask: Array, inputs: dict[str, Array]) -> Call:
            return lambda: _layout(case, mask)

        def blocks(case: Case, layout: Any) -> Any:
            return "blocks", layout.to_mask()[0]

        return [
            Contender(
                "layout", "ours", GOSSAMER, lambda case, mask: mask, bind, blocks, dtypes=DTYPES
            ),
            _one(self, "attention", "sparse", GOSSAMER, _ours, everywhere=True),
        ]


def _softmax(scores: Array, mask: Array) -> Array:
    scores = np.where(mask, scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    shares: Array = p / p.sum(-1, keepdims=True)
    return shares


def _one(
    op: AttentionOp,
    name: str,
    kind: str,
    library: Library,
    expression: Callable[[Case, Array, dict[str, Any], Library], Call],
    *,
    default: bool = True,
    everywhere: bool = False,
) -> Contender:
    def bind(case: Case, held: Array, inputs: dict[str, Array]) -> Call:
        arrays = {x: library.put(a, case.dtype) for x, a in inputs.items()}
        return expression(case, held, arrays, library)

    def result(case: Case, returned: Any) -> Any:
        # PyTorch has the heads before the tokens; of a gradient, dq comes first.
        first = as_values(returned[0] if isinstance(returned, tuple) else returned)
        rows = op.rows(case)
        ours = name.removeprefix("cuda-") in {"attention", "backward"}
        own = first[0][rows] if ours else first[0].swapaxes(0, 1)[rows]
        dense = kind == "dense"
        return "dense" if dense else "sparse", own

    return Contender(
        name, kind, library, lambda case, mask: mask, bind, result, dtypes=DTYPES,
        suits=lambda case: (
            everywhere or kind != "sparse" or case["layout"] not in {"all", "causal"}
        ),
        default=default,
    )  # fmt: skip


def _layout(case: Case, mask: Array) -> Any:
    layout = gossamer_module().BlockLayout
    if case["layout"] == "s2":
        n = mask.shape[1]
        return layout.local_stride(
            heads=case["heads"], blocks=n, local=LOCAL, stride=STRIDE, block=case["block"]
        )
    return layout.from_mask(mask if case["layout"] != "all" else mask[:1], block=case["block"])


def _layout_there(case: Case, mask: Array, library: Library) -> Any:
    """Return the layout, its arrays where the library's are."""
    layout = _layout(case, mask)
    if library is GOSSAMER:
        return layout
    arrays = (library.put_index(np.array(x)) for x in (layout.indptr, layout.indices))
    return gossamer_module().BlockLayout(*arrays, layout.shape, block=layout.block)


def _ours(case: Case, mask: Array, x: dict[str, Any], library: Library) -> Call:
    attention, layout = gossamer_module().attention, _layout_there(case, mask, library)
    q, k, v, causal = x["q"], x["k"], x["v"], case["layout"] in CAUSAL
    return lambda: attention(q, k, v, layout, causal=causal)


def _ours_backward(case: Case, mask: Array, x: dict[str, Any], library: Library) -> Call:
    gossamer, layout = gossamer_module(), _layout_there(case, mask, library)
    q, k, v, do, causal = x["q"], x["k"], x["v"], x["do"], case["layout"] in CAUSAL
    o, lse = gossamer.attention(q, k, v, layout, causal=causal)
    return lambda: gossamer.attention_backward(do, q, k, v, o, lse, layout, causal=causal)


def _heads_first(x: dict[str, Any], *names: str) -> list[Any]:
    return [x[name].transpose(1, 2).contiguous() for name in names]


def _sdpa(case: Case, mask: Array, x: dict[str, Any], library: Library) -> Call:
    sdpa = torch_module().nn.functional.scaled_dot_product_attention
    q, k, v = _heads_first(x, "q", "k", "v")
    causal = case["layout"] in CAUSAL
    return lambda: sdpa(q, k, v, is_causal=causal)


def _sdpa_mask(case: Case, mask: Array, x: dict[str, Any], library: Library) -> Call:
    torch = torch_module()
    sdpa = torch.nn.functional.scaled_dot_product_attention
    q, k, v = _heads_first(x, "q", "k", "v")
    kept = FORWARD.masks(case, mask)["sparse"](np.arange(case["m"]))
    elements = torch.from_numpy(np.ascontiguousarray(kept))[None]
    return lambda: sdpa(q, k, v, attn_mask=elements)


def _flex(case: Case, mask: Array, x: dict[str, Any], library: Library) -> Call:
    torch = torch_module()
    flex = import_module("torch.nn.attention.flex_attention")
    q, k, v = _heads_first(x, "q", "k", "v")
    blocks, causal = torch.from_numpy(mask)[None], case["layout"] in CAUSAL
    order = torch.argsort(blocks.to(torch.int8), dim=-1, descending=True, stable=True)
    kept = flex.BlockMask.from_kv_blocks(
        blocks.sum(-1).to(torch.int32),
        order.to(torch.int32),
        BLOCK_SIZE=case["block"],
        mask_mod=(lambda b, h, i, j: j <= i) if causal else None,
    )
    compiled = torch.compile(flex.flex_attention)
    return lambda: compiled(q, k, v, block_mask=kept)


def _sdpa_backward(case: Case, mask: Array, x: dict[str, Any], library: Library) -> Call:
    torch = torch_module()
    q, k, v, do = _heads_first(x, "q", "k", "v", "do")
    for leaf in (q, k, v):
        leaf.requires_grad_(True)
    causal = case["layout"] in CAUSAL
    o = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return lambda: torch.autograd.grad(o, (q, k, v), do, retain_graph=True)


class Decode(Op):
    """One token of a sequence of m, with heads of k numbers, against a cache in pages of 64."""

    name = "attention-decode"
    parameters = (M, K, HEADS, KEY_HEADS, CHOICE)
    PAGE = 64

    def _lists(self, case: Case) -> tuple[Array, Array, int]:
        """Return indptr and indices for each head of keys, and the page size."""
        page = 1 if case["keys"] == "tokens" else self.PAGE
        n, heads = case["m"] // self.PAGE * self.PAGE // page, case["key_heads"]
        rng = np.random.default_rng([case.seed, n, 24])
        count = {"all": n, "pages": max(1, n // 4), "tokens": max(1, n // 8)}[case["keys"]]
        lists = [np.sort(rng.permutation(n)[:count]) for _ in range(heads)]
        indptr = (np.arange(heads + 1) * count).astype(np.int32)
        return indptr, np.concatenate(lists).astype(np.int32), page

    def nnz(self, case: Case, weights: Any) -> int:
        """Count the tokens of all lists."""
        indptr, _, page = self._lists(case)
        return int(indptr[-1]) * page

    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw q [1, 1, heads, k] and a cache [1, m, key_heads, k]."""
        rng = np.random.default_rng([case.seed, case["m"], case["k"], 25])
        m = case["m"] // self.PAGE * self.PAGE
        shapes = {"q": (1, 1, case["heads"], case["k"])}
        shapes |= dict.fromkeys(("k", "v"), (1, m, case["key_heads"], case["k"]))
        return {
            x: to_bits(rng.standard_normal(shape, np.float32), case.dtype)
            for x, shape in shapes.items()
        }

    def reference(self, case: Case, weights: Any, inputs: dict[str, Array]) -> dict[str, Array]:
        """Attend in float64."""
        q, k, v = (from_bits(inputs[x], case.dtype)[0].astype(np.float64) for x in "qkv")
        indptr, indices, page = self._lists(case)
        group, found = case["heads"] // case["key_heads"], {}
        for kind in ("sparse", "dense"):
            parts = []
            for h in range(case["key_heads"]):
                tokens = np.arange(len(k))
                if kind == "sparse":
                    own = indices[indptr[h] : indptr[h + 1]]
                    tokens = (own[:, None] * page + np.arange(page)).ravel()
                s = q[0, h * group : (h + 1) * group] @ k[tokens, h].T * case["k"] ** -0.5
                parts.append(_softmax(s, np.ones(s.shape, bool)) @ v[tokens, h])
            found[kind] = np.concatenate(parts)
        return found

    def error(
        self, case: Case, weights: Any, reference: dict[str, Array], result: Any, storage: str
    ) -> float:
        """Compare with the expected numbers of the lists, or of the whole cache."""
        kind, got = result
        expected = reference[kind]
        got = np.asarray(got).astype(np.float64)
        if got.shape != expected.shape or not np.isfinite(got).all():
            return float("inf")
        scale = max(float(np.abs(expected).max()), 1e-3)
        return float(np.abs(got - expected).max()) / scale / TOLERANCE[storage]

    def work(self, case: Case, nnz: int) -> Work:
        """Count what is read of keys and values, once."""
        group = case["heads"] // case["key_heads"]
        tokens = case["m"] * case["key_heads"]
        flops = 4.0 * group * case["k"]
        size = 2.0 * case["k"] * ITEM_BYTES[case.dtype]
        return Work(flops * nnz, flops * tokens, size * nnz, 0.0)

    def make_contenders(self) -> list[Contender]:
        """List ours, and SDPA on the whole cache."""

        def make(name: str, kind: str, library: Library, expression: Any) -> Contender:
            def bind(case: Case, held: Any, inputs: dict[str, Array]) -> Call:
                arrays = {x: library.put(a, case.dtype) for x, a in inputs.items()}
                call: Call = expression(case, arrays, library)
                return call

            def result(case: Case, returned: Any) -> Any:
                o = as_values(returned[0] if isinstance(returned, tuple) else returned)
                return "dense" if kind == "dense" else "sparse", o.reshape(case["heads"], -1)

            return Contender(name, kind, library, lambda case, _: None, bind, result, dtypes=DTYPES)

        return [
            make("decode", "ours", GOSSAMER, self._ours),
            make("sdpa", "dense", TORCH, self._sdpa),
            make("cuda-decode", "ours", CUDA, self._ours),
            make("cuda-sdpa", "dense", CUDA, self._sdpa),
        ]

    def _ours(self, case: Case, x: dict[str, Any], library: Library) -> Call:
        decode = gossamer_module().attention_decode
        *lists, page = self._lists(case)
        indptr, indices = map(library.put_index, lists)
        q = x["q"]
        k, v = (x[name].reshape(-1, page, case["key_heads"], case["k"]) for name in "kv")
        return lambda: decode(q, k, v, indptr, indices)

    @staticmethod
    def _sdpa(case: Case, x: dict[str, Any], library: Library) -> Call:
        sdpa = torch_module().nn.functional.scaled_dot_product_attention
        q, k, v = _heads_first(x, "q", "k", "v")
        return lambda: sdpa(q, k, v, enable_gqa=True)


FORWARD, BACKWARD, BUILDING, DECODE = Forward(), Backward(), Layouts(), Decode()
OPS: list[Op] = [FORWARD, BACKWARD, BUILDING, DECODE]


def parts() -> list[Part]:
    """List the parts of the suite `attention`."""
    listed: list[Part] = []
    sizes: dict[str, Any]
    targets: tuple[Target, ...]
    for dtype, bounds in (("f32", (1.1, 5.0)), ("bf16", (1.5, 5.0))):
        suffix = "" if dtype == "f32" else f"-{dtype}"
        sizes = {"m": 8192, "k": 128, "heads": 8, "dtype": dtype}
        cases = [FORWARD.case(layout=x, **sizes) for x in ("causal", "s2", "window")]
        sizes = {"m": 4096, "k": 64, "heads": 8, "dtype": dtype}
        cases += [FORWARD.case(layout=x, **sizes) for x in LAYOUTS]
        targets = (
            Target(f"all blocks {dtype} vs SDPA", "attention", ("sdpa",), bounds[0],
                   {"layout": ("all", "causal")}),
            Target(f"S2-Attention {dtype} vs causal SDPA, S=8192, D=128", "attention", ("sdpa",),
                   bounds[1], {"layout": ("s2",), "m": (8192,)}),
        )  # fmt: skip
        who = ("attention", "sdpa", "sdpa-mask")
        listed.append(Part("attention", f"forward{suffix}", tuple(cases), who, targets))
    sizes = {"m": 4096, "k": 64, "heads": 8}
    cases = [BACKWARD.case(layout=x, **sizes) for x in ("causal", "s2", "window")]
    targets = (
        Target("backward, all blocks, vs SDPA", "backward", ("sdpa",), 0.7,
               {"layout": ("causal",)}),
        Target("backward, S2-Attention, vs causal SDPA", "backward", ("sdpa",), 2.2,
               {"layout": ("s2",)}),
    )  # fmt: skip
    listed.append(Part("attention", "backward", tuple(cases), ("backward", "sdpa"), targets))
    sizes = {"m": 8192, "k": 128, "heads": 8}
    cases = [BUILDING.case(layout=x, **sizes) for x in ("s2", "window", "random25")]
    targets = (
        Target("attention, 8K tokens, to building its layout", "layout", ("attention",), 20.0),
    )
    listed.append(Part("attention", "layout", tuple(cases), ("layout", "attention"), targets))
    for dtype, bound in (("f32", 1.8), ("bf16", 2.5)):
        suffix = "" if dtype == "f32" else f"-{dtype}"
        cases = [FORWARD.case(layout="s2", dtype=dtype, **sizes)]
        targets = (
            Target(f"S2-Attention {dtype}, 8K tokens, to FlexAttention", "attention", ("flex",),
                   bound),
        )  # fmt: skip
        named = ("attention", "flex")
        listed.append(Part("attention", f"flex{suffix}", tuple(cases), named, targets))
    sizes = {"m": 32768, "k": 128, "heads": 32, "key_heads": 8}
    for dtype in ("f32", "bf16"):
        suffix = "" if dtype == "f32" else f"-{dtype}"
        cases = [DECODE.case(keys=x, dtype=dtype, **sizes) for x in ("all", "pages", "tokens")]
        targets = (
            Target(f"decode {dtype}, 32K tokens: least time over ours", "decode", (), 0.7,
                   {"keys": ("all",)}),
        )  # fmt: skip
        listed.append(
            Part("attention", f"decode{suffix}", tuple(cases), ("decode", "sdpa"), targets)
        )
    return listed
