"""FastVLM: encoder, projector and language model joined.

Source: paper section 3; apple/ml-fastvlm `llava/model/llava_arch.py` (`prepare_inputs_labels_for_multimodal`).
Here `input_ids` already holds one placeholder per image token, so that all lengths are known beforehand.
"""

from __future__ import annotations

from torch import Tensor, nn

from fastvlm.config import FastVLMConfig
from fastvlm.errors import ShapeError
from fastvlm.inputs import IMAGE_TOKEN_ID
from fastvlm.model.fastvithd import FastViTHD
from fastvlm.model.kv_cache import KVCache
from fastvlm.model.projector import Projector
from fastvlm.model.qwen2 import Qwen2


class FastVLM(nn.Module):
    """The whole network. `forward` ends before `lm_head`, so that callers pay only for the rows they need.

    Example:
        >>> from fastvlm.config import preset
        >>> model = FastVLM(preset("nano")).eval()
        >>> features = model.encode_images(torch.zeros(1, 3, 256, 256))
        >>> features.shape
        torch.Size([1, 16, 192])
    """

    def __init__(self, config: FastVLMConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = FastViTHD(config.vision)
        self.projector = Projector(
            config.projector_type, config.vision.hidden_size, config.text.hidden_size
        )
        self.language_model = Qwen2(config.text)
        self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)
        if config.text.tie_word_embeddings:
            self.lm_head.weight = self.language_model.embed_tokens.weight

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Turn images into embeddings of the language model, row by row from the top left.

        Args:
            pixel_values: RGB in 0..1 as `processing.image` makes them; any height and width.

        Shape:
            [N, 3, H, W] -> [N, ceil(H/64) * ceil(W/64), hidden_size]

        Raises:
            ShapeError: not 4-D, or not three channels.
        """
        feature_map = self.vision_tower(pixel_values)  # [N, 3072, h, w]
        return self.projector(feature_map.flatten(2).mT)  # [N, h*w, D]

    def embed(self, input_ids: Tensor, image_features: Tensor | None = None) -> Tensor:
        """Embed tokens and put image features where the placeholders stand.

        Args:
            input_ids: [B, T] with `IMAGE_TOKEN_ID` once per image token.
            image_features: [n, D] or [N, n, D] in reading order over the batch.

        Shape:
            [B, T] -> [B, T, D]

        Raises:
            ShapeError: as many placeholders as features were expected, but the numbers differ.
        """
        is_image = input_ids == IMAGE_TOKEN_ID
        inputs_embeds = self.language_model.embed_tokens(input_ids.masked_fill(is_image, 0))
        num_features = 0 if image_features is None else image_features.shape[:-1].numel()
        if num_features != (num_placeholders := int(is_image.sum())):
            raise ShapeError(
                f"input_ids holds {num_placeholders} image placeholders but there are {num_features} image features"
            )
        if image_features is None or not num_features:
            return inputs_embeds
        return inputs_embeds.masked_scatter(
            is_image[..., None], image_features.to(inputs_embeds.dtype)
        )

    def forward(
        self,
        input_ids: Tensor,
        image_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: KVCache | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Hidden states of the new tokens; see `Qwen2` for masks and positions.

        Shape:
            [B, T] -> [B, T, D]
        """
        inputs_embeds = self.embed(input_ids, image_features)  # [B, T, D]
        return self.language_model(inputs_embeds, attention_mask, position_ids, past_key_values)


def num_parameters(module: nn.Module) -> int:
    """Parameters of a module, shared ones counted once."""
    return sum(parameter.numel() for parameter in module.parameters())
