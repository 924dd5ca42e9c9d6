"""Networks without memory: every tensor has its shape and no values, until it is given some.

Building on the meta device alone would still run the random initialisation there, for which torch imports its
symbolic machinery: a second and 150 MB for values nobody will see. So initialisation is skipped as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def without_memory() -> Iterator[None]:
    """Modules that are built inside take milliseconds and no memory, whatever their size.

    Example:
        >>> with without_memory():
        ...     layer = torch.nn.Linear(100_000, 100_000)
        >>> layer.weight.device
        device(type='meta')
    """
    with torch.device("meta"), _SkipInitialisation():
        yield


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
