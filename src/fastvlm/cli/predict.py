"""`fastvlm predict`: ask one question about each picture or clip, answers on stdout, all else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fastvlm.cli import options
from fastvlm.cli.clips import DEFAULT_FRAMES, PICTURE_WORDS, frames_option, spelled
from fastvlm.cli.options import preset_prompt
from fastvlm.cli.pictures import Picture, expand
from fastvlm.cli.session import figures, first_interrupt, load_engine, note, write_piece
from fastvlm.errors import ConfigError, ContextLengthError, FastVLMError, MediaError
from fastvlm.messages import Message, VideoOptions, user_message

if TYPE_CHECKING:
    from fastvlm.engine import Answer, AnswerStream, Engine
    from fastvlm.engine.options import OptionKeywords

DEFAULT_PROMPT = "Describe the image."

OutputForm = Literal["text", "json", "jsonl"]


def predict(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="Pictures and clips: files, patterns, folders of pictures, URLs, or - for standard input."
        ),
    ] = None,
    image_file: Annotated[
        list[str] | None,
        typer.Option("--image-file", "--image", "-i", help="The same as an option."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", help="The question.", show_default=DEFAULT_PROMPT),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help=f"A ready question: {', '.join(options.PRESETS)}."),
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="Ask once about all pictures, not once about each.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object instead of text.")
    ] = False,
    as_jsonl: Annotated[
        bool, typer.Option("--jsonl", help="A line of JSON for each picture.")
    ] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Timings and tokens on stderr.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Nothing but answers and errors.")
    ] = False,
    stream: Annotated[
        bool | None,
        typer.Option("--stream/--no-stream", help="Word by word.", show_default="on a terminal"),
    ] = None,
    model: options.Model = "nano",
    model_base: options.ModelBase = None,
    tokenizer_path: options.TokenizerPath = None,
    conv_mode: options.ConvMode = "qwen_2",
    image_mode: options.ImageMode = None,
    image_size: options.ImageSize = None,
    frames: options.Frames = DEFAULT_FRAMES,
    max_pixels: options.MaxPixels = 40_000_000,
    max_bytes: options.MaxBytes = 20 * 2**20,
    max_edge: options.MaxEdge = 16384,
    system: options.System = None,
    max_new_tokens: options.MaxNewTokens = 256,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    num_beams: options.NumBeams = 1,
    seed: options.Seed = None,
    stop: options.Stop = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    load_8bit: options.Load8Bit = False,
    load_4bit: options.Load4Bit = False,
) -> None:
    """Ask a question about pictures and clips; see also `fastvlm video`. Without a picture, the question alone is answered."""
    arguments = dict(locals())
    if prompt is not None and preset is not None:
        raise ConfigError("--prompt and --preset exclude each other; give one of them")
    if as_json and as_jsonl:
        raise ConfigError("--json and --jsonl exclude each other; give one of them")
    question = preset_prompt(preset) if preset is not None else prompt
    if question is not None and not question.strip():
        raise ConfigError("the prompt is empty; expected a question")
    pictures = expand([*(images or ()), *(image_file or ())])
    if not pictures and question is None:
        raise ConfigError("no picture and no prompt; try `fastvlm predict PICTURE --prompt TEXT`")
    groups = [tuple(pictures)] if together or not pictures else [(p,) for p in pictures]
    if as_json and len(groups) > 1:
        raise ConfigError(f"--json is for one answer, but there are {len(groups)}; use --jsonl")
    form: OutputForm = "jsonl" if as_jsonl else "json" if as_json else "text"
    keywords = options.generation_options(arguments)
    video = frames_option(frames)
    engine = load_engine(arguments, is_quiet=quiet)
    run = _Run(
        engine=engine,
        prompt=DEFAULT_PROMPT if question is None else question,
        system=system,
        video=video,
        keywords=keywords,
        form=form,
        has_stats=stats,
        is_quiet=quiet,
        is_streaming=sys.stdout.isatty() if stream is None else stream,
    )
    raise typer.Exit(run.all(groups))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One command: the same question about each group of pictures."""

    engine: Engine
    prompt: str
    system: str | None
    video: VideoOptions
    keywords: OptionKeywords
    form: OutputForm
    has_stats: bool
    is_quiet: bool
    is_streaming: bool

    def all(self, groups: Sequence[tuple[Picture, ...]]) -> int:
        """Answer every group; returns the exit code."""
        codes: list[int] = []
        for index, group in enumerate(groups):
            if len(groups) > 1 and not self.is_quiet and self.form == "text":
                note(f"== {_name(group)} ==")
            try:
                answer = self._answer(group)
            except (MediaError, ContextLengthError) as error:
                codes.append(2)
                self._report(error, group, index)
                continue
            if self.form != "text":
                self._print_record(group, index, answer=answer)
            if self.has_stats:
                note(figures(answer))
            if answer.finish_reason == "cancelled":
                return 130
            codes.append(0)
        if any(codes) and not all(codes):
            return 3
        return max(codes, default=0)

    def _answer(self, group: tuple[Picture, ...]) -> Answer:
        limits = self.engine.processor.limits
        media = [picture.open(limits, self.video) for picture in group]
        system = [] if self.system is None else [Message.from_text("system", self.system)]
        stream = self.engine.stream([*system, user_message(self.prompt, *media)], **self.keywords)
        with first_interrupt(stream.cancel):
            if self.form == "text":
                self._print_text(stream)
            return stream.answer

    def _print_text(self, stream: AnswerStream) -> None:
        if not self.is_streaming:
            write_piece(f"{stream.answer.text}\n")
            return
        for piece in stream:
            write_piece(piece)
        write_piece("\n")

    def _report(self, error: FastVLMError, group: tuple[Picture, ...], index: int) -> None:
        name = group[0].name if group else ""
        message = spelled(str(error), PICTURE_WORDS, name=name)
        if self.form != "text":
            self._print_record(group, index, error=message)
        note(f"error: {message}")

    def _print_record(
        self,
        group: tuple[Picture, ...],
        index: int,
        *,
        answer: Answer | None = None,
        error: str | None = None,
    ) -> None:
        names = [picture.name for picture in group]
        record: dict[str, Any] = {"input": names[0] if len(names) == 1 else names, "index": index}
        if answer is not None:
            record |= {
                "text": answer.text,
                "finish_reason": answer.finish_reason,
                "usage": asdict(answer.usage) | {"total_tokens": answer.usage.total_tokens},
                "timings": _rounded(asdict(answer.timings))
                | {"tokens_per_second": round(answer.timings.tokens_per_second, 2)},
            }
        record["error"] = error
        write_piece(json.dumps(record, ensure_ascii=False) + "\n")


def _name(group: tuple[Picture, ...]) -> str:
    return ", ".join(picture.name for picture in group)


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in values.items()}
