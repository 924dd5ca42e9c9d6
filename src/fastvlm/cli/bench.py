"""`fastvlm bench`: measure speed and memory, and print the tables of what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fastvlm.cli import options

app = typer.Typer(help="Measure speed and memory.", no_args_is_help=True)


@app.command()
def latency(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="0.5b, 1.5b, 7b or nano for random weights of that size, or a checkpoint folder.",
        ),
    ] = "0.5b",
    systems: Annotated[
        str | None,
        typer.Option(
            help="What to compare, separated by commas: fastvlm, fastvlm@hf, transformers, each with :DTYPE "
            "or without.",
            show_default="fastvlm and transformers in two dtypes each",
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option(help="Rounds, each with a fresh process for each system.")
    ] = 5,
    threads: options.Threads = None,
    new_tokens: Annotated[int, typer.Option(help="Tokens of each answer.")] = 33,
    device: options.Device = "auto",
    dtype: Annotated[
        str, typer.Option(help="For systems that name none: auto, float32, bfloat16, float16.")
    ] = "auto",
    image: Annotated[
        Path | None,
        typer.Option(help="The picture.", show_default="a drawn JPEG of 12 million pixels"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Results file.", show_default="benchmarks/latency-MODEL-DEVICE.json"),
    ] = None,
) -> None:
    """Measure load time, memory, TTFT and TPS beside transformers, on the same weights and picture."""
    from fastvlm.bench.latency import LatencyPlan, measure_latency
    from fastvlm.bench.protocol import DEFAULT_SYSTEMS, parse_system
    from fastvlm.bench.report import RESULTS_FOLDER, render_latency, result_name, write_result

    names = DEFAULT_SYSTEMS if systems is None else systems.split(",")
    plan = LatencyPlan(
        model=model,
        systems=tuple(parse_system(name.strip(), dtype=dtype) for name in names),
        repeats=repeats,
        threads=threads or 0,
        num_new_tokens=new_tokens,
        device=device,
        image=image,
    )
    result = measure_latency(plan, progress=lambda line: typer.echo(line, err=True))
    path = output or RESULTS_FOLDER / result_name(result)
    write_result(result, path)
    typer.echo(render_latency(result), nl=False)
    typer.echo(f"written to {path}", err=True)


@app.command()
def train(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="0.5b, 1.5b, 7b or nano for random weights of that size, or a checkpoint folder.",
        ),
    ] = "0.5b",
    variants: Annotated[
        str, typer.Option(help="What to train: full (all weights), lora, or both.")
    ] = "full,lora",
    systems: Annotated[
        str, typer.Option(help="What to compare: fastvlm, transformers, or both.")
    ] = "fastvlm,transformers",
    steps: Annotated[
        int, typer.Option(help="Optimizer steps of each run; the first does not count.")
    ] = 5,
    batch_size: Annotated[int, typer.Option(help="Samples of a step.")] = 1,
    image_size: Annotated[int, typer.Option(help="Pixels per side of the pictures.")] = 1024,
    precision: Annotated[
        Literal["fp32", "bf16"],
        typer.Option(help="Arithmetic; what is trained stays in float32."),
    ] = "fp32",
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            help="Compute activations twice to save memory.",
        ),
    ] = False,
    threads: options.Threads = None,
    device: options.Device = "auto",
    output: Annotated[
        Path | None,
        typer.Option(help="Results file.", show_default="benchmarks/train-MODEL-DEVICE.json"),
    ] = None,
) -> None:
    """Measure seconds per step and memory of tuning, beside the same step written with transformers."""
    from fastvlm.bench.report import RESULTS_FOLDER, render_training, result_name, write_result
    from fastvlm.bench.training import TrainingPlan, measure_training

    plan = TrainingPlan(
        model=model,
        variants=_names(variants),
        systems=_names(systems),
        num_steps=steps,
        batch_size=batch_size,
        image_size=image_size,
        precision=precision,
        has_checkpointing=gradient_checkpointing,
        device=device,
        threads=threads or 0,
    )
    result = measure_training(plan, progress=lambda line: typer.echo(line, err=True))
    path = output or RESULTS_FOLDER / result_name(result)
    write_result(result, path)
    typer.echo(render_training(result), nl=False)
    typer.echo(f"written to {path}", err=True)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Where results files are.")] = Path("benchmarks"),
) -> None:
    """Print the tables of all results files as Markdown."""
    from fastvlm.bench.report import render_tables

    typer.echo(render_tables(folder), nl=False)


def _names(text: str) -> tuple[Any, ...]:
    """Names separated by commas; the plan says which there are."""
    return tuple(name.strip() for name in text.split(","))
