"""Options that several commands share, each with one name, one default and one help text.

The spellings with an underscore are those of Apple's predict.py.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fastvlm.errors import ConfigError

if TYPE_CHECKING:
    from fastvlm.engine.options import OptionKeywords

MODEL, PICTURES, ANSWER, MACHINE = "Model", "Pictures", "Answer", "Machine"

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        "--model-path",
        help="Name (see `fastvlm models list`) or checkpoint folder.",
        rich_help_panel=MODEL,
    ),
]
ModelBase = Annotated[
    str | None,
    typer.Option(
        help="Full model that a projector-only checkpoint belongs on.", rich_help_panel=MODEL
    ),
]
TokenizerPath = Annotated[
    str | None,
    typer.Option(help="Folder with tokenizer files, if the model has none.", rich_help_panel=MODEL),
]
ConvMode = Annotated[
    Literal["qwen_2", "plain"],
    typer.Option(help="Layout of the prompt.", rich_help_panel=MODEL),
]
ImageMode = Annotated[
    Literal["pad", "crop", "anyres", "native"] | None,
    typer.Option(
        help="How a picture becomes a square.",
        show_default="the model's",
        rich_help_panel=PICTURES,
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        "--image-size",
        "--resolution",
        help="Pixels per side, 64 to 2048.",
        show_default="the model's",
        rich_help_panel=PICTURES,
    ),
]
MaxPixels = Annotated[
    int, typer.Option(help="Largest picture in pixels.", rich_help_panel=PICTURES)
]
MaxBytes = Annotated[
    int, typer.Option(help="Largest picture file in bytes.", rich_help_panel=PICTURES)
]
MaxEdge = Annotated[int, typer.Option(help="Longest side in pixels.", rich_help_panel=PICTURES)]
Frames = Annotated[
    int,
    typer.Option("--frames", help="Most frames of a clip, 1 to 64.", rich_help_panel=PICTURES),
]
System = Annotated[
    str | None,
    typer.Option(help="System text in place of the usual one.", rich_help_panel=ANSWER),
]
MaxNewTokens = Annotated[
    int,
    typer.Option(
        "--max-new-tokens",
        "--max-tokens",
        help="Longest answer in tokens; cut to what the context leaves.",
        rich_help_panel=ANSWER,
    ),
]
Temperature = Annotated[
    float,
    typer.Option(
        help="0 takes the likeliest token each time; higher samples more freely.",
        rich_help_panel=ANSWER,
    ),
]
TopP = Annotated[
    float,
    typer.Option(
        "--top-p",
        "--top_p",
        help="Sample from the likeliest tokens that together have this probability.",
        rich_help_panel=ANSWER,
    ),
]
TopK = Annotated[
    int,
    typer.Option(
        "--top-k",
        "--top_k",
        help="Sample from this many likeliest tokens; 0 means all.",
        rich_help_panel=ANSWER,
    ),
]
RepetitionPenalty = Annotated[
    float,
    typer.Option(
        help="Above 1, makes tokens that the answer already holds less likely.",
        rich_help_panel=ANSWER,
    ),
]
NumBeams = Annotated[
    int,
    typer.Option(
        "--num-beams",
        "--num_beams",
        help="Above 1, follows this many candidate answers and keeps the likeliest.",
        rich_help_panel=ANSWER,
    ),
]
Seed = Annotated[
    int | None, typer.Option(help="Makes sampling repeatable.", rich_help_panel=ANSWER)
]
Stop = Annotated[
    list[str] | None,
    typer.Option(
        help="Text that ends the answer; may be given several times.", rich_help_panel=ANSWER
    ),
]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=MACHINE)
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(help="Number format of the network.", rich_help_panel=MACHINE),
]
Threads = Annotated[
    int | None,
    typer.Option(help="CPU threads.", show_default="all cores", min=1, rich_help_panel=MACHINE),
]
Load8Bit = Annotated[
    bool,
    typer.Option("--load-8bit", help="Keep language weights in 8 bits.", rich_help_panel=MACHINE),
]
Load4Bit = Annotated[
    bool,
    typer.Option("--load-4bit", help="Keep language weights in 4 bits.", rich_help_panel=MACHINE),
]

PRESETS = {
    "describe": "Describe the image in English. Output should be brief, about 15 words or less.",
    "expression": "What is this person's facial expression? Output only one or two words.",
    "read": "What is written in this image? Output only the text in the image.",
}
"""Prompts that Apple's app offers, by short names."""


def preset_prompt(name: str) -> str:
    """The prompt of a preset.

    Raises:
        ConfigError: no preset of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset named {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def generation_options(values: dict[str, Any]) -> OptionKeywords:
    """The generation options among a command's arguments, checked before the model is loaded.

    Raises:
        ConfigError: a value out of range.
    """
    from fastvlm.engine.options import GenerationOptions, options_from

    names = [field.name for field in fields(GenerationOptions)]
    keywords = {name: values[name] for name in names if values.get(name) is not None}
    options_from(keywords, GenerationOptions())
    return keywords  # type: ignore[return-value] # the names are those of the TypedDict
