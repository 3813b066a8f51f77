"""The resident model: one frozen backbone, its adapter's slots and the head, filled from named arrays."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fcil.arrays import Arrays, digest, names_matching
from fcil.method import SCORES, TOKENS, Adapter, Tokens, head
from fcil.method.local import pooled_features
from fcil.model.feature_cache import FeatureCache
from fcil.model.layer_tokens import layer_tokens
from fcil.model.lora_layer import LoraLinear
from fcil.model.precision import DTYPES

__all__ = ["AdaptedModel"]

_LOADED = frozenset({np.dtype(np.uint8), np.dtype(np.float32)})
"""Types of arrays that are loaded as they are."""


class AdaptedModel:
    """A backbone that is loaded once, while the small arrays of its adapter and head are exchanged.

    Arrays are the head's (`head.<task>.weight`, `head.<task>.bias`), or fill a slot of the adapter, or name the tokens
    of which features are made (`fcil.method.tokens`), or are kept for the method's own `scores` (`scores.<name>`). The
    backbone's own weights are never changed, copied or sent.
    """

    def __init__(
        self, network: nn.Module, adapter: Adapter | None, device: torch.device | str = "cpu", precision: str = "fp32"
    ) -> None:
        self.device, self.precision = torch.device(device), precision
        self.network = network.to(self.device).eval().requires_grad_(False)
        self.adapter = adapter
        self._slots: Mapping[str, tuple[nn.Module, str]] = adapter.install(network) if adapter else {}
        self._patterns = [name for name in self._slots if "*" in name]
        self._targets = [(name, module, of, _plain(module)) for name, (module, of) in self._slots.items()]
        self._places: set[str] = set()  # names that were found to have one: looking anew takes half of a load
        self.cache: FeatureCache | None = None
        """Features that were computed before, for images of which it is said which they are (`showing`)."""
        self._shown: tuple[Tensor, str, np.ndarray] | None = None
        self.is_using = False
        """Whether arrays other than those that train are loaded, by `using`."""
        self._is_observed = False
        self._tensors: dict[str, Tensor] = {}
        self._tokens: Tokens | None = None
        for module in network.modules():
            # frozen weights rest in the type they are multiplied in, instead of being cast each time
            if isinstance(module, nn.Linear | LoraLinear):
                module.to(DTYPES[precision])
            if precision != "fp32" and self.device.type == "cpu" and hasattr(module, "fused_attn"):
                setattr(module, "fused_attn", False)  # noqa: B010  its backward is 3 to 7 times slower there

    @property
    def arrays(self) -> Mapping[str, Tensor]:
        """The loaded arrays by name."""
        return self._tensors

    def load(self, arrays: Arrays | Mapping[str, Tensor], trains: Collection[str] = ()) -> dict[str, Tensor]:
        """Fill the head and the adapter's slots from `arrays`, and empty all others.

        Args:
            arrays: by name; tensors on the model's device are taken as they are, and do not train.
            trains: names whose tensors get a gradient.

        Returns:
            The tensors that train, in the order of `arrays`.

        Raises:
            KeyError: a name that neither the head nor the adapter knows.
        """
        tensors, trains = {}, frozenset(trains)
        for name, a in arrays.items():
            if name not in self._places:
                self._check_place(name)
            if isinstance(a, Tensor):
                tensors[name] = a
                continue
            tensors[name] = _copied(a, self.device).requires_grad_(name in trains)
        self._fill(tensors)
        return {name: tensors[name] for name in arrays if name in trains}

    def _check_place(self, name: str) -> None:
        """Raise KeyError unless the head or the adapter knows the name, and remember that it does."""
        has_place = self._fills_a_slot(name) or name == TOKENS or name.startswith(SCORES)
        if not has_place and head.task_of(name) is None:
            raise KeyError(f"{name}: neither a head array nor a slot of {self.adapter}")
        self._places.add(name)

    def _fills_a_slot(self, name: str) -> bool:
        return name in self._slots or bool(self._patterns and names_matching([name], self._patterns))

    def _fill(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors
        self._tokens = Tokens.of(tensors[TOKENS].cpu().numpy()) if TOKENS in tensors else None
        for name, module, attribute, plain in self._targets:
            several = name in self._patterns
            value = {n: tensors[n] for n in names_matching(tensors, [name])} if several else tensors.get(name)
            if plain is not None and attribute in plain:
                plain[attribute] = value  # as torch does after it has looked for parameters, most of a load
            else:
                setattr(module, attribute, value)

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Copy loaded arrays, as float32."""
        return {name: self._tensors[name].detach().cpu().numpy().copy() for name in names}

    @contextmanager
    def using(self, arrays: Arrays | Mapping[str, Tensor]) -> Iterator[None]:
        """Load other arrays during a block, for example a teacher's; gradients of the present ones survive."""
        tensors_before, outer = self._tensors, self.is_using
        self.load(arrays)
        self.is_using = True
        try:
            yield
        finally:
            self.is_using = outer
            self._fill(tensors_before)

    @contextmanager
    def observed(
        self, observers: Mapping[str, Callable[[Tensor], None]],
        gradients: Mapping[str, Callable[[Tensor], None]] | None = None,
    ) -> Iterator[None]:  # fmt: skip
        """Call a function with the input of each named linear layer in every forward pass of the block.

        Args:
            observers: linear layer -> function of its input, (..., in).
            gradients: linear layer -> function of the gradient at its output, (..., out), called in backward passes.
        """
        handles = []
        self._is_observed = bool(observers or gradients)
        try:
            for name, observe in observers.items():
                layer = self.network.get_submodule(name)
                handles.append(layer.register_forward_pre_hook(_first_argument(observe)))
            for name, observe in (gradients or {}).items():
                handles.append(self.network.get_submodule(name).register_forward_hook(_gradient_of_output(observe)))
            yield
        finally:
            self._is_observed = False
            for handle in handles:
                handle.remove()

    def outputs(self, images: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Map images (n, 3, h, w) to features, (n, width) float32, and the adapter's further outputs by name.

        They are tokens of layers where the array `tokens` is loaded, of a network whose own forward pass is timm's.
        """
        forward = self.adapter.features if self.adapter else pooled_features
        if self._tokens is not None:
            forward = partial(layer_tokens, tokens=self._tokens)
        with torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32"):
            result = forward(self.network, images)
        features, further = result if isinstance(result, tuple) else (result, {})
        return features.float(), further

    def features(self, images: Tensor) -> Tensor:
        """Map images (n, 3, h, w) to features (n, width), float32."""
        if self.cache is None or self._shown is None or images is not self._shown[0] or not self._is_frozen:
            return self.outputs(images)[0]
        _, part, samples = self._shown
        tokens = digest({TOKENS: self._tokens.array()}) if self._tokens is not None else ""
        return self.cache.features(part, samples, tokens, images, lambda some: self.outputs(some)[0])

    @property
    def _is_frozen(self) -> bool:
        """Tell whether features are the frozen network's: nothing is in the adapter's slots, and nobody listens."""
        in_slots = any(self._fills_a_slot(name) for name in self._tensors)
        return not torch.is_grad_enabled() and not self._is_observed and not in_slots

    @contextmanager
    def showing(self, images: Tensor, part: str, samples: np.ndarray) -> Iterator[None]:
        """Say which images these are, under the test view, while features of them are asked for.

        Args:
            part: "train" or "test".
            samples: (n,) indices into the part.
        """
        self._shown = images, part, samples
        try:
            yield
        finally:
            self._shown = None

    def logits(self, features: Tensor, tasks: Sequence[int] | None = None) -> Tensor:
        """Map features (n, width) to the linear head's logits (n, classes of `tasks`), all loaded ones by default."""
        if tasks is None:
            tasks = head.tasks_of(self._tensors)
        heads = [(self._tensors[head.weight(t)], self._tensors[head.bias(t)]) for t in tasks]
        return torch.cat([nn.functional.linear(features, w, b) for w, b in heads], 1)


def _copied(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array into memory of torch's own, whose beginning is aligned for vector instructions.

    Packed bits stay bytes, all else becomes float32. Rows lie one after the other, as in an array that has travelled:
    torch keeps strides, and products of transposed matrices round otherwise.
    """
    if array.dtype not in _LOADED or not array.flags.c_contiguous:
        array = np.asarray(array, np.float32, order="C")
    if not array.flags.writeable:  # from_numpy warns of it, for a tensor that nobody keeps
        return torch.tensor(array, device=device)
    return torch.from_numpy(array).to(device, copy=True)


def _plain(module: nn.Module) -> dict[str, Any] | None:
    """The attributes of a module that sets them as torch does; None for one with a way of its own."""
    return vars(module) if type(module).__setattr__ is nn.Module.__setattr__ else None


def _first_argument(observe: Callable[[Tensor], None]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        with torch.autocast(inputs[0].device.type, enabled=False):  # statistics are never taken in half precision
            observe(inputs[0])

    return hook


def _gradient_of_output(observe: Callable[[Tensor], None]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.register_hook(observe)  # type: ignore[no-untyped-call]

    return hook
