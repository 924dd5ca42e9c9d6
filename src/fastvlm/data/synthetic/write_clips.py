"""Clips and pictures of the drawn world as a data set folder, the way a user's own data would come.

train.json              clips and pictures in random order, several questions a conversation
validation.json         other clips, one question a record, with its kind and the answer backwards
images_validation.json  other pictures, one question a record
clips/train-000000.mp4 ...
pictures/train-000000.jpg ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray

from fastvlm.data.synthetic.clip_questions import sample_clip_dialogues
from fastvlm.data.synthetic.clips import (
    CLIP_KINDS,
    NUM_SLOTS,
    ClipKind,
    draw_clip,
    frame_times,
    sample_clip,
)
from fastvlm.data.synthetic.draw import draw_scene
from fastvlm.data.synthetic.fonts import training_fonts
from fastvlm.data.synthetic.llava_folder import (
    OnProgress,
    join_turns,
    llava_record,
    new_folder,
    no_progress,
    save_picture,
    write_records,
)
from fastvlm.data.synthetic.questions import sample_dialogues
from fastvlm.data.synthetic.sample import SceneMix, sample_scene
from fastvlm.errors import ConfigError

PICTURE_SIZE: Final = 192
"""Pixels per side: what `nano` was trained on."""
FRAMES_PER_CLIP: Final = 8
"""Frames in a file: two a slot, one a slot where flashes are counted up to four."""
FRAMES_PER_SECOND: Final = 4

_SEED: Final = 8_000_000_000
"""Recipes and evaluations have their seeds elsewhere."""
_SPLITS: Final = ("train", "validation")
# The pictures that the last stage of nano's recipe showed.
_PICTURES: Final = SceneMix(things=0.70, text=0.14, bars=0.07, clutter=0.09, framed=0.12)
_PICTURES_WITHOUT_WRITING: Final = SceneMix(
    things=0.80, text=0.0, bars=0.10, clutter=0.10, framed=0.12
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSet:
    """How much a data set of clips holds.

    Raises:
        ConfigError: a negative number, or fewer frames or questions than make sense.
    """

    num_clips: int
    """Clips to train on."""
    num_pictures: int
    """Pictures to train on, so that what is known about them stays."""
    num_validation: int = 200
    """Clips, and as many pictures, to validate with."""
    num_frames: int = NUM_SLOTS
    """Frames that training will show of a clip, 4 to 8; from 8 on, flashes are counted up to four."""
    questions_per_clip: int = 6
    """Conversations about a clip; some have two turns."""
    questions_per_picture: int = 6
    """Conversations about a picture."""
    questions_per_record: int = 6
    """Conversations that are joined in one training record. Fewer make more records of the same file: more work
    for the encoder, but fewer answers that can be read off earlier ones."""
    kinds: tuple[ClipKind, ...] = CLIP_KINDS
    """Kinds of clips that are drawn."""
    has_writing: bool = True
    """Show characters in pictures, which takes the fonts that nano was trained with."""

    def __post_init__(self) -> None:
        for name in ("num_clips", "num_pictures", "num_validation"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more")
        for name in ("questions_per_clip", "questions_per_picture", "questions_per_record"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not self.kinds or not set(self.kinds) <= set(CLIP_KINDS):
            raise ConfigError(
                f"kinds is {', '.join(self.kinds) or 'empty'}; expected some of {', '.join(CLIP_KINDS)}"
            )
        if not NUM_SLOTS <= self.num_frames <= FRAMES_PER_CLIP:
            raise ConfigError(
                f"num_frames is {self.num_frames}; expected {NUM_SLOTS} to {FRAMES_PER_CLIP}, "
                f"the frames of a clip"
            )


def write_clip_set(
    folder: Path, options: ClipSet, *, seed: int = 0, on_progress: OnProgress = no_progress
) -> None:
    """Draw and write everything; the same seed gives the same clips and questions.

    Args:
        folder: new or empty.
        options: how much of what.
        seed: of all choices; validation has other clips and pictures with every seed.
        on_progress: called after every file.

    Raises:
        ConfigError: `folder` holds something, or a font is missing.
        OSError: the disk is full, or the folder cannot be written.
    """
    fonts = training_fonts() if options.has_writing else ()
    with new_folder(folder) as partial:
        (partial / "clips").mkdir()
        (partial / "pictures").mkdir()
        clips: dict[str, list[dict[str, Any]]] = {}
        pictures: dict[str, list[dict[str, Any]]] = {}
        for split, num_clips, num_pictures in (
            ("train", options.num_clips, options.num_pictures),
            ("validation", options.num_validation, options.num_validation),
        ):
            clips[split], pictures[split] = [], []
            for index in range(num_clips):
                clips[split] += _write_clip(partial, split, index, options, seed)
                on_progress(f"clips, {split}", index + 1, num_clips)
            for index in range(num_pictures):
                pictures[split] += _write_picture(partial, split, index, options, seed, fonts)
                on_progress(f"pictures, {split}", index + 1, num_pictures)
        train = clips["train"] + pictures["train"]
        order = _rng(seed, "train", "order", 0).permutation(len(train))
        write_records(partial / "train.json", (train[int(i)] for i in order))
        write_records(partial / "validation.json", clips["validation"])
        write_records(partial / "images_validation.json", pictures["validation"])


def encode_clip(path: Path, frames: NDArray[np.uint8], *, fps: int = FRAMES_PER_SECOND) -> None:
    """Write an mp4: H.264 where this PyAV has it, else MPEG-4 part 2; quality high enough for crisp edges.

    Shape:
        frames: [N, H, W, 3], RGB; H and W even
    """
    is_h264 = "libx264" in av.codecs_available
    num_frames, height, width, _ = frames.shape
    with av.open(str(path), "w", format="mp4") as container:
        if is_h264:
            # One thread: frames this small are done before threads have started.
            settings = {"crf": "12", "preset": "veryfast", "threads": "1"}
            stream = container.add_stream("libx264", rate=fps, options=settings)
        else:
            settings = {"qmin": "1", "qmax": "3"}
            stream = container.add_stream("mpeg4", rate=fps, options=settings)
            stream.bit_rate = 8_000_000
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frames[index]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _write_clip(
    folder: Path, split: str, index: int, options: ClipSet, seed: int
) -> list[dict[str, Any]]:
    rng = _rng(seed, split, "clip", index)
    kind = None
    if options.kinds != CLIP_KINDS:
        kind = options.kinds[int(rng.integers(len(options.kinds)))]
    clip = sample_clip(rng, kind, num_frames=options.num_frames)
    name = f"clips/{split}-{index:06d}.mp4"
    frames = draw_clip(clip, frame_times(FRAMES_PER_CLIP), PICTURE_SIZE)
    encode_clip(folder / name, frames)
    # The frames of the file that `num_frames` evenly spread ones are, which need not lie at even times.
    shown = np.linspace(0, FRAMES_PER_CLIP - 1, options.num_frames).round()
    times = [float(frame) / (FRAMES_PER_CLIP - 1) for frame in shown]
    dialogues = sample_clip_dialogues(rng, clip, options.questions_per_clip, times=times)
    identifier = f"{split}-clip-{index:06d}"
    if split == "train":
        return [
            llava_record(f"{identifier}-{part}", "video", name, turns, kind=clip.kind)
            for part, turns in enumerate(join_turns(dialogues, options.questions_per_record))
        ]
    return [
        llava_record(
            f"{identifier}-{part}",
            "video",
            name,
            [(first.question, first.answer)],
            kind=first.kind,
            reversed_answer=first.reversed_answer,
        )
        for part, (first, *_) in enumerate(dialogues)
    ]


def _write_picture(
    folder: Path, split: str, index: int, options: ClipSet, seed: int, fonts: Sequence[str]
) -> list[dict[str, Any]]:
    rng = _rng(seed, split, "picture", index)
    mix = _PICTURES if fonts else _PICTURES_WITHOUT_WRITING
    scene = sample_scene(rng, mix, num_fonts=max(len(fonts), 1))
    name = f"pictures/{split}-{index:06d}.jpg"
    save_picture(folder / name, draw_scene(scene, PICTURE_SIZE, fonts))
    count = options.questions_per_picture
    dialogues = sample_dialogues(rng, scene, count, overview_rate=0.4, is_focused=True)
    # Descriptions come first there; they would give away what is asked after them.
    dialogues = dialogues[:count][::-1]
    identifier = f"{split}-picture-{index:06d}"
    if split == "train":
        return [
            llava_record(f"{identifier}-{part}", "image", name, turns, kind=scene.kind)
            for part, turns in enumerate(join_turns(dialogues, options.questions_per_record))
        ]
    return [
        llava_record(
            f"{identifier}-{part}", "image", name, [(first.question, first.answer)], kind=first.kind
        )
        for part, (first, *_) in enumerate(dialogues)
    ]


def _rng(seed: int, split: str, what: str, index: int) -> np.random.Generator:
    """A stream of its own for every file, so that none depends on how many there are."""
    key = [_SEED, seed, _SPLITS.index(split), ("clip", "picture", "order").index(what), index]
    return np.random.default_rng(key)
