"""Tiny random networks with every kind of tensor that the published ones have."""

from __future__ import annotations

import torch
from torch import nn

from fastvlm.config import FastVLMConfig, TextConfig, TowerForm, VisionConfig
from fastvlm.model import FastVLM

VOCAB_SIZE = 700


def tiny_config(
    *, form: TowerForm = "fused", tied: bool = False, projector_type: str = "mlp2x_gelu"
) -> FastVLMConfig:
    return FastVLMConfig(
        vision=VisionConfig(
            depths=(1, 2, 1, 2, 1),
            widths=(16, 16, 32, 32, 64),
            mlp_ratios=(2, 3, 2, 2, 2),
            layer_scale_init=0.5,
            form=form,
        ),
        text=TextConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=VOCAB_SIZE,
            tie_word_embeddings=tied,
            rope_theta=20_000.0,
            max_position_embeddings=4096,
            bos_token_id=640,
            eos_token_id=642,
        ),
        projector_type=projector_type,
        image_size=128,
        max_length=512,
    )


def random_model(
    config: FastVLMConfig, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> FastVLM:
    """A network in which no tensor has its neutral starting value."""
    generator = torch.Generator().manual_seed(seed)
    model = FastVLM(config)
    for module in model.modules():
        for name, tensor in [
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        ]:
            with torch.no_grad():
                if name == "num_batches_tracked":
                    tensor.fill_(int(torch.randint(1000, (), generator=generator)))
                elif name == "running_var" or "norm" in type(module).__name__.lower():
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
                else:
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    if config.text.tie_word_embeddings:
        assert model.lm_head.weight is model.language_model.embed_tokens.weight
    return model.to(dtype).eval()


def assert_same_state(left: nn.Module, right: nn.Module) -> None:
    """Every tensor equal, bit for bit."""
    one, two = left.state_dict(), right.state_dict()
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].dtype == two[name].dtype, name
        assert torch.equal(one[name], two[name]), name
