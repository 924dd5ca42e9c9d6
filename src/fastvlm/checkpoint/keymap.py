"""Names of tensors: ours on one side, those of a published layout on the other, one table for both ways.

Our names are timm's (`stages.3.blocks.0.mlp.fc1.weight`). Apple's code numbers the parts of the tower through
(`network.7.0.convffn.fc1.weight`), transformers wraps timm. Nothing is transposed or reshaped on the way.

Source: apple/ml-fastvlm `mobileclip/mci.py`, `llava/model/llava_arch.py`; transformers `models/fast_vlm`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from fastvlm.config import FastVLMConfig, VisionConfig, projector_depth
from fastvlm.errors import ConfigError

Layout: TypeAlias = Literal["apple", "hf"]
"""apple: `LlavaQwen2ForCausalLM` (Apple's zips and the apple/FastVLM-* hub folders); hf: transformers' `fast_vlm`."""


class Rename(NamedTuple):
    """One row of a table: the same dotted part of a name, in a published layout and in ours."""

    theirs: str
    ours: str


_TOWER: Final = "vision_tower"
_APPLE_TOWER: Final = "model.vision_tower.vision_tower.model"
_APPLE_TOWER_ALIAS: Final = re.compile(
    r"^(model\.)?vision_tower\.(vision_tower\.)?(model\.)?(?=patch_embed\.|network\.|conv_exp\.|head\.)"
)

# Where a tensor sits in Apple's tower. {blocks}, {downsample} and {pos_emb} stand for the index of that part of
# {stage} in Apple's one long list. The first row that fits a name counts, in both directions.
_APPLE_TOWER_PLACES: Final = (
    Rename("patch_embed", "stem"),
    Rename("network.{blocks}", "stages.{stage}.blocks"),
    Rename(
        "network.{downsample}.proj.0.lkb_reparam", "stages.{stage}.downsample.proj.0.reparam_conv"
    ),
    Rename("network.{downsample}.proj", "stages.{stage}.downsample.proj"),
    Rename("network.{pos_emb}", "stages.{stage}.pos_emb"),
    Rename("conv_exp", "final_conv"),
)
# What it is called there; whole dotted segments only, so `layer_scale` leaves `layer_scale_1` alone.
_APPLE_TOWER_PARTS: Final = (
    Rename("convffn", "mlp"),
    Rename("layer_scale", "layer_scale.gamma"),
    Rename("layer_scale_1", "layer_scale_1.gamma"),
    Rename("layer_scale_2", "layer_scale_2.gamma"),
    Rename("se.reduce", "se.fc1"),
    Rename("se.expand", "se.fc2"),
    Rename("rbr_conv", "conv_kxk"),
    Rename("rbr_scale", "conv_scale"),
    Rename("rbr_skip", "identity"),
    Rename("lkb_origin", "large_conv"),
    Rename("pe", "pos_enc"),
)
CLIP_HEAD: Final = f"{_APPLE_TOWER}.head.proj"
"""The one tensor of Apple's tower that has no place here, [hidden_size, 768]."""

_ROTARY_REASON: Final = "computed from rope_theta"
_IGNORED: Final[Mapping[Layout, Mapping[re.Pattern[str], str]]] = {
    "apple": {
        re.compile(re.escape(CLIP_HEAD)): "head of the CLIP pretraining, which FastVLM never uses",
        re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"): _ROTARY_REASON,
    },
    "hf": {
        re.compile(
            r"model\.language_model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
        ): _ROTARY_REASON,
    },
}


@dataclass(frozen=True, slots=True)
class KeyMap:
    """The table of one layout for one network.

    Attributes:
        layout: the published layout.
        places: renames of the start of a name; the first that fits counts.
        parts: renames inside the rest of a name of the tower; all are tried.
    """

    layout: Layout
    places: tuple[Rename, ...]
    parts: tuple[Rename, ...]

    def canonical(self, key: str) -> str:
        """The spelling of a key that `to_layout` would give, where several are in use.

        Apple's tower is found with and without the doubled `model.vision_tower.vision_tower.model.` in front.
        """
        if self.layout == "apple":
            return _APPLE_TOWER_ALIAS.sub(f"{_APPLE_TOWER}.", key)
        return key

    def to_ours(self, key: str) -> str | None:
        """Our name of a tensor of this layout; None when the table does not know it."""
        key = self.canonical(key)
        for theirs, ours in self.places:
            if key.startswith(f"{theirs}."):
                rest = _rename_parts(key.removeprefix(theirs), self._parts_at(ours))
                name = ours + rest
                # A name that would come back as another one (say, `mlp` where Apple says `convffn`) is foreign.
                return name if self.to_layout(name) == key else None
        return None

    def to_layout(self, name: str) -> str:
        """The name in this layout of one of our tensors.

        Raises:
            KeyError: no tensor of ours is called so.
        """
        for theirs, ours in self.places:
            if name.startswith(f"{ours}."):
                parts = tuple(Rename(part.ours, part.theirs) for part in self._parts_at(ours))
                return theirs + _rename_parts(name.removeprefix(ours), parts)
        raise KeyError(name)

    def ignored_reason(self, key: str) -> str | None:
        """Why a tensor of this layout may be left out; None when it may not."""
        key = self.canonical(key)
        return next(
            (why for pattern, why in _IGNORED[self.layout].items() if pattern.fullmatch(key)), None
        )

    def _parts_at(self, place: str) -> tuple[Rename, ...]:
        return self.parts if place.startswith(_TOWER) else ()


def key_map(layout: Layout, config: FastVLMConfig) -> KeyMap:
    """The table of a layout for a network.

    Raises:
        ConfigError: the layout has no place for this projector.
    """
    depth = projector_depth(config.projector_type)
    if layout == "apple":
        projector = (
            "projector.layers.0" if config.projector_type == "linear" else "projector.layers"
        )
        places = (
            *(
                Rename(f"{_APPLE_TOWER}.{theirs}", f"{_TOWER}.{ours}")
                for theirs, ours in _tower_places(config.vision)
            ),
            Rename("model.mm_projector", projector),
            Rename("model.embed_tokens", "language_model.embed_tokens"),
            Rename("model.layers", "language_model.layers"),
            Rename("model.norm", "language_model.norm"),
            Rename("lm_head", "lm_head"),
        )
        return KeyMap(layout, places, _APPLE_TOWER_PARTS)
    if depth != 2:
        raise ConfigError(
            f"transformers' fast_vlm has two linear layers in its projector, {config.projector_type!r} has {depth}; "
            "use layout 'apple'"
        )
    places = (
        Rename("model.vision_tower.timm_model", _TOWER),
        Rename("model.multi_modal_projector.linear_1", "projector.layers.0"),
        Rename("model.multi_modal_projector.linear_2", "projector.layers.2"),
        Rename("model.language_model", "language_model"),
        Rename("lm_head", "lm_head"),
    )
    return KeyMap(layout, places, ())


def _tower_places(config: VisionConfig) -> list[Rename]:
    """The rows of `_APPLE_TOWER_PLACES` with Apple's indices of every stage filled in."""
    rows: list[Rename] = []
    index = -1
    for stage, mixer in enumerate(config.token_mixers):
        indices = {"stage": stage}
        for part in ("downsample", "pos_emb", "blocks"):
            if (part == "downsample" and stage == 0) or (part == "pos_emb" and mixer == "repmixer"):
                continue
            index += 1
            indices[part] = index
        for row in _APPLE_TOWER_PLACES:
            needed = set(re.findall(r"{(\w+)}", row.theirs))
            if needed <= indices.keys() and (needed or stage == 0):
                rows.append(Rename(row.theirs.format(**indices), row.ours.format(**indices)))
    return rows


def _rename_parts(rest: str, parts: tuple[Rename, ...]) -> str:
    """Replace whole dotted segments of `.rest.of.a.name`."""
    rest += "."
    for theirs, ours in parts:
        rest = rest.replace(f".{theirs}.", f".{ours}.")
    return rest.removesuffix(".")
