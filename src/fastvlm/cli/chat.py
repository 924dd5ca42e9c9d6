"""`fastvlm chat`: a conversation in the terminal, about pictures or without."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastvlm.cli import options
from fastvlm.cli.pictures import expand
from fastvlm.cli.session import figures, first_interrupt, load_engine, note, write_piece
from fastvlm.errors import ConfigError, FastVLMError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastvlm.engine import Answer, Conversation, Engine
    from fastvlm.messages import ImageSource

HELP = """\
/image PATH   show a picture with the next question (also a URL)
/reset        forget everything said so far
/save FILE    write the conversation to a text file
/stats        figures of the last answer
/quit         end (also Ctrl-D); Ctrl-C ends an answer"""


def chat(
    images: Annotated[
        list[str] | None, typer.Argument(help="Pictures that the first question is about.")
    ] = None,
    model: options.Model = "nano",
    model_base: options.ModelBase = None,
    tokenizer_path: options.TokenizerPath = None,
    conv_mode: options.ConvMode = "qwen_2",
    image_mode: options.ImageMode = None,
    image_size: options.ImageSize = None,
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
    """Talk with the model. Each picture is encoded once, and the whole conversation is really sent."""
    arguments = dict(locals())
    keywords = options.generation_options(arguments)
    engine = load_engine(arguments, is_quiet=False)
    session = _Session(engine, engine.chat(system=system, **keywords))
    for picture in expand(images or ()):
        session.add_image(picture.name)
    session.run()


class _Session:
    """Reads lines until the end of the input; a line that starts with a slash is a command."""

    def __init__(self, engine: Engine, conversation: Conversation) -> None:
        self._engine = engine
        self._conversation = conversation
        self._waiting_images: list[ImageSource] = []
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
                note(f"error: {error}")

    def add_image(self, name: str) -> None:
        """Open a picture now, so that a wrong name is noticed at once; it goes with the next question."""
        if name == "-":
            raise ConfigError("- is for `fastvlm predict`; here standard input is the conversation")
        processor = self._engine.processor
        for picture in expand([name]):
            self._waiting_images.append(processor.prepare_image(picture.read(processor.limits)))

    def _ask(self, line: str) -> None:
        stream = self._conversation.stream(line, self._waiting_images)
        with first_interrupt(stream.cancel):
            for piece in stream:
                write_piece(piece)
            self._last_answer = stream.answer
        self._waiting_images = []
        write_piece("\n")

    def _obey(self, line: str) -> None:
        command, _, argument = line.partition(" ")
        argument = argument.strip()
        match command:
            case "/help":
                note(HELP)
            case "/image" if argument:
                self.add_image(argument)
            case "/reset":
                self._conversation.reset()
                self._waiting_images.clear()
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
            f"{message.role}: {'[picture] ' * len(message.pictures)}{message.text}\n"
            for message in self._conversation.messages
        ]
        path.write_text("".join(turns), encoding="utf-8")
        note(f"saved {len(turns)} turns to {path}")


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
