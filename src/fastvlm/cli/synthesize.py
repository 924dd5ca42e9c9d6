"""`fastvlm data synthesize`: write training sets of the drawn world, to try tuning on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from fastvlm.cli.session import progress_bars

if TYPE_CHECKING:
    from fastvlm.data.synthetic.clips import ClipKind

app = typer.Typer(help="Write training sets of the drawn world.", no_args_is_help=True)

_Folder = Annotated[Path, typer.Argument(help="New folder for the set.")]
_Seed = Annotated[int, typer.Option(help="Another seed draws other pictures.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]


@app.command()
def clips(
    folder: _Folder,
    num_clips: Annotated[int, typer.Option("--clips", help="Training clips.")] = 2000,
    num_pictures: Annotated[int, typer.Option("--pictures", help="Training pictures.")] = 2000,
    num_validation: Annotated[
        int, typer.Option("--validation", help="Records of each validation file.")
    ] = 200,
    frames: Annotated[
        int, typer.Option("--frames", help="Frames that questions are made for, 4 to 8.")
    ] = 4,
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            help="Kind of clips: motion, order, recolour, vanish, flash; may be given several times.",
            show_default="all",
        ),
    ] = None,
    questions_per_record: Annotated[
        int, typer.Option(help="Questions that are joined to one conversation.")
    ] = 6,
    has_writing: Annotated[
        bool, typer.Option("--writing/--no-writing", help="Pictures of characters; needs fonts.")
    ] = True,
    seed: _Seed = 0,
    quiet: _Quiet = False,
) -> None:
    """Clips about motion, order and change, with pictures among them, as LLaVA JSON and mp4 files."""
    from fastvlm.data.synthetic.clips import CLIP_KINDS
    from fastvlm.data.synthetic.write_clips import ClipSet, write_clip_set

    options = ClipSet(
        num_clips=num_clips,
        num_pictures=num_pictures,
        num_validation=num_validation,
        num_frames=frames,
        questions_per_record=questions_per_record,
        kinds=CLIP_KINDS if kinds is None else cast("tuple[ClipKind, ...]", tuple(kinds)),
        has_writing=has_writing,
    )
    with progress_bars(quiet) as show:
        write_clip_set(folder, options, seed=seed, on_progress=show)
    typer.echo(str(folder))


@app.command()
def relations(
    folder: _Folder,
    num_pictures: Annotated[int, typer.Option("--pictures", help="Training pictures.")] = 2000,
    num_validation: Annotated[
        int, typer.Option("--validation", help="Records of the validation file.")
    ] = 200,
    seed: _Seed = 0,
    quiet: _Quiet = False,
) -> None:
    """A skill that nano does not have: what is left of, right of, above and below what."""
    from fastvlm.data.synthetic.new_skill import write_skill_set

    with progress_bars(quiet) as show:
        write_skill_set(
            folder,
            num_pictures=num_pictures,
            seed=seed,
            num_validation=num_validation,
            on_progress=show,
        )
    typer.echo(str(folder))
