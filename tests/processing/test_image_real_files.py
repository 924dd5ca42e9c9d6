"""Real pictures, and files that break loaders. They lie outside the repository, in FASTVLM_TEST_DATA/real."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from fastvlm.errors import MediaError
from fastvlm.processing.image import ImageProcessor
from fastvlm.processing.image_file import open_image

ROOT = Path(os.environ.get("FASTVLM_TEST_DATA", "")) / "real"
pytestmark = pytest.mark.skipif(
    "FASTVLM_TEST_DATA" not in os.environ or not ROOT.is_dir(),
    reason="FASTVLM_TEST_DATA names no folder with real/images, charts, receipts and odd",
)

REFUSED = {
    "gen_bomb_900mp.png": r"30000 x 30000 pixels exceed",
    "gen_lying_header.png": r"2000000000 x 2000000000 pixels exceed",
    "gen_minimal.pdf": r"is a PDF document",
    "gen_truncated.png": r"the PNG file is damaged or cut short",
    "gen_truncated_half.jpg": r"the JPEG file is damaged or cut short",
    "gen_vector.svg": r"is an SVG drawing",
    "gen_warn_100mp.png": r"10000 x 10000 = 100\.0 million pixels exceed",
    "gen_zero_byte.jpg": r"is empty \(0 bytes\)",
    "pillow_broken_data_stream.png": r"the PNG file is damaged or cut short",
    "pillow_decompression_bomb.gif": r"65535 x 66601 pixels exceed",
}
"""Every other file of `odd` is a picture."""

PEAK_LIMIT_MB = 1500


def pictures(*folders: str) -> list[Path]:
    found = (path for folder in folders for path in sorted((ROOT / folder).glob("*")))
    return [path for path in found if path.suffix not in (".json", ".jsonl")]


def colour(name: str, x: int, y: int) -> tuple[int, ...]:
    pixel = open_image(ROOT / "odd" / name).getpixel((x, y))
    assert isinstance(pixel, tuple)
    return tuple(int(level) for level in pixel)


@pytest.mark.parametrize(
    "path", pictures("images", "charts", "receipts"), ids=lambda path: path.name
)
def test_real_pictures_become_pixel_values(path: Path) -> None:
    image = open_image(path)
    with Image.open(path) as file:
        upright = ImageOps.exif_transpose(file)
        if not upright.has_transparency_data:
            np.testing.assert_array_equal(np.asarray(image), np.asarray(upright.convert("RGB")))
    pixel_values = ImageProcessor("pad", 256)(image)
    assert pixel_values.shape == (1, 3, 256, 256)
    assert pixel_values.max() > 0.5


@pytest.mark.parametrize("path", pictures("odd"), ids=lambda path: path.name)
def test_odd_files_give_a_picture_or_one_clear_line(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if path.name in REFUSED:
        with pytest.raises(
            MediaError, match=f"^{re.escape(str(path))}: {REFUSED[path.name]}"
        ) as caught:
            open_image(path)
        assert "\n" not in str(caught.value)
    else:
        image = open_image(path)
        assert image.mode == "RGB"
        assert ImageProcessor("pad", 256)(image).shape == (1, 3, 256, 256)
    assert capfd.readouterr() == ("", "")


def test_nothing_hidden_appears_and_nothing_shown_is_lost() -> None:
    assert colour("gen_rgba_hidden_colour.png", 0, 0) == (255, 255, 255)
    assert colour("pillow_i_trns.png", 32, 32) == (255, 255, 255)
    assert colour("pillow_avif_transparency.avif", 32, 30) == (255, 255, 255)
    assert colour("gen_animated.png", 9, 9) == (255, 0, 0)
    for name in ("gen_gray16.png", "gen_float32.tif"):
        levels = np.asarray(open_image(ROOT / "odd" / name))
        assert levels.min() <= 4, name
        assert 100 < levels.mean() < 156, name
        assert levels.max() >= 251, name


def test_turned_pictures_are_upright() -> None:
    odd = ROOT / "odd"
    three, six, eight = (
        np.asarray(open_image(odd / f"pillow_hopper_orientation_{turn}.jpg"), np.int16)
        for turn in (3, 6, 8)
    )
    assert np.abs(three - six).mean() < 8
    assert np.abs(three - eight).mean() < 8
    assert open_image(odd / "pillow_avif_rot3mir1.avif").size == (640, 427)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs /proc for the peak memory"
)
def test_memory_stays_bounded_over_all_odd_files() -> None:
    program = f"""
import pathlib, re, sys
from fastvlm.errors import MediaError
from fastvlm.processing.image import ImageProcessor
from fastvlm.processing.image_file import open_image

def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1024

before = peak_mb()
for path in sys.argv[1:]:
    try:
        ImageProcessor()(open_image(path))
    except MediaError:
        pass
assert peak_mb() - before < {PEAK_LIMIT_MB}, peak_mb() - before
"""
    command = [sys.executable, "-W", "error", "-c", program, *map(str, pictures("odd"))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
