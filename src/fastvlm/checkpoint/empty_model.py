"""The network of a configuration without memory: what a checkpoint is compared with, and loaded into."""

from __future__ import annotations

from fastvlm.config import FastVLMConfig
from fastvlm.model.empty import without_memory
from fastvlm.model.fastvlm import FastVLM


def empty_model(config: FastVLMConfig) -> FastVLM:
    """Build the network on the meta device, in milliseconds whatever its size.

    Example:
        >>> from fastvlm.config import preset
        >>> model = empty_model(preset("7b"))
        >>> sum(parameter.numel() for parameter in model.parameters()) > 7e9
        True
    """
    with without_memory():
        return FastVLM(config)
