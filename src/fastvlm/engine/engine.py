"""The public object: load a model once, then ask it, stream from it, chat with it.

The way from picture to text: `processing` prepares messages -> `encode` turns pictures into features (or finds
them in the cache) -> `decode_loop` reads the prompt and writes the answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Self, Unpack

import torch

from fastvlm.backends.base import Backend, Prompt
from fastvlm.engine.answer import Answer, AnswerStream
from fastvlm.engine.conversation import Conversation
from fastvlm.engine.decode_loop import Row, decode
from fastvlm.engine.detokenizer import StreamDecoder
from fastvlm.engine.feature_cache import FeatureCache
from fastvlm.engine.options import GenerationOptions, OptionKeywords, options_from
from fastvlm.errors import BackendError, ConfigError
from fastvlm.inputs import Timings, Usage
from fastvlm.messages import (
    ImageSource,
    Message,
    VideoOptions,
    VideoPart,
    VideoSource,
    as_image_sources,
    as_video_sources,
    user_message,
)
from fastvlm.processing.processor import Processor

if TYPE_CHECKING:
    from pathlib import Path

    from fastvlm.config import FastVLMConfig, ImageMode
    from fastvlm.model.quantized import Quantization
    from fastvlm.processing.chat_template import ConvMode
    from fastvlm.processing.image_file import ImageLimits

logger = logging.getLogger(__name__)

FEATURE_CACHE_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class _Encoded:
    """A request whose pictures have become features."""

    prompt: Prompt
    num_image_tokens: int
    received_at: float
    preprocess_seconds: float
    vision_seconds: float


class Engine:
    """A loaded model with everything around it. Not to be used from two threads at once.

    Example:
        >>> model = Engine.load("nano")  # doctest: +SKIP
        >>> model.ask("What color is the circle?", images=["scene.png"]).text  # doctest: +SKIP
    """

    def __init__(
        self,
        backend: Backend,
        processor: Processor,
        *,
        name: str = "",
        feature_cache_bytes: int = FEATURE_CACHE_BYTES,
    ) -> None:
        self.backend = backend
        self.processor = processor
        self.name = name
        self._features = FeatureCache(feature_cache_bytes)
        self._eos_token_ids = frozenset(processor.tokenizer.eos_token_ids)

    @classmethod
    def load(
        cls,
        name_or_path: str | Path = "nano",
        *,
        backend: str = "auto",
        dtype: str = "auto",
        device: str = "auto",
        quantize: Quantization | None = None,
        image_mode: ImageMode | None = None,
        image_size: int | None = None,
        limits: ImageLimits | None = None,
        conv_mode: ConvMode = "qwen_2",
        tokenizer_path: Path | None = None,
        model_base: str | Path | None = None,
    ) -> Self:
        """Load a model by name (`nano`, or one that was pulled) or from a checkpoint folder.

        Args:
            name_or_path: see `fastvlm models list`; nothing is ever downloaded from here.
            backend: `auto` or `torch`.
            dtype: `auto`, `float32`, `bfloat16` or `float16`.
            device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
            quantize: keep the weights of the language model's layers in 8 or 4 bits.
            image_mode: how pictures become squares; None takes what the model was trained with.
            image_size: pixels per side, 64 to 2048; None takes what the model was trained with.
            limits: largest pictures that are accepted.
            conv_mode: layout of the prompt, `qwen_2` or `plain`.
            tokenizer_path: folder with tokenizer files, where the model folder has none.
            model_base: the full model that a projector-only checkpoint belongs on.

        Raises:
            CheckpointError: no such model, or its files are incomplete, damaged or unknown.
            BackendError: the backend, device or dtype cannot be used here.
        """
        from fastvlm.backends.torch_backend import TorchBackend
        from fastvlm.checkpoint.hub import resolve_model

        if backend not in ("auto", "torch"):
            raise BackendError(f"backend {backend!r} is not known; expected auto or torch")
        if quantize not in (None, "int8", "int4"):
            raise ConfigError(f"quantize is {quantize!r}; expected int8, int4 or None")
        folder = resolve_model(name_or_path)
        base = None if model_base is None else resolve_model(model_base)
        network = TorchBackend.load(
            folder, device=device, dtype=dtype, quantize=quantize, base=base
        )
        config = replace(
            network.config,
            image_mode=network.config.image_mode if image_mode is None else image_mode,
            image_size=network.config.image_size if image_size is None else image_size,
        )
        processor = Processor.from_folder(
            tokenizer_path or base or folder, config, limits=limits, conv_mode=conv_mode
        )
        if (caveat := processor.image_processor.caveat) is not None:
            logger.warning("image mode %r: %s", config.image_mode, caveat)
        return cls(network, processor, name=str(name_or_path))

    def __repr__(self) -> str:
        return f"<Engine {self.name}: {self.backend.description}>"

    @property
    def config(self) -> FastVLMConfig:
        """Sizes of the network, and how pictures are prepared for it."""
        return self.processor.config

    def ask(
        self,
        prompt: str | Message | Sequence[Message],
        images: ImageSource | Iterable[ImageSource] = (),
        *,
        videos: VideoSource | Iterable[VideoSource] = (),
        num_frames: int | None = None,
        video_options: VideoOptions | None = None,
        system: str | None = None,
        **options: Unpack[OptionKeywords],
    ) -> Answer:
        """Answer one question.

        Args:
            prompt: the question, or a whole conversation that ends with a user message.
            images: what the question is about, one or several: paths, bytes, Pillow pictures, uint8 arrays.
            videos: clips that the question is about: paths or bytes. Their frames come after the images.
            num_frames: most frames that are taken of each clip; 8 if nothing is said.
            video_options: all that can be said about the frames; `num_frames` replaces its number.
            system: replaces the system text.
            **options: see `GenerationOptions`.

        Raises:
            MediaError: a picture or clip cannot be read or is too large.
            ContextLengthError: prompt and pictures do not fit the context.
            ConfigError: an option or conversation that cannot be.
        """
        return self.stream(
            prompt,
            images,
            videos=videos,
            num_frames=num_frames,
            video_options=video_options,
            system=system,
            **options,
        ).answer

    def stream(
        self,
        prompt: str | Message | Sequence[Message],
        images: ImageSource | Iterable[ImageSource] = (),
        *,
        videos: VideoSource | Iterable[VideoSource] = (),
        num_frames: int | None = None,
        video_options: VideoOptions | None = None,
        system: str | None = None,
        **options: Unpack[OptionKeywords],
    ) -> AnswerStream:
        """Like `ask`, but gives the text piece by piece. Errors are raised here or while reading."""
        received_at = time.perf_counter()
        clips = to_video_parts(videos, num_frames, video_options)
        messages = to_messages(prompt, images, clips, system=system)
        return self._stream(messages, options_from(options, GenerationOptions()), received_at)

    def generate(
        self,
        conversations: Sequence[str | Message | Sequence[Message]],
        *,
        cancelled: threading.Event | None = None,
        **options: Unpack[OptionKeywords],
    ) -> list[Answer]:
        """Answer several conversations in one batch, in the same order.

        Greedy answers in float32 are the same as one by one. TTFT then is that of the whole batch.

        Raises:
            ConfigError: more than one conversation with num_beams above 1.
        """
        received_at = time.perf_counter()
        checked = options_from(options, GenerationOptions())
        if isinstance(conversations, str):
            raise ConfigError(
                f"generate got one text, {conversations!r}; expected a list of questions or conversations"
            )
        if checked.num_beams > 1 and len(conversations) > 1:
            raise ConfigError(
                f"num_beams is {checked.num_beams} for {len(conversations)} conversations; "
                "beam search takes one at a time"
            )
        if not conversations:
            return []
        messages = [to_messages(conversation) for conversation in conversations]
        is_cancelled = (lambda: False) if cancelled is None else cancelled.is_set
        generated = self._generate(messages, checked, received_at, is_cancelled)
        return [piece for piece in generated if isinstance(piece, Answer)]

    def chat(self, *, system: str | None = None, **options: Unpack[OptionKeywords]) -> Conversation:
        """Start a conversation that remembers its turns; each picture is read and encoded once."""
        checked = options_from(options, GenerationOptions())
        return Conversation(self._stream, self.processor.prepare, options=checked, system=system)

    def _stream(
        self, messages: Sequence[Message], options: GenerationOptions, received_at: float
    ) -> AnswerStream:
        return AnswerStream(
            lambda cancelled: self._generate([messages], options, received_at, cancelled.is_set)
        )

    def _generate(
        self,
        conversations: Sequence[Sequence[Message]],
        options: GenerationOptions,
        received_at: float,
        is_cancelled: Callable[[], bool],
    ) -> Iterator[str | Answer]:
        """Pieces of text of all conversations, then their answers in order."""
        requests = [self._encode(messages, received_at) for messages in conversations]
        rows = [self._row(request.prompt, options) for request in requests]
        for _, text in decode(self.backend, rows, is_cancelled=is_cancelled):
            if text:
                yield text
        for request, row in zip(requests, rows, strict=True):
            yield _finish(request, row)

    def _encode(self, messages: Sequence[Message], received_at: float) -> _Encoded:
        started = time.perf_counter()
        messages = self.processor.prepare(messages)
        images = [image for message in messages for image in message.pictures]
        inputs = self.processor.assemble(messages)
        prepared = time.perf_counter()
        features = []
        for image in images:
            known = self._features.get(image.content_hash)
            if known is None:
                known = self.backend.encode_images(image.pixel_values).flatten(0, 1)  # [n, D]
                self._features.put(image.content_hash, known)
            features.append(known)
        self.backend.synchronize()
        return _Encoded(
            prompt=Prompt(inputs.input_ids, torch.cat(features) if features else None),
            num_image_tokens=sum(inputs.num_image_tokens),
            received_at=received_at,
            preprocess_seconds=prepared - started,
            vision_seconds=time.perf_counter() - prepared,
        )

    def _row(self, prompt: Prompt, options: GenerationOptions) -> Row:
        room = self.config.max_length - len(prompt.input_ids)  # at least 1: `assemble` saw to it
        fitted = options_from({"max_new_tokens": min(options.max_new_tokens, room)}, options)
        return Row(
            prompt,
            fitted,
            StreamDecoder(self.processor.tokenizer, options.stop),
            frozenset() if options.ignore_eos else self._eos_token_ids,
            self._generator(options.seed),
        )

    def _generator(self, seed: int | None) -> torch.Generator | None:
        return None if seed is None else torch.Generator(self.backend.device).manual_seed(seed)


def to_video_parts(
    videos: VideoSource | Iterable[VideoSource],
    num_frames: int | None = None,
    options: VideoOptions | None = None,
) -> tuple[VideoPart, ...]:
    """Clips with the way their frames are taken.

    Raises:
        ConfigError: neither a clip nor clips, or a number of frames out of range.
    """
    options = options or VideoOptions()
    if num_frames is not None:
        options = replace(options, num_frames=num_frames)
    return tuple(VideoPart(video, options) for video in as_video_sources(videos))


def to_messages(
    prompt: str | Message | Sequence[Message],
    images: ImageSource | Iterable[ImageSource] = (),
    clips: Sequence[VideoPart] = (),
    *,
    system: str | None = None,
) -> tuple[Message, ...]:
    """A question with its pictures and clips, or a conversation as it is, as messages.

    Raises:
        ConfigError: neither a text nor messages; or pictures or a system text beside a conversation, which
            has places for both.
    """
    sources = as_image_sources(images)
    if isinstance(prompt, str):
        question = user_message(prompt, *sources, *clips)
        return (question,) if system is None else (Message.from_text("system", system), question)
    messages = (prompt,) if isinstance(prompt, Message) else prompt
    if not isinstance(messages, list | tuple) or not all(
        isinstance(message, Message) for message in messages
    ):
        raise ConfigError(
            f"the prompt is {prompt!r:.80}; expected a text or a list of fastvlm.Message"
        )
    if sources or clips or system is not None:
        raise ConfigError(
            "images, videos and system go into the messages when a conversation is given"
        )
    return tuple(messages)


def _finish(request: _Encoded, row: Row) -> Answer:
    assert row.finish_reason is not None
    return Answer(
        text=row.text,
        finish_reason=row.finish_reason,
        usage=Usage(
            prompt_tokens=len(request.prompt.input_ids),
            image_tokens=request.num_image_tokens,
            completion_tokens=len(row.token_ids),
        ),
        timings=Timings(
            preprocess_ms=request.preprocess_seconds * 1000,
            vision_ms=request.vision_seconds * 1000,
            prefill_ms=row.prefill_seconds * 1000,
            decode_ms=row.decode_seconds * 1000,
            ttft_ms=(row.first_token_at - request.received_at) * 1000,
            completion_tokens=len(row.token_ids),
        ),
        token_ids=tuple(row.token_ids),
    )
