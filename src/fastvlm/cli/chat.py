"""`fastvlm chat`: a conversation in the terminal, about pictures, clips or nothing."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastvlm.cli import options
from fastvlm.cli.clips import DEFAULT_FRAMES, PICTURE_WORDS, frames_option, spelled
from fastvlm.cli.pictures import expand
from fastvlm.cli.session import figures, first_interrupt, load_engine, note, write_piece
from fastvlm.errors import ConfigError, FastVLMError
from fastvlm.messages import ImagePart, Message, VideoOptions, VideoPart

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastvlm.engine import Answer, Conversation, Engine
    from fastvlm.inputs import PreparedVideo
    from fastvlm.messages import ImageSource

HELP = """\
/image PATH   show a picture with the next question (also a URL)
/video PATH   show a clip with the next question
/reset        forget everything said so far
/save FILE    write the conversation to a text file
/stats        figures of the last answer
/quit         end (also Ctrl-D); Ctrl-C ends an answer"""


def chat(
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Pictures and clips that the first question is about."),
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
    max_new_tokens: options.MaxNewTokens = 512,
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
    """Talk with the model. Each picture and clip is encoded once, and the whole conversation is really sent."""
    arguments = dict(locals())
    keywords = options.generation_options(arguments)
    video = frames_option(frames)
    engine = load_engine(arguments, is_quiet=False)
    session = _Session(engine, engine.chat(system=system, **keywords), video)
    for medium in expand(images or ()):
        session.add(medium.name)
    session.run()


class _Session:
    """Reads lines until the end of the input; a line that starts with a slash is a command."""

    def __init__(self, engine: Engine, conversation: Conversation, video: VideoOptions) -> None:
        self._engine = engine
        self._conversation = conversation
        self._video = video
        self._waiting_images: list[ImageSource] = []
        self._waiting_clips: list[PreparedVideo] = []
        self._last_answer: Answer | None = None

    def run(self) -> None:
        if sys.stdin.isatty():
            note("/help for commands, /quit to end")
        for line in _lines():
            if line in ("/quit", "/exit"):
                return
            try:
                self._obey(line) if line.startswith("/") else self._ask(line)
            except (FastVLMError, OSError) as error:
                note(f"error: {spelled(str(error), PICTURE_WORDS)}")

    def add(self, name: str) -> None:
        """Open a picture or clip now, so that a mistake is noticed at once; it goes with the next question."""
        if name == "-":
            raise ConfigError("- is for `fastvlm predict`; here standard input is the conversation")
        processor = self._engine.processor
        for typed in expand([name]):
            medium = typed.open(processor.limits, self._video)
            if isinstance(medium, VideoPart):
                clip = processor.prepare_video(
                    medium.video, medium.options, max_tokens=self._engine.config.max_length
                )
                self._waiting_clips.append(clip)
                note(f"{len(clip.frames)} frames up to {clip.times_s[-1]:.1f} s")
            else:
                self._waiting_images.append(processor.prepare_image(medium))

    def _ask(self, line: str) -> None:
        stream = self._conversation.stream(line, self._waiting_images, videos=self._waiting_clips)
        with first_interrupt(stream.cancel):
            for piece in stream:
                write_piece(piece)
            self._last_answer = stream.answer
        self._waiting_images, self._waiting_clips = [], []
        write_piece("\n")

    def _obey(self, line: str) -> None:
        command, _, argument = line.partition(" ")
        argument = argument.strip()
        match command:
            case "/help":
                note(HELP)
            case "/image" | "/video" if argument:
                self.add(argument)
            case "/reset":
                self._conversation.reset()
                self._waiting_images, self._waiting_clips = [], []
            case "/save" if argument:
                self._save(Path(argument).expanduser())
            case "/stats":
                note(figures(self._last_answer) if self._last_answer else "no answer yet")
            case _:
                raise ConfigError(f"{line!r} is no command;\n{HELP}")

    def _save(self, path: Path) -> None:
        if path.exists():
            raise ConfigError(f"{path} exists already; give another name")
        turns = [
            f"{message.role}: {_media_words(message)}{message.text}\n"
            for message in self._conversation.messages
        ]
        path.write_text("".join(turns), encoding="utf-8")
        note(f"saved {len(turns)} turns to {path}")


def _media_words(message: Message) -> str:
    """What stands for the pictures and clips of a turn in a text."""
    words = {ImagePart: "[picture] ", VideoPart: "[clip] "}
    return "".join(words.get(type(part), "") for part in message.content)


def _lines() -> Iterator[str]:
    """Lines typed or piped in, without blank ones; Ctrl-C at the prompt clears the line."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        with suppress(ImportError):  # Windows has none, and edits lines by itself
            import readline  # noqa: F401 - importing it gives `input` line editing and history
    has_prompt = is_terminal and sys.stdout.isatty()
    while True:
        if is_terminal and not has_prompt:  # answers go elsewhere, and the prompt is none
            typer.echo("> ", nl=False, err=True)
        try:
            line = input("> " if has_prompt else "").strip()
        except EOFError:
            if is_terminal:
                note("")
            return
        except KeyboardInterrupt:
            note("(/quit to end)")
            continue
        if line:
            yield line
