"""SparseLinear, sparsify_ and densify_ inside PyTorch's own machinery."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import gossamer
import numpy as np
import pytest
from gossamer import regrow

torch = pytest.importorskip("torch")
from gossamer.torch import SparseLinear, densify_, sparsify_  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import prune as torch_prune  # noqa: E402

pytestmark = pytest.mark.once


def linear(inputs: int = 32, outputs: int = 16, **options: Any) -> Any:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, **options)


def layer(**options: Any) -> Any:
    return SparseLinear.from_dense(linear(), **(options or {"sparsity": 0.75}))


X = torch.linspace(-1, 1, 5 * 32).reshape(5, 32)
FORMS: dict[str, dict[str, Any]] = {
    "csr": {"sparsity": 0.75},
    "bsr": {"sparsity": 0.75, "format": "bsr", "block": (4, 8)},
    "mask": {"mask": torch.eye(16, 32, dtype=torch.bool)},
    "2:4": {"pattern": "2:4"},
    "2:4 csr": {"pattern": "2:4", "format": "csr"},
    "pattern": {"pattern": gossamer.CSR.from_dense(torch.eye(16, 32))},
}


@pytest.mark.parametrize("form", FORMS)
def test_layer_computes_what_its_dense_form_does(form: str) -> None:
    sparse = SparseLinear.from_dense(linear(), **FORMS[form])
    dense = sparse.to_dense()
    expected = {"csr": 128, "bsr": 128, "mask": 16, "2:4": 256, "pattern": 16}[
        form.split(maxsplit=1)[0]
    ]
    assert sparse.nnz == expected == int((dense.weight != 0).sum())
    assert torch.equal(dense.weight, torch.where(dense.weight != 0, linear().weight, 0))
    for y in (sparse(X), sparse.eval()(X), sparse.eval().requires_grad_(False)(X)):
        torch.testing.assert_close(y, dense(X))


@pytest.mark.parametrize("trains", [True, False])
def test_a_layer_without_memory_tells_shapes(trains: bool) -> None:
    sparse = layer().train(trains).requires_grad_(trains)
    sparse(X)
    y = sparse.to("meta")(X.to("meta"))
    assert y.is_meta
    assert y.shape == (5, 16)


def test_sparsity_keeps_the_largest() -> None:
    kept = layer().values.detach().abs()
    threshold = linear().weight.detach().abs().flatten().topk(128).values[-1]
    assert kept.min() == threshold


def test_gradient_is_at_the_entries() -> None:
    sparse, dense = layer(), layer().to_dense()
    sparse(X).square().sum().backward()
    dense(X).square().sum().backward()
    ours = sparse.matrix.with_values(sparse.values.grad).to_dense()
    torch.testing.assert_close(ours, torch.where(dense.weight != 0, dense.weight.grad, 0))
    torch.testing.assert_close(sparse.bias.grad, dense.bias.grad)


def test_eval_packs_and_follows_the_values() -> None:
    sparse = layer().eval()
    with torch.no_grad():
        before = sparse(X)
        assert sparse.packed_layouts is not None
        sparse.values.mul_(2)
        torch.testing.assert_close(sparse(X) - sparse.bias, 2 * (before - sparse.bias))
        sparse.values.data = sparse.values.data * 2
        torch.testing.assert_close(sparse(X) - sparse.bias, 4 * (before - sparse.bias))
        sparse.values.data.mul_(2)  # which PyTorch does not count
        sparse.repack()
        torch.testing.assert_close(sparse(X) - sparse.bias, 8 * (before - sparse.bias))
        sparse.train()
        assert sparse.packed_layouts is None
        torch.testing.assert_close(sparse(X), sparse.eval()(X))
        sparse.packs = False
        sparse.repack()
        sparse(X)
        assert sparse.packed_layouts is None


def test_training_keeps_the_matrix_and_follows_its_tensors() -> None:
    from gossamer.torch import _ops

    sparse, x = layer(), X.clone().requires_grad_()

    def check() -> Any:
        dense, twin = sparse.to_dense(), X.clone().requires_grad_()
        y, expected = sparse(x), dense(twin)
        torch.testing.assert_close(y, expected)
        slope = torch.autograd.grad(y.square().sum(), [x, sparse.values, sparse.bias])
        theirs = torch.autograd.grad(expected.square().sum(), [twin, dense.weight, dense.bias])
        torch.testing.assert_close(slope[0], theirs[0])
        ours = sparse.matrix.with_values(slope[1]).to_dense()
        pattern = sparse.matrix.with_values(torch.ones(sparse.nnz)).to_dense() > 0
        torch.testing.assert_close(ours, torch.where(pattern, theirs[1], 0))
        torch.testing.assert_close(slope[2], theirs[2])
        return _ops._slots[sparse._slot].plain

    first = check()
    with torch.no_grad():
        sparse.values.mul_(2)
    assert check() is first
    sparse.values.data = sparse.values.detach() + 1
    second = check()
    assert second is not first
    with torch.no_grad():
        regrow.csr_drop_grow_(sparse.matrix, torch.rand(16, 32), 4, 4)
    third = check()
    assert third is not second
    with torch.no_grad():
        sparse.values.data.resize_(sparse.nnz)
        sparse.indices[:] = sparse.indices.flip(0)
    with pytest.raises(ValueError, match=r"^CSR: indices\["):
        sparse(x)


def test_a_write_between_forward_and_backward_is_refused() -> None:
    sparse = layer()
    y = sparse(X.clone().requires_grad_())
    with torch.no_grad():
        sparse.values.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_copies_have_packed_forms_of_their_own() -> None:
    first = layer().eval().requires_grad_(False)
    first(X)
    second = copy.deepcopy(first)
    second.values.mul_(3)
    torch.testing.assert_close(second(X) - first.bias, 3 * (first(X) - first.bias))
    torch.testing.assert_close(first(X), first.to_dense()(X))
    third = pickle.loads(pickle.dumps(first))
    assert torch.equal(third(X), first(X))
    assert len({m._slot for m in (first, second, third)}) == 3


def test_packed_forms_go_with_their_layers() -> None:
    from gossamer.torch import _ops

    before = len(_ops._slots)
    for _ in range(3):
        layer().eval().requires_grad_(False)(X)
    assert len(_ops._slots) == before


def test_state_is_saved_and_loaded(tmp_path: Path) -> None:
    ours = layer()
    others = layer(sparsity=0.5)
    buffer = io.BytesIO()
    torch.save(ours.state_dict(), buffer)
    buffer.seek(0)
    others.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(others(X), ours(X))
    assert others.nnz == ours.nnz and isinstance(others.values, nn.Parameter)


def test_safetensors_round_trip(tmp_path: Path) -> None:
    files = pytest.importorskip("safetensors.torch")
    ours, others = layer(), layer(sparsity=0.5)
    files.save_model(ours, str(tmp_path / "a.safetensors"))
    others.load_state_dict(files.load_file(tmp_path / "a.safetensors"))
    assert torch.equal(others(X), ours(X))


def test_loaded_structure_is_checked() -> None:
    sparse = layer().eval().requires_grad_(False)
    sparse(X)
    state = {name: x.clone() for name, x in sparse.state_dict().items()}
    state["indices"][0] = 10**6
    sparse.load_state_dict(state)
    with pytest.raises(ValueError, match=r"^CSR: indices\["):
        sparse(X)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_to_changes_the_type_of_values_only(dtype: Any) -> None:
    sparse = layer().to(dtype)
    assert sparse.values.dtype == sparse.bias.dtype == dtype
    assert sparse.indices.dtype == sparse.indptr.dtype == torch.int32
    tolerance = torch.finfo(dtype).eps * 32
    for mode in (True, False):
        y = sparse.train(mode)(X.to(dtype))
        expected = sparse.to_dense().double()(X.to(dtype).double())
        torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)


def test_autocast_in_both_modes() -> None:
    sparse = layer()
    for mode in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert sparse.train(mode)(X).dtype == torch.bfloat16


def test_weight_stands_in_for_the_dense_one() -> None:
    sparse = layer()
    assert sparse.weight.shape == (16, 32)
    assert (sparse.weight.dtype, sparse.weight.device.type) == (torch.float32, "cpu")
    assert torch.equal(sparse.weight + 0, sparse.to_dense().weight)
    with pytest.raises(RuntimeError, match=r"^SparseLinear\.weight: .* would write it"):
        sparse.weight.zero_()


WRITES: dict[str, Any] = {
    "data": lambda w: w.data.normal_(),
    "assignment of data": lambda w: setattr(w, "data", torch.ones(16, 32)),
    "index": lambda w: w.__setitem__(0, 1),
    "row": lambda w: w[0].zero_(),
    "rows": lambda w: w.unbind(0)[3].zero_(),
    "transpose": lambda w: w.t().mul_(2),
    "view": lambda w: w.view(-1)[3:9].fill_(1),
    "detached": lambda w: w.detach().mul_(2),
    "initialization": nn.init.xavier_uniform_,
    "out": lambda w: torch.add(torch.ones(16, 32), 1, out=w),
    "grad": lambda w: setattr(w, "grad", torch.zeros(w.shape)),
    "requires_grad": lambda w: setattr(w, "requires_grad", False),
    "requires_grad_": lambda w: w.requires_grad_(False),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_to_the_weight_is_refused_and_not_lost(write: Any) -> None:
    sparse = layer()
    with (
        torch.no_grad(),
        pytest.raises(RuntimeError, match=r"^SparseLinear\.weight: .* would write it, expected"),
    ):
        write(sparse.weight)


def test_views_of_the_weight_are_read_as_tensors_are() -> None:
    sparse = layer()
    dense = sparse.to_dense().weight.detach()
    weight = sparse.weight
    for got, want in [
        (weight.detach(), dense),
        (weight.data, dense),
        (weight.t()[2:5], dense.t()[2:5]),
        (weight.view(8, 64)[:, ::2], dense.view(8, 64)[:, ::2]),
        (weight.split(5)[1], dense.split(5)[1]),
    ]:
        assert torch.equal(got + 0, want) and got.stride() == want.stride()
        assert got.tolist() == want.tolist() and (got.numpy() == want.numpy()).all()
        assert torch.equal(pickle.loads(pickle.dumps(got)), want)
        assert type(got.clone()) is torch.Tensor and torch.equal(copy.deepcopy(got), want)
    x = X.clone().requires_grad_()
    torch.nn.functional.linear(x, weight).sum().backward()
    torch.testing.assert_close(x.grad, dense.sum(0).expand_as(x))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_layer_takes_it(activation: str) -> None:
    torch.manual_seed(0)
    options = {"dropout": 0.0, "batch_first": True, "activation": activation}
    encoder = nn.TransformerEncoderLayer(32, 4, 64, **options)
    x = torch.randn(2, 5, 32)
    encoder.linear1 = SparseLinear.from_dense(encoder.linear1, sparsity=0.5)
    by_hand = copy.deepcopy(encoder)
    sparsify_(encoder, sparsity=0.5)  # the other one
    assert isinstance(encoder.linear2, SparseLinear)
    assert type(encoder.self_attn.out_proj) is not SparseLinear
    dense = densify_(copy.deepcopy(encoder))
    torch.testing.assert_close(encoder(x), dense(x))
    torch.testing.assert_close(by_hand(x).shape, x.shape)
    for model in (encoder, dense, by_hand):
        model.eval()
    with torch.no_grad():  # where PyTorch has a fused path for dense weights
        torch.testing.assert_close(encoder(x), dense(x))
        by_hand.linear2 = encoder.linear2
        torch.testing.assert_close(by_hand(x), dense(x))
        nested = nn.TransformerEncoder(encoder, 2, enable_nested_tensor=False).eval()
        assert nested(x).shape == x.shape


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.body = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8))
        self.again = self.body[0]
        self.head = nn.Linear(8, 16)
        self.head.weight = self.embedding.weight


def test_sparsify_leaves_shared_weights_and_keeps_shared_layers() -> None:
    model = sparsify_(Tied(), sparsity=0.5)
    assert isinstance(model.body[0], SparseLinear) and model.again is model.body[0]
    assert type(model.head) is nn.Linear


@pytest.mark.parametrize("method", ["uniform", "erk", "global"])
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_sparsify_keeps_the_budget(method: str, sparsity: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Sequential(nn.Linear(32, 8)))
    total = 64 * 32 + 32 * 8
    sparsify_(model, sparsity=sparsity, method=method)
    assert model[0].nnz + model[2][0].nnz == gossamer.schedule.nnz(total, sparsity)
    dense = densify_(copy.deepcopy(model))
    assert not [m for m in dense.modules() if isinstance(m, SparseLinear)]
    torch.testing.assert_close(dense(torch.ones(2, 64)), model(torch.ones(2, 64)))


def test_skip_by_name_and_by_function() -> None:
    def names(model: Any) -> list[str]:
        return [name for name, m in model.named_modules() if isinstance(m, SparseLinear)]

    def make() -> Any:
        return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))

    assert names(sparsify_(make(), sparsity=0.5, skip=["1"])) == ["0", "2"]
    small = sparsify_(make(), sparsity=0.5, skip=lambda _name, m: m.out_features < 8)
    assert names(small) == ["0", "1"]
    blocks = sparsify_(make(), sparsity=0.5, format="bsr", block=2, method="erk")
    assert {m.format for m in blocks} == {"bsr"}
    assert sparsify_(make(), pattern="1:4")[0].nnz == 16


def bad(call: Any) -> Any:
    return pytest.param(call, id=str(call.__code__.co_firstlineno))


def pruned() -> Any:
    model = nn.Sequential(linear(), nn.ReLU(), nn.Linear(16, 4))
    torch_prune.l1_unstructured(model[0], "weight", amount=0.5)
    return model


def test_pruned_layers_may_be_skipped_or_made_plain() -> None:
    model = sparsify_(pruned(), sparsity=0.5, skip=["0"])
    assert type(model[0]) is nn.Linear and isinstance(model[2], SparseLinear)
    torch_prune.remove(model[0], "weight")
    assert isinstance(sparsify_(model, sparsity=0.5)[0], SparseLinear)


def test_sides_of_blocks_may_be_any_integers() -> None:
    assert layer(**S, format="bsr", block=np.int64(2)).values.shape[1:] == (2, 2)
    assert layer(**S, format="bsr", block=[4, np.int32(2)]).values.shape[1:] == (4, 2)


S = {"sparsity": 0.5}
BAD = [
    (lambda: layer(sparsity=0.5, pattern="2:4"), "from_dense: sparsity and pattern is given"),
    (lambda: SparseLinear.from_dense(linear()), "from_dense: nothing is given, expected one of"),
    (lambda: layer(pattern="two"), "from_dense: pattern is 'two', expected 'n:m', a CSR or a BSR"),
    (
        lambda: layer(**S, format="coo"),
        "from_dense: format is 'coo', expected 'csr', ",
    ),
    (lambda: layer(**S, format="nm"), "from_dense: format is 'nm', which needs a pattern 'n:m'"),
    (
        lambda: layer(pattern=gossamer.CSR.from_dense(torch.eye(16, 32)), format="bsr"),
        "from_dense: format or block is given, expected those of the pattern",
    ),
    (
        lambda: layer(**S, format="bsr"),
        "from_dense: block is None, expected the sides of the block",
    ),
    (lambda: layer(**S, block=4), "from_dense: block is 4 with format 'csr', which only 'bsr' has"),
    (lambda: layer(sparsity=1.5), r"SparseLinear\.from_dense: sparsity is 1.5, expected 0 to 1"),
    (
        lambda: layer(pattern="4:2"),
        r"SparseLinear\.from_dense: pattern is '4:2', expected n of 0 to m",
    ),
    (
        lambda: layer(pattern="0:0"),
        r"SparseLinear\.from_dense: pattern is '0:0', expected n of 0 to m",
    ),
    (
        lambda: layer(pattern="2:5"),
        r"SparseLinear\.from_dense: linear\.in_features is 32, expected a multiple of m = 5",
    ),
    (
        lambda: sparsify_(nn.Sequential(linear()), sparsity=90),
        "sparsify_: sparsity is 90.0, expected 0 to 1",
    ),
    *(
        (
            lambda method=method: sparsify_(nn.Sequential(linear()), **S, method=method),
            f"sparsify_: method is '{method}', expected 'global', 'uniform', 'er' or 'erk'",
        )
        for method in ("owl", "foo")
    ),
    (
        lambda: layer(pattern=gossamer.CSR.from_dense(torch.eye(3))),
        r"from_dense: pattern.shape is \(3, 3\), expected linear's \(16, 32\)",
    ),
    (
        lambda: SparseLinear(gossamer.CSR.from_dense(torch.eye(3)), torch.ones(2)),
        r"SparseLinear: bias.shape is \(2,\), expected \(3,\)",
    ),
    (lambda: sparsify_(linear(), **S), "sparsify_: model is a torch.nn.Linear, expected a module"),
    (lambda: sparsify_(nn.ReLU(), **S), "sparsify_: model has no torch.nn.Linear to replace"),
    (lambda: sparsify_(nn.Sequential(linear())), "sparsify_: sparsity is None and pattern is None"),
    (
        lambda: sparsify_(nn.Sequential(linear()), **S, skip="1"),
        r"sparsify_: skip has '1', which is no name of model.named_modules\(\)",
    ),
    (
        lambda: layer(**S, format="bsr", block=0),
        r"from_dense: block is \(0, 0\), expected sides of at least 1",
    ),
    (
        lambda: layer(**S, format="bsr", block=(2, 2, 2)),
        r"from_dense: block is \(2, 2, 2\), expected two integers",
    ),
    (
        lambda: sparsify_(pruned(), **S),
        r"sparsify_: the weight of '0' is set by hooks, expected a parameter: torch.nn.utils.prune",
    ),
    (
        lambda: SparseLinear.from_dense(pruned()[0], **S),
        r"from_dense: linear.weight is set by hooks, expected a parameter: torch.nn.utils.prune",
    ),
    (lambda: densify_(layer()), "densify_: model is a SparseLinear, expected a module around it"),
]


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_message(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_message_for_what_is_no_layer() -> None:
    with pytest.raises(TypeError, match=r"linear is a ReLU, expected a torch\.nn\.Linear$"):
        SparseLinear.from_dense(nn.ReLU(), sparsity=0.5)
    with pytest.raises(TypeError, match=r"from_dense: pattern is a tuple, expected 'n:m', a CSR"):
        layer(pattern=(2, 4))
    with pytest.raises(TypeError, match=r"from_dense: block is \(2\.0, 2\), expected two in"):
        layer(**S, format="bsr", block=(2.0, 2))
    with pytest.raises(TypeError, match=r"^SparseLinear: weight is a Tensor, expected a CSR, "):
        SparseLinear(torch.ones(2, 2))
    for function in (lambda x: sparsify_(x, sparsity=0.5), densify_):
        with pytest.raises(TypeError, match=r"model is a Tensor, expected a torch\.nn\.Module"):
            function(torch.ones(2))


STEP = """
import resource, torch
from gossamer import CSR
from gossamer.torch import SparseLinear

torch.manual_seed(0)
rows, n = 4096, 2048


def step(layer, x):
    y = layer(x)
    g = torch.ones_like(y)
    y.backward(g)
    return y, g


def high():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


small = SparseLinear.from_dense(torch.nn.Linear(64, 64), sparsity=0.98)
step(small, torch.ones(8, 64, requires_grad=True))
layer = SparseLinear(CSR.from_mask(torch.rand(n, n) < 0.02))
before = high()
x = torch.ones(rows, n, requires_grad=True)
y, g = step(layer, x)
tensors = [x, x.grad, y, g, *layer.buffers(), layer.values, layer.values.grad]
print(high() - before, sum(t.untyped_storage().nbytes() for t in tensors))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs the peak of memory as Linux counts it")
def test_training_step_needs_little_memory_beside_its_own_tensors() -> None:
    """98 % zeros: the dense weight's gradient, were it made, would be seen."""
    done = subprocess.run(
        [sys.executable, "-c", STEP], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    peak, own = map(int, done.stdout.split())
    assert peak <= 1.5 * own


def test_training_follows_regrowth() -> None:
    """RigL: drop and grow in place, with Adam's moments, and the loss still falls."""
    torch.manual_seed(0)
    sparse = SparseLinear.from_dense(nn.Linear(32, 4), sparsity=0.5)
    target = torch.randn(32, 4)
    x = torch.randn(64, 32)
    optimizer = torch.optim.Adam(sparse.parameters(), lr=0.05)
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        loss = (sparse(x) - x @ target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 10 == 5:
            with torch.no_grad():
                g = 2 * (sparse(x) - x @ target).T @ x
                state = optimizer.state[sparse.values]
                moments = [state["exp_avg"], state["exp_avg_sq"]]
                regrow.csr_drop_grow_(sparse.matrix, g.abs(), 4, 4, states=moments)
    assert sparse.nnz == 64
    assert losses[-1] < 0.5 * losses[0]
