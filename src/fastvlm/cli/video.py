"""`fastvlm video`: ask about clips; answers on stdout or as subtitles and JSON Lines, all else on stderr."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fastvlm.cli import options
from fastvlm.cli.clips import VIDEO_WORDS, clip_names, parse_time, spelled, video_options
from fastvlm.cli.session import load_engine
from fastvlm.errors import ConfigError

if TYPE_CHECKING:
    from fastvlm.cli.clip_questions import ClipQuestion
    from fastvlm.engine import Engine

FRAMES, WINDOWS, OUTPUT, LIMITS = "Frames", "Long clips", "Output", "Limits of untrusted files"
DEFAULT_PROMPT = "Describe the video."
DEFAULT_FRAME_PROMPT = "Describe the image."


def video(
    files: Annotated[list[str], typer.Argument(help="Clips, patterns, or - for standard input.")],
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            "-p",
            help="The question.",
            show_default=f"{DEFAULT_PROMPT} Per frame: {DEFAULT_FRAME_PROMPT}",
        ),
    ] = None,
    mode: Annotated[
        Literal["joint", "per-frame"],
        typer.Option(help="One answer about all frames, or one about each with its time."),
    ] = "joint",
    frames: Annotated[
        int | None,
        typer.Option(
            help="Most frames of a clip or window, 1 to 64.",
            show_default="8; 64 with --fps",
            rich_help_panel=FRAMES,
        ),
    ] = None,
    sampling: Annotated[
        Literal["uniform", "segment", "fps", "timestamps"] | None,
        typer.Option(
            help="uniform: from the first to the last frame; segment: the middle of equal parts.",
            show_default="uniform",
            rich_help_panel=FRAMES,
        ),
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="So many frames a second.", rich_help_panel=FRAMES)
    ] = None,
    timestamps: Annotated[
        str | None, typer.Option(help="These frames: 1.5,3,0:12.", rich_help_panel=FRAMES)
    ] = None,
    keyframes: Annotated[
        bool,
        typer.Option(
            "--keyframes",
            help="A frame of each scene, none that looks like the one before.",
            rich_help_panel=FRAMES,
        ),
    ] = False,
    start: Annotated[
        str | None,
        typer.Option(help="Begin here: seconds or h:mm:ss.", rich_help_panel=FRAMES),
    ] = None,
    end: Annotated[str | None, typer.Option(help="End here.", rich_help_panel=FRAMES)] = None,
    frame_size: Annotated[
        int | None,
        typer.Option(
            help="Pixels per side of a frame, 64 to 2048.",
            show_default="the model's",
            rich_help_panel=FRAMES,
        ),
    ] = None,
    time_marks: Annotated[
        bool,
        typer.Option(
            "--time-marks", help="Tell the model the time of each frame.", rich_help_panel=FRAMES
        ),
    ] = False,
    window: Annotated[
        str | None,
        typer.Option(help="Answer for each part of this length.", rich_help_panel=WINDOWS),
    ] = None,
    stride: Annotated[
        str | None,
        typer.Option(
            help="From one part to the next.", show_default="--window", rich_help_panel=WINDOWS
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            help="Frames that are answered at once, per-frame.", min=1, rich_help_panel=WINDOWS
        ),
    ] = 1,
    srt: Annotated[
        str | None, typer.Option(help="Write SubRip to this .srt, or -.", rich_help_panel=OUTPUT)
    ] = None,
    vtt: Annotated[
        str | None, typer.Option(help="Write WebVTT to this .vtt, or -.", rich_help_panel=OUTPUT)
    ] = None,
    jsonl: Annotated[
        str | None,
        typer.Option(help="Write JSON Lines to this .jsonl, or -.", rich_help_panel=OUTPUT),
    ] = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge", help="Join equal answers that follow one another.", rich_help_panel=OUTPUT
        ),
    ] = False,
    stats: Annotated[
        bool,
        typer.Option("--stats", help="Timings and tokens on stderr.", rich_help_panel=OUTPUT),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="Nothing but answers and errors.", rich_help_panel=OUTPUT
        ),
    ] = False,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Word by word.",
            show_default="on a terminal",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    model: options.Model = "nano",
    model_base: options.ModelBase = None,
    tokenizer_path: options.TokenizerPath = None,
    image_mode: options.ImageMode = None,
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
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Decode in this process: faster, for your own files.",
            rich_help_panel=LIMITS,
        ),
    ] = False,
    max_bytes: Annotated[
        int, typer.Option(help="Largest file in bytes.", min=1, rich_help_panel=LIMITS)
    ] = 2 * 2**30,
    max_pixels: Annotated[
        int, typer.Option(help="Largest frame in pixels.", min=1, rich_help_panel=LIMITS)
    ] = 40_000_000,
    max_edge: Annotated[
        int, typer.Option(help="Longest side in pixels.", min=1, rich_help_panel=LIMITS)
    ] = 16384,
    max_duration: Annotated[
        str, typer.Option(help="Longest clip.", rich_help_panel=LIMITS)
    ] = "6:00:00",
    timeout: Annotated[
        float, typer.Option(help="Seconds that reading may take.", rich_help_panel=LIMITS)
    ] = 60.0,
    max_memory: Annotated[
        int, typer.Option(help="Bytes that decoding may take.", min=1, rich_help_panel=LIMITS)
    ] = 4 * 2**30,
) -> None:
    """Ask a question about a clip: one answer, or one for each frame or part, with its time."""
    arguments = dict(locals())
    outputs = _outputs(arguments)
    names = clip_names(files)
    question = _question(arguments)
    if len(names) > 1 and (srt is not None or vtt is not None):
        raise ConfigError(f"--srt and --vtt are for one clip, but there are {len(names)}")
    from fastvlm.cli.video_run import VideoRun

    engine = _engine(arguments)
    run = VideoRun(
        engine=engine,
        question=question,
        outputs=outputs,
        merges=merge,
        has_stats=stats,
        is_quiet=quiet,
        is_streaming=sys.stdout.isatty() if stream is None else stream,
    )
    raise typer.Exit(run.all(names))


def _outputs(arguments: dict[str, Any]) -> dict[str, str]:
    """Files to write by their kind, checked before any work; `-` is standard output."""
    outputs = {kind: arguments[kind] for kind in ("srt", "vtt", "jsonl") if arguments[kind]}
    for kind, name in outputs.items():
        if name == "-":
            continue
        if Path(name).suffix.lower() != f".{kind}":  # a forgotten name must not cost a clip
            raise ConfigError(f"--{kind} is {name!r}; expected a name that ends in .{kind}, or -")
        if not Path(name).parent.is_dir():
            raise ConfigError(f"--{kind} {name}: there is no folder {Path(name).parent}")
    if list(outputs.values()).count("-") > 1:
        raise ConfigError("only one of --srt, --vtt and --jsonl can be -, standard output")
    return outputs


def _question(arguments: dict[str, Any]) -> ClipQuestion:
    """What is asked, checked before the model is loaded.

    Raises:
        ConfigError: options that are out of range or exclude each other.
    """
    from fastvlm.cli.clip_questions import ClipQuestion

    is_joint = arguments["mode"] == "joint"
    prompt = arguments["prompt"] or (DEFAULT_PROMPT if is_joint else DEFAULT_FRAME_PROMPT)
    if not prompt.strip():
        raise ConfigError("the prompt is empty; expected a question")
    video = video_options(arguments)
    seconds = {
        name: None if arguments[name] is None else parse_time(arguments[name], f"--{name}")
        for name in ("window", "stride")
    }
    window_s, stride_s = seconds["window"], seconds["stride"]
    for name, value in seconds.items():
        if value == 0:
            raise ConfigError(f"--{name} is 0 s; expected more")
    if stride_s is not None and window_s is None:
        raise ConfigError("--stride goes with --window")
    if window_s is not None and video.sampling == "timestamps":
        raise ConfigError("--window and --timestamps exclude each other; give one of them")
    if not is_joint and arguments["time_marks"]:
        raise ConfigError("--time-marks goes with --mode joint: frames are asked about one by one")
    if is_joint and arguments["batch_size"] > 1:
        raise ConfigError("--batch-size goes with --mode per-frame")
    if arguments["num_beams"] > 1 and arguments["batch_size"] > 1:
        raise ConfigError("--num-beams above 1 takes a --batch-size of 1")
    return ClipQuestion(
        prompt=prompt,
        system=arguments["system"],
        mode=arguments["mode"],
        video=video,
        has_keyframes=arguments["keyframes"],
        window_s=window_s,
        stride_s=stride_s,
        batch_size=arguments["batch_size"],
        keywords=options.generation_options(arguments),
    )


def _engine(arguments: dict[str, Any]) -> Engine:
    """The model; every picture it will see is a frame, so the frame size is its picture size."""
    from fastvlm.processing.video import VideoLimits

    limits = VideoLimits(
        max_bytes=arguments["max_bytes"],
        max_pixels=arguments["max_pixels"],
        max_edge=arguments["max_edge"],
        max_duration_s=parse_time(arguments["max_duration"], "--max-duration"),
        timeout_s=arguments["timeout"],
        memory_bytes=arguments["max_memory"],
    )
    values = arguments | {"image_size": arguments["frame_size"], "conv_mode": "qwen_2"}
    try:
        engine = load_engine(values, is_quiet=arguments["quiet"])
    except ConfigError as error:
        raise ConfigError(spelled(str(error), VIDEO_WORDS)) from None
    engine.processor.video_limits = limits
    engine.processor.trusts_videos = arguments["trust"]
    return engine
