"""`fastvlm train`: tune a model on your own data, or train nano from nothing."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Union,
    get_origin,
    get_type_hints,
)

import typer

from fastvlm.cli.session import first_interrupt, note
from fastvlm.cli.train_display import ScratchBar, TuningDisplay
from fastvlm.errors import ConfigError
from fastvlm.train.settings import Setting, list_settings

if TYPE_CHECKING:
    from fastvlm.train.settings import Phase

app = typer.Typer(invoke_without_command=True, no_args_is_help=True)

FROM_NOTHING = "nano"


def _train(
    context: typer.Context,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A preset (see `fastvlm train recipes`), a TOML file, or nano: training from nothing."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run.", show_default="runs/RECIPE")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run in that folder stopped.")
    ] = False,
    llava_args: Annotated[
        str | None,
        typer.Option(help="Arguments of Apple's train_qwen.py, in quotes; see docs/training.md."),
    ] = None,
    steps_scale: Annotated[
        float, typer.Option(help="For recipe nano: factor on the samples of every stage.")
    ] = 1.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    **settings: Any,
) -> None:
    """Tune a model on your own pictures and clips, with curves, checkpoints and exact resume.

    The recipe decides what is not given here; the defaults below hold where it says nothing.

    Ctrl-C saves a checkpoint and says how to go on. The finished model is in OUTPUT/model.
    """
    if context.invoked_subcommand is not None:
        return
    given = {name: value for name, value in settings.items() if value not in (None, [])}
    if resume:
        folder = output or Path("runs") / (recipe or FROM_NOTHING)
        from fastvlm.train.record import is_tuning_run

        if is_tuning_run(folder):
            _refuse(given, "a resumed run keeps its settings")
            _tune(None, folder, is_quiet=quiet)
            return
        _from_nothing(folder, None, "auto", 1.0, is_quiet=quiet)
        return
    if llava_args is not None:
        from fastvlm.train.llava_arguments import translate

        translated = translate(shlex.split(llava_args))
        output = output or (None if translated.output is None else Path(translated.output))
        for line in translated.notes:
            note(line)
        given = translated.settings | given
    name = recipe or ("stage2" if llava_args is not None else None)
    if name is None:
        raise ConfigError("no recipe; give --recipe NAME (see `fastvlm train recipes`)")
    folder = output or Path("runs") / Path(name).stem
    if name == FROM_NOTHING:
        device = given.pop("device", "auto")
        _refuse(given, "recipe nano trains from nothing and takes only --device and --steps-scale")
        _from_nothing(folder, name, device, steps_scale, is_quiet=quiet)
        return
    from fastvlm.train.settings import read_recipe

    phases = read_recipe(name, given)
    if not phases[0].settings.data:
        raise ConfigError("no training data; give --data FILE (formats: docs/data.md)")
    _tune(phases, folder, is_quiet=quiet)


def _with_settings(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for every setting, in groups."""
    hints = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)
    own = [
        one.replace(annotation=hints[one.name])
        for one in signature.parameters.values()
        if one.kind is not one.VAR_KEYWORD
    ]
    options = [_option(setting) for setting in list_settings()]
    parameters = [*own, *options]
    function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {one.name: one.annotation for one in parameters}
    return function


def _option(setting: Setting) -> inspect.Parameter:
    kind, default = setting.kind, setting.default
    name = f"--{setting.name.replace('_', '-')}"
    shown = "none" if default in (None, (), "") else str(default)
    if kind is bool:
        name = f"{name}/{name.replace('--', '--no-')}"
        shown = "on" if default else "off"
    if get_origin(kind) is tuple:
        kind = list[str]
    if get_origin(kind) not in (Union, UnionType):
        kind = kind | None
    option = typer.Option(
        name, help=setting.doc.text, show_default=shown, rich_help_panel=setting.doc.group
    )
    annotation = Annotated[kind, option]  # type: ignore[valid-type]  # known only here
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


app.callback()(_with_settings(_train))


@app.command()
def recipes() -> None:
    """List the presets."""
    from fastvlm.train.settings import list_recipes

    for name, about in list_recipes().items():
        typer.echo(f"{name:12} {about}")
    typer.echo(f"{FROM_NOTHING:12} The embedded model, from nothing, on pictures drawn here.")


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Write a page with curves, figures and examples of a run."""
    from fastvlm.train.report import write_report

    typer.echo(str(write_report(run)))


@app.command()
def merge(
    adapter: Annotated[Path, typer.Argument(help="Adapter folder, as PEFT writes it.")],
    output: Annotated[Path, typer.Argument(help="Folder for the merged model.")],
    model: Annotated[str, typer.Option("--model", "-m", help="The model it was trained on.")],
    layout: Annotated[Literal["apple", "hf"], typer.Option(help="Layout to write.")] = "apple",
) -> None:
    """Add adapters to the weights of their base model."""
    from fastvlm.train.export import merge_folders

    merge_folders(model, adapter, output, layout=layout)
    typer.echo(str(output))


def _refuse(given: dict[str, Any], reason: str) -> None:
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{names}: {reason}")


def _tune(phases: tuple[Phase, ...] | None, folder: Path, *, is_quiet: bool) -> None:
    import logging
    import os
    import threading

    # Its kernels for 4 bits are looked for at import, and their absence reported where nobody wants them.
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
    is_first = int(os.environ.get("RANK", "0")) == 0  # under torchrun one process speaks for all
    is_quiet = is_quiet or not is_first

    from fastvlm.train.record import read_phases
    from fastvlm.train.run import Listener, tune

    display = TuningDisplay(is_quiet=is_quiet)
    stop = threading.Event()

    def stop_once() -> None:
        display.note(
            "stopping after the next step, with a checkpoint; Ctrl-C again stops without one"
        )
        stop.set()

    with display, first_interrupt(stop_once):
        phases = phases or read_phases(folder)
        listener = Listener(display.begin_phase, display.show, display.note)
        result = tune(phases, folder, listener=listener, should_stop=stop.is_set)
    if result.broken and is_first:
        note(result.broken)
    if not result.is_finished:
        display.note(f"stopped; to go on: fastvlm train --resume --output {folder}")
        raise typer.Exit(130)
    display.compare(result.comparison)
    if is_first:
        typer.echo(str(result.model))


def _from_nothing(
    folder: Path, recipe: str | None, device: str, steps_scale: float, *, is_quiet: bool
) -> None:
    """Train nano; `recipe` None goes on with the run in the folder."""
    from fastvlm.train.scratch.export import export_run
    from fastvlm.train.scratch.launch import follow_run, start_run
    from fastvlm.train.scratch.state import read_settings

    if recipe is None:
        read_settings(folder)
    else:
        start_run(folder, recipe, device=device, steps_scale=steps_scale)
    bar = ScratchBar(is_quiet=is_quiet)
    with bar.progress:
        is_finished = follow_run(folder, bar.show)
    if not is_finished:
        note(f"stopped; to go on: fastvlm train --resume --output {folder}")
        raise typer.Exit(130)
    export_run(folder, folder / "model")
    typer.echo(str(folder / "model"))
