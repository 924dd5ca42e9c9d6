"""What `predict` and `chat` have in common: loading with a word on stderr, Ctrl-C, and a line of figures."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from fastvlm.errors import ConfigError

if TYPE_CHECKING:
    from types import FrameType

    from fastvlm.engine import Answer, Engine


def load_engine(arguments: dict[str, Any], *, is_quiet: bool) -> Engine:
    """Load the model that a command's arguments describe, with a spinner if stderr is a terminal."""
    if arguments["load_8bit"] and arguments["load_4bit"]:
        raise ConfigError("--load-8bit and --load-4bit exclude each other; give one of them")
    if is_quiet:
        logging.getLogger("fastvlm").setLevel(logging.ERROR)
    is_quantized = arguments["load_8bit"] or arguments["load_4bit"]
    if is_quantized and not is_quiet:
        note(
            "quantized: linear layers of the decoder; embedding, output layer and vision stay as they are"
        )
    stderr = Console(stderr=True)
    if is_quiet or not stderr.is_terminal:
        return _load(arguments)
    with stderr.status(Text(f"loading {arguments['model']}")):
        return _load(arguments)


def _load(arguments: dict[str, Any]) -> Engine:
    import torch

    from fastvlm.engine import Engine
    from fastvlm.processing.image_file import ImageLimits

    if arguments["threads"] is not None:
        torch.set_num_threads(arguments["threads"])
    return Engine.load(
        arguments["model"],
        dtype=arguments["dtype"],
        device=arguments["device"],
        quantize="int8" if arguments["load_8bit"] else "int4" if arguments["load_4bit"] else None,
        image_mode=arguments["image_mode"],
        image_size=arguments["image_size"],
        limits=ImageLimits(
            max_pixels=arguments["max_pixels"],
            max_bytes=arguments["max_bytes"],
            max_edge=arguments["max_edge"],
        ),
        conv_mode=arguments["conv_mode"],
        tokenizer_path=arguments["tokenizer_path"],
        model_base=arguments["model_base"],
    )


@contextmanager
def first_interrupt(call: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C calls `call`, so that what there is can be shown; the next one interrupts."""
    is_main = threading.current_thread() is threading.main_thread()  # only it gets signals
    if not is_main or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as under nohup
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        signal.signal(signal.SIGINT, previous)
        call()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def progress_bars(is_quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for each title, on stderr."""
    from rich.console import Console
    from rich.progress import Progress, TaskID

    tasks: dict[str, TaskID] = {}
    with Progress(console=Console(stderr=True, quiet=is_quiet)) as bar:

        def show(title: str, done: int, total: int) -> None:
            if title not in tasks:
                tasks[title] = bar.add_task(title, total=total)
            bar.update(tasks[title], completed=done)

        yield show


def figures(answer: Answer) -> str:
    """One line of timings and token counts."""
    timings, usage = answer.timings, answer.usage
    return (
        f"ttft {timings.ttft_ms:.0f} ms (preprocess {timings.preprocess_ms:.0f}, "
        f"vision {timings.vision_ms:.0f}, prefill {timings.prefill_ms:.0f}), "
        f"{timings.tokens_per_second:.1f} tokens/s, "
        f"{usage.completion_tokens} tokens out, {usage.prompt_tokens} in ({usage.image_tokens} image), "
        f"{answer.finish_reason}"
    )


def write_piece(piece: str) -> None:
    """Text to stdout at once; what the terminal's encoding lacks is replaced, not fatal.

    Raises:
        typer.Exit: the reader went away (`| head`), which is no failure.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(piece.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at exit: give it something that still takes bytes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


def note(line: str) -> None:
    """A line for people, to stderr."""
    typer.echo(line, err=True)
