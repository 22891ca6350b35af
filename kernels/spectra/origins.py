"""Where tensors come from: the data flow of one forward pass, followed call by call.

A function mode sees every torch call a program makes, whatever its modules look like. It keeps,
for each tensor, the parameter matmuls whose outputs reach it through token-wise operations only.
A feed-forward is then what lies between two parameter matmuls, the second of which returns to
the width that the first came from, with a nonlinearity or a product in between and no mixing of
tokens and no residual sum on the way. No name, class or attribute of the program is consulted.

Words: a *source* is the output of a parameter matmul (or a slice of it); a *stream* tensor is
one that has met other tokens or a residual sum, and so belongs to no single feed-forward.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

LINEAR = {"linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm",
          "einsum", "_grouped_mm", "grouped_mm"}  # fmt: skip
MIXES_TOKENS = {"scaled_dot_product_attention", "multi_head_attention_forward", "softmax",
                "log_softmax", "cumsum", "cumprod", "logcumsumexp", "conv1d", "conv2d", "fft",
                "rfft", "irfft", "embedding", "flex_attention", "_transformer_encoder_layer_fwd",
                "tril", "triu", "baddbmm_"}  # fmt: skip
BENDS = {"gelu", "relu", "relu_", "relu6", "silu", "silu_", "sigmoid", "sigmoid_", "tanh", "tanh_",
         "elu", "elu_", "celu", "selu", "leaky_relu", "leaky_relu_", "hardswish", "hardtanh",
         "hardsigmoid", "mish", "softplus", "softsign", "logsigmoid", "prelu", "rrelu",
         "threshold", "clamp", "clamp_", "clamp_min", "clamp_min_", "clamp_max", "clip", "abs",
         "exp", "square", "pow", "__pow__", "pow_", "sin", "cos", "erf", "sqrt", "rsqrt", "exp2",
         "log1p", "expm1", "sign", "where", "maximum", "minimum", "max", "relu_squared",
         "hardshrink", "softshrink", "tanhshrink"}  # fmt: skip
PRODUCTS = {"mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply", "div", "div_",
            "__truediv__", "__rtruediv__", "__rdiv__", "true_divide", "addcmul"}  # fmt: skip
SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "__sub__", "__rsub__",
        "rsub", "lerp", "index_add_", "index_add", "scatter_add_", "scatter_add"}  # fmt: skip
SLICES = {"chunk", "split", "tensor_split", "unbind", "narrow", "__getitem__", "select", "view",
          "reshape", "unflatten", "split_with_sizes", "hsplit", "index_select"}  # fmt: skip


@dataclass(eq=False)
class Source:
    """The output of one parameter matmul, or one slice of it."""

    weight: str
    """Name of the parameter, or of the first one it was computed from."""
    call: int
    """Number of the matmul within the forward pass."""
    inputs: int
    """Width that the matmul came from."""
    output: Tensor
    """What the matmul returned, without its graph; a copy once the program overwrites it."""


@dataclass(frozen=True)
class Origin:
    """What is known about one data tensor."""

    sources: Mapping[Source, bool] = field(default_factory=dict)
    """Each source that reaches it token by token, and whether a nonlinearity lay between."""
    stream: bool = False
    passed: frozenset[int] = frozenset()
    """Numbers of the feed-forwards whose output arrives here, until a residual sum takes it in."""


@dataclass(frozen=True)
class Crossing:
    """One feed-forward as it happened: what went in and out of its activation."""

    gate: Source
    up: Source | None
    """The ungated branch; None for a plain feed-forward."""
    down: str
    """Name of the second matmul's parameter."""
    post: Tensor
    out: Tensor
    experts: int
    """Leading size of a batched parameter [E, ...], whose experts ran in one matmul; else 0."""


class _Operands(NamedTuple):
    data: Tensor
    weight: Tensor


class Flow(TorchFunctionMode):
    """Follows a forward pass; calls ``on_crossing`` at each feed-forward and ``on_residual`` at
    each sum that takes a feed-forward's output back into the stream.

    ``names`` maps ``id(parameter)`` to its name. Outputs and random state are untouched: every
    call is passed on as it came.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        on_crossing: Callable[[Crossing], int],
        on_residual: Callable[[int, Tensor], None],
    ) -> None:
        super().__init__()
        self._names = names
        self._on_crossing = on_crossing
        self._on_residual = on_residual
        self._derived: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._origins: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._calls = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if _overwrites(name, args, kwargs):
            self._keep_sources(args[0])
        result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            self._follow(name, args, kwargs, (result,))
        elif isinstance(result, (tuple, list)) and result and isinstance(result[0], Tensor):
            self._follow(name, args, kwargs, [each for each in result if isinstance(each, Tensor)])
        return result

    def weight_name(self, tensor: Tensor) -> str | None:
        """The parameter that a tensor is, or was computed from; None for data."""
        name = self._names.get(id(tensor))
        if name is None and tensor in self._derived:
            name = str(self._derived[tensor])
        return name

    def _origin(self, tensor: Tensor) -> Origin | None:
        known = tensor in self._origins
        origin: Origin | None = self._origins[tensor] if known else None
        return origin

    def _follow(
        self, name: str, args: Any, kwargs: Mapping[str, Any], results: Sequence[Tensor]
    ) -> None:
        tensors = list(_tensors((*args, *kwargs.values())))
        if not tensors or not results[0].is_floating_point():
            return
        weights = [self.weight_name(each) for each in tensors]
        if all(weights) or (weights[0] and _one_row(name, args)):
            for number, each in enumerate(results):
                self._derived[each] = f"{weights[0]}{_row(name, args, number)}"
            return
        data = [each for each, weight in zip(tensors, weights, strict=True) if weight is None]
        if name in LINEAR:
            self._matmul(tensors, weights, results[0])
            return
        origin = self._combine(name, data, results[0])
        if origin is None:
            return
        for each in results:
            self._origins[each] = self._cut(name, origin, data[0], each)

    def _matmul(
        self, tensors: Sequence[Tensor], weights: Sequence[str | None], out: Tensor
    ) -> None:
        operands = _operands(tensors, weights)
        if operands is None:
            self._origins[out] = Origin(stream=True)
            return
        weight = self.weight_name(operands.weight) or ""
        origin = self._origin(operands.data)
        passed: frozenset[int] = frozenset()
        if origin is not None:
            crossing = _crossing(origin, weight, operands, out)
            if crossing is not None:
                passed = frozenset({self._on_crossing(crossing)})
        self._calls += 1
        source = Source(weight, self._calls, operands.data.shape[-1], out.detach())
        self._origins[out] = Origin({source: False}, passed=passed)

    def _combine(self, name: str, data: Sequence[Tensor], out: Tensor) -> Origin | None:
        """The origin of a token-wise operation's result, from those of its data operands."""
        if name in MIXES_TOKENS:
            return Origin(stream=True)
        known = [(each, self._origin(each)) for each in data]
        origins = [o for t, o in known if o is not None and _spans(t, out, name)]
        if not origins:
            return None
        if name == "glu" and len(origins[0].sources) == 1 and not origins[0].stream:
            return _halves(*origins[0].sources)
        passed = frozenset[int]().union(*(o.passed for o in origins))
        sources = {
            s: any(o.sources.get(s, False) for o in origins) for o in origins for s in o.sources
        }
        if any(o.stream for o in origins):
            return self._rejoin(name, passed, origins, out)
        same = all(o.sources.keys() == sources.keys() for o in origins)
        if name in PRODUCTS:
            masked = any(t.dtype == torch.bool and t.shape == out.shape for t, _ in known)
            squared = masked or (len(origins) > 1 and same)
            return Origin({s: bent or squared for s, bent in sources.items()}, passed=passed)
        if name in BENDS:
            return Origin(dict.fromkeys(sources, True), passed=passed)
        unknown = name in SUMS and any(o is None and t.shape == out.shape for t, o in known)
        if unknown or not same:
            return self._rejoin(name, passed, origins, out)
        if name in SUMS and len(origins) == 1:
            _extend(sources, out)
        return Origin(sources, passed=passed)

    def _rejoin(
        self, name: str, passed: frozenset[int], origins: Sequence[Origin], out: Tensor
    ) -> Origin:
        """A stream; a sum that takes in a feed-forward's output is that layer's residual."""
        if name in SUMS and passed and any(o.stream and not o.passed for o in origins):
            for number in sorted(passed):
                self._on_residual(number, out)
            passed = frozenset()
        return Origin(stream=True, passed=passed)

    def _cut(self, name: str, origin: Origin, data: Tensor, out: Tensor) -> Origin:
        """A slice of an untouched source becomes a source of its own."""
        same_width = data.shape[-1:] == out.shape[-1:]
        if name == "glu" or origin.stream:
            return origin
        if len(origin.sources) == 1:
            ((source, bent),) = origin.sources.items()
            if not bent and name in SLICES and not (same_width and data.numel() == out.numel()):
                return replace(origin, sources={replace(source, output=out.detach()): False})
        return origin if same_width else Origin(stream=True, passed=origin.passed)

    def _keep_sources(self, overwritten: Any) -> None:
        """Copy the sources that share memory with a tensor about to be overwritten."""
        origin = self._origin(overwritten) if isinstance(overwritten, Tensor) else None
        for source in origin.sources if origin else ():
            if (
                source.output.untyped_storage().data_ptr()
                == overwritten.untyped_storage().data_ptr()
            ):
                source.output = source.output.clone()


def _halves(source: Source) -> Origin:
    """``glu(h)`` is the first half of h times the sigmoid of the second."""
    value, gate = source.output.chunk(2, -1)
    return Origin({replace(source, output=gate): True, replace(source, output=value): False})


def _crossing(origin: Origin, down: str, operands: _Operands, out: Tensor) -> Crossing | None:
    post, weight = operands
    experts = weight.shape[0] if weight.ndim == 3 and post.ndim == 3 else 0
    sources = sorted(origin.sources, key=lambda s: s.call)
    if origin.stream or not 1 <= len(sources) <= 2 or out.shape[-1] != sources[0].inputs:
        return None
    if len(sources) == 1:
        bent_once = origin.sources[sources[0]]
        return Crossing(sources[0], None, down, post, out, experts) if bent_once else None
    bent = [s for s in sources if origin.sources[s]]
    gate = bent[0] if bent else sources[0]
    up = sources[1] if gate is sources[0] else sources[0]
    return Crossing(gate, up, down, post, out, experts)


def _extend(sources: Mapping[Source, bool], out: Tensor) -> None:
    """A bias added apart from its matmul still belongs to the matmul's output."""
    if len(sources) == 1:
        ((source, bent),) = sources.items()
        if not bent and source.output.shape == out.shape:
            source.output = out.detach()


def _spans(tensor: Tensor, out: Tensor, name: str) -> bool:
    """Whether an operand carries hidden units, and is not one number for each token."""
    return tensor.ndim > 0 and (tensor.shape[-1] > 1 or out.shape[-1] == 1 or name in SLICES)


def _operands(tensors: Sequence[Tensor], weights: Sequence[str | None]) -> _Operands | None:
    matrices = [
        (t, w)
        for t, w in zip(tensors, weights, strict=True)
        if t.ndim >= 2 and t.is_floating_point()
    ]
    data = [t for t, w in matrices if w is None]
    weight = [t for t, w in matrices if w is not None]
    if len(data) != 1 or len(weight) != 1:
        return None
    return _Operands(data[0], weight[0])


def _one_row(name: str, args: Any) -> bool:
    """Whether one row of a parameter is taken, as a loop over batched experts does."""
    index = args[1] if name in {"__getitem__", "select"} and len(args) > 1 else None
    if isinstance(index, Tensor):
        return index.ndim == 0 and not index.is_floating_point()
    return isinstance(index, int) and args[0].ndim == 3


def _row(name: str, args: Any, number: int) -> str:
    """The suffix that tells a row of a batched parameter from its siblings."""
    if name == "unbind" and args[0].ndim == 3:
        return f"[{number}]"
    return f"[{int(args[-1])}]" if _one_row(name, args) else ""


def _overwrites(name: str, args: Any, kwargs: Mapping[str, Any]) -> bool:
    in_place = name.endswith("_") and not name.endswith("__")
    in_place = in_place or (name.startswith("__i") and name != "__invert__")
    in_place = in_place or kwargs.get("inplace") is True or name == "__setitem__"
    return bool(args) and (in_place or (name in BENDS and len(args) > 1 and args[-1] is True))


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found.extend(each for each in value if isinstance(each, Tensor))
    return found
