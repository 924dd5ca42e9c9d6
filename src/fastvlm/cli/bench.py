"""`fastvlm bench`: measure speed and memory, and print the tables of what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
def report(
    folder: Annotated[Path, typer.Argument(help="Where results files are.")] = Path("benchmarks"),
) -> None:
    """Print the tables of all results files as Markdown."""
    from fastvlm.bench.report import render_tables

    typer.echo(render_tables(folder), nl=False)
