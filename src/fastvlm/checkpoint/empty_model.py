"""The network without memory: every tensor has its shape and no values.

Building on the meta device alone would still run the random initialisation there, for which torch imports its
symbolic machinery: seconds for values nobody will see. So initialisation is skipped as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastvlm.config import FastVLMConfig
from fastvlm.model.fastvlm import FastVLM


def empty_model(config: FastVLMConfig) -> FastVLM:
    """Build the network on the meta device, in milliseconds whatever its size.

    Example:
        >>> from fastvlm.config import preset
        >>> model = empty_model(preset("7b"))
        >>> sum(parameter.numel() for parameter in model.parameters()) > 7e9
        True
    """
    with torch.device("meta"), _SkipInitialisation():
        return FastVLM(config)


class _SkipInitialisation(TorchFunctionMode):
    """Leaves tensors as they are where torch would fill them in place."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _FILLING:
            tensor = args[0] if args else kwargs["tensor"]
            assert isinstance(tensor, Tensor)
            return tensor
        return func(*args, **kwargs)


_FILLING = frozenset({"fill_", "kaiming_uniform_", "normal_", "trunc_normal_", "uniform_", "zero_"})
"""Methods of tensors and functions of `torch.nn.init` that modules call while they are built."""
