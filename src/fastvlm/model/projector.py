"""The projector: from encoder features to token embeddings of the language model.

Source: apple/ml-fastvlm `llava/model/multimodal_projector/builder.py`, types `linear` and `mlpNx_gelu`.
"""

from __future__ import annotations

from torch import Tensor, nn

from fastvlm.config import projector_depth


class Projector(nn.Module):
    """N linear layers with exact GELU between them.

    Shape:
        [..., in_features] -> [..., out_features]
    """

    def __init__(self, projector_type: str, in_features: int, out_features: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(in_features, out_features)]
        for _ in range(projector_depth(projector_type) - 1):
            layers += [nn.GELU(), nn.Linear(out_features, out_features)]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)
