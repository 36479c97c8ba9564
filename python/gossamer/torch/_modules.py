"""Modules with sparse weights."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from gossamer import _core, prune, schedule
from gossamer._numbers import is_one, refuse
from gossamer.formats import BSR, CSR, NM
from gossamer.torch import _ops
from gossamer.torch._functions import linear_of
from gossamer.torch._ops import FORMATS, Parts, parts_of

Layout = Literal["csr", "bsr", "nm"]
Matrix = CSR | BSR | NM


class SparseLinear(nn.Module):  # type: ignore[misc]
    """A linear layer whose weight is sparse: y = x·Wᵀ + b; takes the place of `torch.nn.Linear`.

    `values` is a parameter with a gradient at W's entries only; `indptr` and `indices` are buffers.
    In eval mode, where no gradient of the values is asked for, products use `gossamer.pack`'s form
    of a CSR weight, made at the first one and made anew after the values changed. Writes that
    PyTorch does not count (`layer.values.data.mul_(2)`) are not seen: call `layer.repack()`.

    Parameters
    ----------
    weight : CSR, BSR or NM [M, K]
        The layer's parameter and buffers are its arrays, not copies.
    bias : tensor [M], or None

    Raises
    ------
    TypeError
        For what is none of the formats.
    ValueError
        For a bias of another shape.

    Examples
    --------
    >>> import torch
    >>> layer = SparseLinear.from_dense(torch.nn.Linear(64, 32), sparsity=0.9)
    >>> layer
    SparseLinear(in_features=64, out_features=32, bias=True, format=csr, nnz=205)
    >>> layer(torch.ones(8, 64)).shape
    torch.Size([8, 32])
    """

    values: Tensor
    indptr: Tensor | None
    indices: Tensor
    bias: Tensor | None
    #: Whether to pack in eval mode, which takes as much memory again as the weight.
    packs: bool

    def __init__(self, weight: Matrix, bias: Tensor | None = None) -> None:
        super().__init__()
        parts = parts_of("SparseLinear", "weight", weight)
        self.out_features, self.in_features = parts.sizes[:2]
        self.format = parts.format
        self.groups = tuple(parts.sizes[2:])  # of an NM: n, m, axis
        self.packs = True
        self.register_buffer("indptr", parts.indptr)
        self.register_buffer("indices", parts.indices)
        self.values = _parameter(parts.values)
        if bias is not None and tuple(bias.shape) != (self.out_features,):
            raise ValueError(
                f"SparseLinear: bias.shape is {tuple(bias.shape)}, expected ({self.out_features},)"
            )
        self.bias = None if bias is None else _parameter(bias)
        self._open_slot()

    def _open_slot(self) -> None:
        self._slot = _ops.new_slot()
        weakref.finalize(self, _ops.free_slot, self._slot)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._open_slot()  # a copy has a packed form of its own

    @classmethod
    def from_dense(
        cls,
        linear: nn.Linear,
        *,
        sparsity: float | None = None,
        mask: Tensor | None = None,
        pattern: str | CSR | BSR | None = None,
        format: Layout | None = None,
        block: int | tuple[int, int] | None = None,
    ) -> SparseLinear:
        """Make a sparse layer of a dense one: by exactly one of sparsity, mask and pattern.

        Parameters
        ----------
        linear : torch.nn.Linear
            Its weight is copied where it is kept, and its bias.
        sparsity : float
            The share of zeros. What is largest in magnitude stays; of a BSR, the blocks of the
            largest sum of magnitudes.
        mask : bool tensor [M, K]
            True where an entry is kept; of a BSR, a block is kept that holds one such.
        pattern : "n:m", or a CSR or BSR [M, K]
            n of every m inputs of each output stay, or the entries that the matrix has.
        format : "csr", "bsr", "nm" or None
            None is "nm" for a pattern "n:m", which that needs, and else "csr" or that of a matrix.
        block : (br, bc) or one number for both, the sides of a BSR's blocks

        Returns
        -------
        SparseLinear
            On linear's device, of its type, in its mode.

        Raises
        ------
        TypeError
            Where linear is no torch.nn.Linear.
        ValueError
            For not exactly one of the three, for a shape that blocks or groups do not divide.

        Examples
        --------
        >>> import torch
        >>> SparseLinear.from_dense(torch.nn.Linear(8, 2), pattern="2:4").nnz
        8
        """
        op = "SparseLinear.from_dense"
        if not isinstance(linear, nn.Linear):
            raise TypeError(
                f"{op}: linear is a {type(linear).__name__}, expected a torch.nn.Linear"
            )
        _check_weight(op, "linear.weight", linear)
        given = [name for name, x in _named(sparsity, mask, pattern) if x is not None]
        if len(given) != 1:
            raise ValueError(
                f"{op}: {' and '.join(given) or 'nothing'} is given, expected one of sparsity, "
                "mask and pattern"
            )
        if sparsity is not None:
            schedule._unit(op, "sparsity", sparsity)
        with torch.no_grad():
            weight = linear.weight.detach()
            format = format or _format_of(op, pattern)
            sides = _sides(op, format, block, pattern)
            matrix: Matrix
            if isinstance(pattern, (CSR, BSR)):
                matrix = _of_pattern(op, weight, pattern)
            else:
                if sparsity is not None:
                    mask = _magnitudes(weight, _kept(weight, sparsity, sides), sides)
                elif pattern is not None:
                    n, m = _n_of_m(op, pattern)
                    if weight.shape[1] % m:
                        refuse(op, "linear.in_features", weight.shape[1], f"a multiple of m = {m}")
                    mask = prune.nm_mask(prune.score(weight), n, m)
                if format == "nm":
                    matrix = NM.from_dense(weight, *_n_of_m(op, str(pattern)), mask=mask)
                else:
                    matrix = _of_mask(weight, mask, sides)
            layer = cls(matrix, None)
            layer.bias = _copied(linear.bias)
        layer.values.requires_grad_(linear.weight.requires_grad)
        return layer.train(linear.training)

    def to_dense(self) -> nn.Linear:
        """Return a `torch.nn.Linear` of this layer's weights, with zeros written out.

        Returns
        -------
        torch.nn.Linear
            It shares nothing with this layer.

        Examples
        --------
        >>> import torch
        >>> layer = SparseLinear.from_dense(torch.nn.Linear(4, 2), sparsity=0.5)
        >>> int((layer.to_dense().weight == 0).sum())
        4
        """
        dense = nn.utils.skip_init(
            nn.Linear,
            *(self.in_features, self.out_features),
            bias=self.bias is not None,
            device=self.values.device,
            dtype=self.values.dtype,
        )
        dense.weight = nn.Parameter(self._dense_weight(), self.values.requires_grad)
        dense.bias = _copied(self.bias)
        return dense.train(self.training)

    @property
    def matrix(self) -> Matrix:
        """The weight as a matrix of gossamer's over the layer's own tensors.

        `gossamer.regrow.csr_drop_grow_(layer.matrix, …)` under `torch.no_grad()` changes the layer.
        """
        parts = self._parts()
        made: Matrix = FORMATS[self.format].make(*parts[:3], parts.sizes, None)
        return made

    @property
    def nnz(self) -> int:
        """The number of values."""
        return int(self.values.numel())

    @property
    def weight(self) -> Tensor:
        """A stand-in of the dense weight's shape, type and device, for code that asks for those.

        What computes with it gets the dense weight, made for the purpose; it cannot be written,
        nor can its views.
        """
        return self._dense_weight() if torch.compiler.is_compiling() else _Weight(self)

    def repack(self) -> None:
        """Forget the packed form, so that the next product in eval mode makes it anew."""
        _ops.empty_slot(self._slot)

    @property
    def packed_layouts(self) -> str | None:
        """The layouts of the packed form that is there now, or None."""
        return _ops.slot_layouts(self._slot)

    def forward(self, x: Tensor) -> Tensor:
        """Return x·Wᵀ + b for x [..., K]."""
        return linear_of(x, self._parts(), self.bias, None, self._key())

    def train(self, mode: bool = True) -> SparseLinear:
        """Set the mode; in training mode there is no packed form."""
        if mode:
            self.repack()
        super().train(mode)
        return self

    def extra_repr(self) -> str:
        """Return what is shown between the parentheses."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, format={self.format}, nnz={self.nnz}"
        )

    def _parts(self) -> Parts:
        sizes = [self.out_features, self.in_features, *self.groups]
        return Parts(self.indptr, self.indices, self.values, self.format, sizes)

    def _key(self) -> int:
        """Return the place of the packed form, that of the plain matrix negated, or 0 for none."""
        if torch.compiler.is_exporting():
            return 0
        tracked = self.values.requires_grad and torch.is_grad_enabled()
        if self.training or tracked or not self.packs:
            return 0 if torch.compiler.is_compiling() else -self._slot
        return self._slot

    def _dense_weight(self) -> Tensor:
        with torch.no_grad():
            return self.matrix.to_dense()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        # The number of entries is what is loaded, not what the layer had.
        for name in ("values", "indices"):
            theirs, ours = state_dict.get(prefix + name), getattr(self, name)
            if isinstance(theirs, Tensor) and theirs.shape != ours.shape:
                if theirs.shape[1:] != ours.shape[1:]:
                    continue  # blocks of other sides: PyTorch says so
                empty = torch.empty(theirs.shape, dtype=ours.dtype, device=ours.device)
                if name == "values":
                    self.values = nn.Parameter(empty, ours.requires_grad)
                else:
                    self.indices = empty
        super()._load_from_state_dict(state_dict, prefix, *rest)


class _Weight(Tensor):  # type: ignore[misc]
    """`SparseLinear.weight`, or a view of it, which becomes dense in computations.

    The weight itself has no memory. A view has what was made for it, and stands in for it, since
    a write to that would reach nothing.
    """

    _layer: SparseLinear
    _made: Tensor | None

    @staticmethod
    def __new__(cls, layer: SparseLinear, made: Tensor | None = None) -> _Weight:
        values = layer.values
        shape = (layer.out_features, layer.in_features)
        options = {"dtype": values.dtype, "device": values.device}
        if made is not None:
            shape = made.shape
            options |= {"strides": made.stride(), "storage_offset": made.storage_offset()}
        result: _Weight = Tensor._make_wrapper_subclass(cls, shape, **options)
        return result

    def __init__(self, layer: SparseLinear, made: Tensor | None = None) -> None:
        self._layer, self._made = layer, made

    def __repr__(self) -> str:
        return f"<the weight of {self._layer}; compute with it, or layer.to_dense(), to see it>"

    @property
    def data(self) -> Tensor:
        """The same stand-in."""
        return self

    @data.setter
    def data(self, _value: Any) -> None:
        self._refuse("data")

    @property
    def requires_grad(self) -> bool:
        """False: it is the values that may require a gradient."""
        return False

    @requires_grad.setter
    def requires_grad(self, _value: bool) -> None:
        self._refuse("requires_grad")

    @property
    def grad(self) -> None:
        """None: it is the values that get a gradient."""
        return None

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not None:  # zero_grad sets None
            self._refuse("grad")

    def requires_grad_(self, _mode: bool = True) -> Tensor:
        """Refuse."""
        return self._refuse("requires_grad_")

    def __setitem__(self, _index: Any, _value: Any) -> None:
        self._refuse("an index")

    def numpy(self, *, force: bool = False) -> Any:
        """Return the dense weight."""
        return self._dense().numpy(force=force)

    def tolist(self) -> Any:
        """Return the dense weight."""
        return self._dense().tolist()

    def __array__(self, dtype: Any = None) -> Any:
        return self._dense().__array__(dtype)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._dense().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self._dense().__deepcopy__(memo)

    def _dense(self) -> Tensor:
        return self._layer._dense_weight() if self._made is None else self._made

    @staticmethod
    def _refuse(what: str) -> NoReturn:
        raise RuntimeError(
            f"SparseLinear.weight: {what} would write it, expected a write to layer.values"
        )

    @classmethod
    def __torch_dispatch__(cls, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable:
            cls._refuse(str(func))
        layers: list[SparseLinear] = []

        def dense(x: Any) -> Any:
            if not isinstance(x, _Weight):
                return x
            layers.append(x._layer)
            return x._dense()

        def view(x: Any) -> Any:
            return _Weight(layers[0], x) if isinstance(x, Tensor) else x

        args, kwargs = torch.utils._pytree.tree_map(dense, (args, kwargs or {}))
        result = func(*args, **kwargs)
        views = any(x.alias_info is not None for x in func._schema.returns)
        return torch.utils._pytree.tree_map(view, result) if views and layers else result


def sparsify_(
    model: nn.Module,
    *,
    sparsity: float | None = None,
    pattern: str | None = None,
    method: str = "uniform",
    format: Layout | None = None,
    block: int | tuple[int, int] | None = None,
    skip: Iterable[str] | Callable[[str, nn.Linear], bool] = (),
) -> nn.Module:
    """Put a `SparseLinear` in the place of each `torch.nn.Linear` of a model.

    Left alone are subclasses of `torch.nn.Linear`, layers inside `torch.nn.MultiheadAttention`,
    which reads their weights itself, and weights that another module shares. Make the optimizer
    afterwards: parameters are new.

    Parameters
    ----------
    model : torch.nn.Module
    sparsity : float
        The share of zeros over all weights that are replaced.
    pattern : "n:m"
        In the place of sparsity.
    method : "global", or as for `gossamer.schedule.allocate`: "uniform", "er", "erk"
        How layers share the budget; "global" keeps the largest magnitudes of all layers together.
    format, block : as for `SparseLinear.from_dense`
    skip : names of layers as in `model.named_modules()`, or a function of name and layer

    Returns
    -------
    torch.nn.Module
        The model.

    Raises
    ------
    TypeError
        Where model is no module.
    ValueError
        For not exactly one of sparsity and pattern, an unknown name to skip, and for a model that
        is itself a torch.nn.Linear or has none.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> sparsify_(model, sparsity=0.75, skip=["2"])[0]
    SparseLinear(in_features=8, out_features=8, bias=True, format=csr, nnz=16)
    """
    op = "sparsify_"
    if not isinstance(model, nn.Module):
        raise TypeError(f"{op}: model is a {type(model).__name__}, expected a torch.nn.Module")
    if isinstance(model, nn.Linear):
        raise ValueError(
            f"{op}: model is a torch.nn.Linear, expected a module around it "
            "(SparseLinear.from_dense makes a layer)"
        )
    if (sparsity is None) == (pattern is None):
        raise ValueError(
            f"{op}: sparsity is {sparsity} and pattern is {pattern}, expected one of them"
        )
    layers = list(_replaceable(op, model, skip))
    if not layers:
        raise ValueError(f"{op}: model has no torch.nn.Linear to replace")
    weights = [layer.weight.detach() for layer in layers]
    format = format or _format_of(op, pattern)
    sides = _sides(op, format, block, pattern)
    if pattern is not None:
        made = [
            SparseLinear.from_dense(layer, pattern=pattern, format=format, block=block)
            for layer in layers
        ]
    else:
        schedule._unit(op, "sparsity", sparsity)
        masks = _share(op, weights, sparsity, method, sides)
        made = [
            SparseLinear.from_dense(layer, mask=mask, format=format, block=block)
            for layer, mask in zip(layers, masks, strict=True)
        ]
    _replace(model, dict(zip(layers, made, strict=True)))
    return model


def densify_(model: nn.Module) -> nn.Module:
    """Put a `torch.nn.Linear` in the place of each `SparseLinear` of a model.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    torch.nn.Module
        The model.

    Raises
    ------
    TypeError
        Where model is no module.
    ValueError
        For a model that is itself a SparseLinear.

    Examples
    --------
    >>> import torch
    >>> model = sparsify_(torch.nn.Sequential(torch.nn.Linear(8, 8)), sparsity=0.5)
    >>> densify_(model)[0]
    Linear(in_features=8, out_features=8, bias=True)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"densify_: model is a {type(model).__name__}, expected a torch.nn.Module")
    if isinstance(model, SparseLinear):
        raise ValueError("densify_: model is a SparseLinear, expected a module around it")
    layers = [module for module in model.modules() if isinstance(module, SparseLinear)]
    _replace(model, {layer: layer.to_dense() for layer in layers})
    return model


def _parameter(x: Tensor) -> nn.Parameter:
    return x if isinstance(x, nn.Parameter) else nn.Parameter(x)


def _copied(x: Tensor | None) -> nn.Parameter | None:
    return None if x is None else nn.Parameter(x.detach().clone(), x.requires_grad)


def _named(*given: Any) -> Iterable[tuple[str, Any]]:
    return zip(("sparsity", "mask", "pattern"), given, strict=True)


Sides = tuple[int, int] | None


def _format_of(op: str, pattern: Any) -> Layout:
    if isinstance(pattern, str):
        return "nm"
    if pattern is not None and not isinstance(pattern, (CSR, BSR)):
        kind = type(pattern).__name__
        raise TypeError(f"{op}: pattern is a {kind}, expected 'n:m', a CSR or a BSR")
    return "bsr" if isinstance(pattern, BSR) else "csr"


def _sides(op: str, format: str, block: int | tuple[int, int] | None, pattern: Any) -> Sides:
    if format not in FORMATS:
        raise ValueError(f"{op}: format is {format!r}, expected 'csr', 'bsr' or 'nm'")
    if format == "nm" and not isinstance(pattern, str):
        raise ValueError(f"{op}: format is 'nm', which needs a pattern 'n:m'")
    if isinstance(pattern, (CSR, BSR)):
        if format != _format_of(op, pattern) or block is not None:
            raise ValueError(f"{op}: format or block is given, expected those of the pattern")
        return pattern.block if isinstance(pattern, BSR) else None
    if format == "bsr" and block is None:
        raise ValueError(f"{op}: block is None, expected the sides of the blocks of format 'bsr'")
    if format != "bsr" and block is not None:
        raise ValueError(f"{op}: block is {block} with format {format!r}, which only 'bsr' has")
    if block is None:
        return None
    sides = _core.pair(op, "block", (block, block) if is_one(block) else block)
    if min(sides) < 1:
        refuse(op, "block", sides, "sides of at least 1")
    return sides


def _kept(weight: Tensor, sparsity: float, sides: Sides) -> int:
    """Return how many entries, or blocks, are kept."""
    return schedule.nnz(weight.numel() // (1 if sides is None else sides[0] * sides[1]), sparsity)


def _magnitudes(weight: Tensor, k: int, sides: Sides) -> Tensor:
    """Return the mask of the k largest entries, or blocks."""
    score = prune.score(weight)
    mask: Tensor = prune.topk_mask(score, k) if not sides else prune.block_mask(score, k, sides)
    return mask


def _share(
    op: str, weights: list[Tensor], sparsity: Any, method: str, sides: Sides
) -> list[Tensor]:
    """Return the layers' masks for a budget of them all."""
    if method not in ("global", "uniform", "er", "erk"):  # others ask for scores
        refuse(op, "method", repr(method), "'global', 'uniform', 'er' or 'erk'")
    if method == "global":
        if sides is not None:
            raise ValueError(f"{op}: method is 'global', which blocks do not have")
        k = schedule.nnz(sum(w.numel() for w in weights), sparsity)
        masks: list[Tensor] = prune.topk_mask([prune.score(w) for w in weights], k)
        return masks
    br, bc = sides or (1, 1)
    shapes = [(w.shape[0] // br, w.shape[1] // bc) for w in weights]
    counts = schedule.allocate(shapes, sparsity=sparsity, method=method)  # type: ignore[arg-type]
    return [_magnitudes(w, k, sides) for w, k in zip(weights, counts, strict=True)]


def _n_of_m(op: str, pattern: str) -> tuple[int, int]:
    n, _, m = pattern.partition(":")
    if not (n.isdecimal() and m.isdecimal()):
        raise ValueError(f"{op}: pattern is {pattern!r}, expected 'n:m', a CSR or a BSR")
    if not 1 <= int(m) >= int(n):
        raise ValueError(f"{op}: pattern is {pattern!r}, expected n of 0 to m, and m of at least 1")
    return int(n), int(m)


def _of_mask(weight: Tensor, mask: Tensor | None, sides: Sides) -> CSR | BSR:
    if sides is None:
        return CSR.from_dense(weight, mask)
    return BSR.from_dense(weight, sides, mask)


def _of_pattern(op: str, weight: Tensor, pattern: CSR | BSR) -> CSR | BSR:
    """Return the matrix of the entries of `weight` that `pattern` has, with arrays of its own."""
    if tuple(weight.shape) != pattern.shape:
        raise ValueError(
            f"{op}: pattern.shape is {pattern.shape}, expected linear's {tuple(weight.shape)}"
        )
    parts = parts_of(op, "pattern", pattern)
    ones = torch.ones_like(parts.values, dtype=weight.dtype)
    kept = pattern.with_values(ones).to_dense().to(torch.bool)
    return _of_mask(weight, kept, pattern.block if isinstance(pattern, BSR) else None)


def _replaceable(op: str, model: nn.Module, skip: Any) -> Iterator[nn.Linear]:
    names = None if callable(skip) else {skip} if isinstance(skip, str) else set(skip)
    owners: dict[int, int] = {}
    attention: set[int] = set()
    for module in model.modules():
        for parameter in module._parameters.values():
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
        if isinstance(module, nn.MultiheadAttention):
            attention |= {id(inner) for inner in module.modules()}
    known = {name for name, _ in model.named_modules(remove_duplicate=False)}
    for name in sorted((names or set()) - known):
        raise ValueError(f"{op}: skip has {name!r}, which is no name of model.named_modules()")
    for name, module in model.named_modules():
        if type(module) is not nn.Linear or id(module) in attention:
            continue
        if owners.get(id(module.weight), 0) > 1:
            continue
        if name in names if names is not None else skip(name, module):
            continue
        _check_weight(op, f"the weight of {name!r}", module)
        yield module


def _check_weight(op: str, what: str, linear: nn.Linear) -> None:
    """Refuse a weight that a hook sets before each call: it may be that of an earlier step."""
    if "weight" not in linear._parameters and not is_parametrized(linear, "weight"):
        raise ValueError(
            f"{op}: {what} is set by hooks, expected a parameter: torch.nn.utils.prune.remove, or "
            "what undoes another method, makes it one"
        )


def _replace(model: nn.Module, made: dict[nn.Module, nn.Module]) -> None:
    """Put modules in the place of others wherever a model has them."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in made:
                setattr(parent, name, made[child])
                if isinstance(parent, nn.TransformerEncoderLayer):
                    # Its fused path for inference takes dense weights only.
                    dense = all(isinstance(x, nn.Linear) for x in (parent.linear1, parent.linear2))
                    parent.activation_relu_or_gelu = _fused(parent) if dense else 0


def _fused(layer: nn.TransformerEncoderLayer) -> int:
    """Return what `TransformerEncoderLayer` notes of its activation."""
    if layer.activation is nn.functional.relu or isinstance(layer.activation, nn.ReLU):
        return 1
    if layer.activation is nn.functional.gelu or isinstance(layer.activation, nn.GELU):
        return 2
    return 0


__all__ = ["SparseLinear", "densify_", "sparsify_"]
