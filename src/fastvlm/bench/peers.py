"""What people run today, as a measured system: the `fast_vlm` port of transformers, used as its documentation says.

This is the one module that imports transformers, and only when it is measured: by name, because type checking all of
transformers would take longer than all of this package.
"""

from __future__ import annotations

import io
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from PIL import Image

from fastvlm.bench.protocol import Moment, Sample, now
from fastvlm.device import resolve_device
from fastvlm.errors import BackendError, MissingExtraError
from fastvlm.inputs import IMAGE_TOKEN_ID

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PACKAGES: Final = ("transformers", "timm", "torchvision")


def require_transformers() -> None:
    """Check that the peer can be imported, without importing it.

    Raises:
        MissingExtraError: a package is not installed.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"measuring transformers needs {', '.join(missing)}, which is not installed; "
            "run `pip install 'fastvlm[bench]'`, or leave it out with --systems fastvlm"
        )


def import_transformers() -> None:
    """Import everything that loading and generating use, so that it does not count as loading."""
    require_transformers()
    for name in PACKAGES:
        import_module(name)
    for name in ("modeling_fast_vlm", "configuration_fast_vlm"):
        import_module(f"transformers.models.fast_vlm.{name}")
    for name in ("qwen2.modeling_qwen2", "timm_wrapper.modeling_timm_wrapper"):
        import_module(f"transformers.models.{name}")
    for name in ("llava.processing_llava", "clip.image_processing_clip"):
        import_module(f"transformers.models.{name}")


class TransformersCandidate:
    """A loaded `FastVlmForConditionalGeneration` with its processor."""

    def __init__(self, folder: Path, *, device: str, dtype: str) -> None:
        transformers: Any = import_module("transformers")
        self._device = resolve_device(device)
        model = transformers.FastVlmForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        self._model: Any = model.to(self._device).eval()
        self._processor: Any = transformers.AutoProcessor.from_pretrained(folder)
        self.dtype = str(self._model.dtype).removeprefix("torch.")
        self._model.generation_config.eos_token_id = None  # exactly as many tokens as asked for
        self._prepared = self._encoded = Moment(0.0, 0.0)
        self._model.model.vision_tower.register_forward_pre_hook(self._note_prepared)
        self._model.model.multi_modal_projector.register_forward_hook(self._note_encoded)

    @torch.inference_mode()
    def answer(self, image: bytes, prompt: str, num_new_tokens: int) -> Sample:
        received = now()
        parts = [{"type": "image"}, {"type": "text", "text": prompt}]
        text = self._processor.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True
        )
        picture = Image.open(io.BytesIO(image)).convert("RGB")
        inputs = self._processor(images=picture, text=text, return_tensors="pt")
        inputs = inputs.to(self._device, self._model.dtype)
        tokens: list[Moment] = []
        self._generate(dict(inputs), num_new_tokens, tokens)
        if len(tokens) != num_new_tokens:
            raise BackendError(
                f"transformers made {len(tokens)} tokens where {num_new_tokens} were asked for; "
                "this version cannot be measured"
            )
        return Sample.from_moments(
            received=received,
            prepared=self._prepared,
            encoded=self._encoded,
            tokens=tokens,
            num_prompt_tokens=inputs["input_ids"].shape[1],
        )

    @torch.inference_mode()
    def greedy_tokens(
        self,
        input_ids: NDArray[np.int64],
        pixel_values: NDArray[np.float32],
        num_new_tokens: int,
    ) -> list[int]:
        ids = torch.from_numpy(input_ids)[None].to(self._device)  # [1, T]
        ids = ids.masked_fill(ids == IMAGE_TOKEN_ID, self._model.config.image_token_id)
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": torch.from_numpy(pixel_values).to(self._device, self._model.dtype),
        }
        generated = self._generate(inputs, num_new_tokens, [])
        return generated[0, ids.shape[1] :].tolist()

    def _generate(
        self, inputs: dict[str, Any], num_new_tokens: int, tokens: list[Moment]
    ) -> torch.Tensor:
        """Greedy generation that notes when each token is known."""
        transformers: Any = import_module("transformers")

        def note_token(ids: torch.Tensor, _: object, **__: object) -> torch.Tensor:
            self._synchronize()
            tokens.append(now())
            return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

        return self._model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=num_new_tokens,
            stopping_criteria=transformers.StoppingCriteriaList([note_token]),
        )

    def _note_prepared(self, *_: object) -> None:
        self._synchronize()
        self._prepared = now()

    def _note_encoded(self, *_: object) -> None:
        self._synchronize()
        self._encoded = now()

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()
