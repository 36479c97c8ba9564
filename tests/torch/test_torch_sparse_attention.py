"""SparseAttention against nn.MultiheadAttention, and inside PyTorch's own machinery."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from pathlib import Path
from typing import Any

import gossamer
import pytest

torch = pytest.importorskip("torch")
from gossamer.torch import SparseAttention, SparseLinear, sparsify_  # noqa: E402
from torch import nn  # noqa: E402

pytestmark = pytest.mark.once

B, S, E, H, BLOCK = 2, 24, 32, 4, 8


def pattern(queries: int, keys: int) -> Any:
    blocks = -(-queries // BLOCK), -(-keys // BLOCK)
    return gossamer.BlockLayout.window_global(blocks=blocks, window=0, globals=1, block=BLOCK)


def mask(queries: int, keys: int) -> Any:
    """Return True where the pattern keeps a pair."""
    kept = torch.from_numpy(pattern(queries, keys).to_mask(elements=True))
    return kept[0, 0, :queries, :keys].bool()


def dense(**options: Any) -> Any:
    torch.manual_seed(0)
    return nn.MultiheadAttention(E, H, batch_first=True, **options)


def random(*shape: int, seed: int = 1) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize("layout", [pattern, pattern(S, S)], ids=["function", "layout"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_multihead_attention_with_the_patterns_mask(
    layout: Any, causal: bool, bias: bool
) -> None:
    theirs = dense(bias=bias)
    ours = SparseAttention.from_dense(theirs, layout, causal=causal)
    kept = mask(S, S) & (torch.ones(S, S).tril().bool() if causal else True)
    x, twin = (random(B, S, E).requires_grad_() for _ in range(2))
    got = ours(x)[0]
    expected = theirs(twin, twin, twin, attn_mask=~kept, need_weights=False)[0]
    torch.testing.assert_close(got, expected, **CLOSE)
    g = random(*got.shape, seed=2)
    got.backward(g)
    expected.backward(g)
    torch.testing.assert_close(x.grad, twin.grad, **CLOSE)
    parts = [ours.q_proj.weight.grad, ours.k_proj.weight.grad, ours.v_proj.weight.grad]
    torch.testing.assert_close(torch.cat(parts), theirs.in_proj_weight.grad, **CLOSE)
    torch.testing.assert_close(ours.out_proj.weight.grad, theirs.out_proj.weight.grad, **CLOSE)
    torch.testing.assert_close(ours(x[0])[0], got[0], **CLOSE)


def test_cross_attention_to_other_features() -> None:
    theirs = dense(kdim=12, vdim=20)
    ours = SparseAttention.from_dense(theirs, pattern)
    q, k, v = random(B, S, E), random(B, 17, 12), random(B, 17, 20)
    expected = theirs(q, k, v, attn_mask=~mask(S, 17), need_weights=False)[0]
    torch.testing.assert_close(ours(q, k, v)[0], expected, **CLOSE)


def test_grouped_heads_are_repeated_heads() -> None:
    torch.manual_seed(0)
    grouped = SparseAttention(E, H, pattern, num_kv_heads=2, causal=True)
    full = SparseAttention(E, H, pattern, causal=True)
    state = grouped.state_dict()
    for name in ("k_proj", "v_proj"):
        for kind in ("weight", "bias"):
            x = state[f"{name}.{kind}"].unflatten(0, (2, E // H))
            state[f"{name}.{kind}"] = x.repeat_interleave(2, dim=0).flatten(0, 1)
    full.load_state_dict(state)
    x = random(B, S, E)
    torch.testing.assert_close(grouped(x)[0], full(x)[0], **CLOSE)


@pytest.mark.parametrize("layout", [pattern, pattern(S, S)], ids=["function", "layout"])
def test_compiles_and_exports(layout: Any) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    module = SparseAttention(E, H, layout, num_kv_heads=2, causal=True)
    compiled = torch.compile(lambda x: module(x)[0], fullgraph=True, backend="aot_eager")
    for length in (S, S - 5):  # as many blocks
        x = random(B, length, E).requires_grad_()
        got, expected = compiled(x), module(x)[0]
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
        for a, b in zip(
            torch.autograd.grad(got.sum(), [x, *module.parameters()]),
            torch.autograd.grad(expected.sum(), [x, *module.parameters()]),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    x = random(B, S, E)
    program = torch.export.export(module, (x,))
    assert "gossamer.attention" in str(program.graph)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    torch.testing.assert_close(loaded(x)[0], module(x)[0], rtol=0, atol=0)


def test_state_is_saved_and_loaded(tmp_path: Path) -> None:
    files = pytest.importorskip("safetensors.torch")
    ours = SparseAttention(E, H, pattern(S, S))
    elements = gossamer.CSR.from_mask(torch.eye(S, dtype=torch.bool))
    others = [
        SparseAttention(E, H, gossamer.BlockLayout.from_csr(elements, block=4)) for _ in range(2)
    ]
    x = random(B, S, E)
    assert others[0].kinds is not None and not torch.allclose(others[0](x)[0], ours(x)[0])
    torch.save(ours.state_dict(), tmp_path / "a.pt")
    others[0].load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
    files.save_model(ours, str(tmp_path / "a.safetensors"))
    others[1].load_state_dict(files.load_file(tmp_path / "a.safetensors"))
    for other in others:
        assert torch.equal(other(x)[0], ours(x)[0])
    others[0].indices[0] = 99  # checked again after the write
    with pytest.raises(ValueError, match=r"^BlockLayout: indices\["):
        others[0](x)


@pytest.mark.parametrize("layout", [pattern, pattern(S, S)], ids=["function", "layout"])
def test_copies_and_types(layout: Any) -> None:
    module = SparseAttention(E, H, layout)
    x = random(B, S, E)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x)[0], module(x)[0])
    half = copy.deepcopy(module).to(torch.bfloat16)
    y = half(x.bfloat16())[0]
    assert y.dtype == torch.bfloat16 and half.q_proj.weight.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), module(x)[0], rtol=0.1, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module(x)[0].dtype == torch.bfloat16


def test_functions_are_asked_once_for_each_length_and_go_with_their_modules() -> None:
    from gossamer.torch import _sparse_attention

    asked = []

    def layout(queries: int, keys: int) -> Any:
        asked.append((queries, keys))
        return pattern(queries, keys)

    before = len(_sparse_attention._modules)
    module = SparseAttention(E, H, layout)
    for length in (8, 16, 8):
        module(random(1, length, E))
    assert asked == [(8, 8), (16, 16)]
    assert module.layout(16).nblocks == pattern(16, 16).nblocks
    del module
    assert len(_sparse_attention._modules) == before


class Holder(nn.Module):
    """A module that builds the layouts of the attention that it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = SparseAttention(E, H, self.layout)

    def layout(self, queries: int, keys: int) -> Any:
        return pattern(queries, keys)


def test_a_module_that_builds_the_layouts_of_its_own_attention_is_collected() -> None:
    holder = Holder()
    y = holder.attention(random(1, 8, E))[0]
    twin = copy.deepcopy(holder)
    assert torch.equal(twin.attention(random(1, 8, E))[0], y)
    assert twin.attention._build.__self__ is twin
    gone = weakref.ref(holder)
    del holder
    gc.collect()
    assert gone() is None


def test_layouts_of_many_lengths_are_not_all_kept() -> None:
    module = SparseAttention(E, H, pattern)
    query = random(1, 1, E)
    results = [module(query, random(1, keys, E, seed=keys))[0] for keys in range(1, 200)]
    assert len(module._made) <= 64
    for keys in (1, 199):
        assert torch.equal(module(query, random(1, keys, E, seed=keys))[0], results[keys - 1])
    assert copy.deepcopy(module)._made == {}


def test_an_encoder_says_why_it_takes_no_mask() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(E, H, batch_first=True), 2)
    for block in encoder.layers:
        block.self_attn = SparseAttention.from_dense(block.self_attn, pattern)
    x = random(1, S, E)
    for mode in (True, False):
        with pytest.raises(ValueError, match=r"^SparseAttention: key_padding_mask is given"):
            encoder.train(mode)(x, src_key_padding_mask=torch.zeros(1, S, dtype=torch.bool))
        assert encoder(x).shape == x.shape


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_layer_takes_it(norm_first: bool) -> None:
    torch.manual_seed(0)
    options = {"dropout": 0.0, "batch_first": True, "norm_first": norm_first}
    dense = nn.TransformerEncoderLayer(E, H, 64, **options)
    sparse = copy.deepcopy(dense)
    sparse.self_attn = SparseAttention.from_dense(dense.self_attn, pattern)
    x = random(B, S, E)
    for mode in (True, False):
        expected = dense.train(mode)(x, src_mask=~mask(S, S))
        torch.testing.assert_close(sparse.train(mode)(x), expected, **CLOSE)
        with torch.no_grad():
            torch.testing.assert_close(sparse(x), expected, **CLOSE)
    sparsify_(sparse, sparsity=0.5)
    assert isinstance(sparse.self_attn.q_proj, SparseLinear)
    assert sparse(x).shape == x.shape


L = pattern(S, S)
BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: SparseAttention(-E, 2, L), ValueError, "embed_dim is -32, expected at least 1"),
    (lambda: SparseAttention(E, 2.0, L), TypeError, "SparseAttention: num_heads is 2.0"),
    (lambda: SparseAttention(E, 2, L, kdim=0), ValueError, "kdim is 0, expected at least 1"),
    (lambda: SparseAttention(E, 2, L, vdim="8"), TypeError, "SparseAttention: vdim is '8'"),
    (lambda: SparseAttention(E, 5, L), ValueError, "num_heads is 5, expected a divisor of embed_"),
    (
        lambda: SparseAttention(E, H, L, num_kv_heads=3),
        ValueError,
        "SparseAttention: num_kv_heads is 3, expected a divisor of num_heads = 4",
    ),
    (
        lambda: SparseAttention(E, H, torch.ones(3, 3)),
        TypeError,
        "SparseAttention: layout is a Tensor, expected a BlockLayout or a function that returns",
    ),
    (
        lambda: SparseAttention(E, H, lambda _q, _k: None)(random(1, S, E)),
        TypeError,
        "SparseAttention: layout returned a NoneType, expected a BlockLayout",
    ),
    (
        lambda: SparseAttention(E, H, L)(random(1, S, E), attn_mask=mask(S, S)),
        ValueError,
        "SparseAttention: attn_mask is given, expected None: the layout says who sees whom",
    ),
    (
        lambda: SparseAttention(E, H, L)(random(1, S, E), need_weights=True),
        ValueError,
        "SparseAttention: need_weights is True, expected False",
    ),
    (
        lambda: SparseAttention(E, H, L)(random(1, 1, S, E)),
        ValueError,
        "SparseAttention: query.ndim is 4, expected 2 or 3",
    ),
    (
        lambda: SparseAttention(E, H, L)(random(1, S, E), random(S, E)),
        ValueError,
        "SparseAttention: key.ndim is 2, expected query.ndim = 3",
    ),
    (
        lambda: SparseAttention.from_dense(nn.Linear(2, 2), L),
        TypeError,
        r"from_dense: attention is a Linear, expected a torch\.nn\.MultiheadAttention",
    ),
    (
        lambda: SparseAttention.from_dense(dense(add_zero_attn=True), L),
        ValueError,
        "from_dense: attention has bias_k or add_zero_attn, expected neither",
    ),
]


@pytest.mark.parametrize("call, kind, message", BAD, ids=[message for _, _, message in BAD])
def test_message(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize(
    "extra",
    [torch.tensor([1, 1]), torch.ones(6), torch.ones(2, 3, dtype=torch.int64), [1] * 6, None],
    ids=repr,
)
def test_sizes_that_no_layout_has_are_not_loaded(extra: Any) -> None:
    layer = SparseAttention(E, H, pattern(S, S))
    state = layer.state_dict() | {"_extra_state": extra}
    with pytest.raises(ValueError, match=r"^SparseAttention: _extra_state is "):
        layer.load_state_dict(state)
