"""pixel_values equal those of the reference pipelines, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fastvlm.config import ImageMode
from fastvlm.processing.image import ImageProcessor

clip = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
llava_next = pytest.importorskip("transformers.models.llava_next.image_processing_pil_llava_next")
pytestmark = pytest.mark.oracle

IMAGE_SIZE = 256
SIZES = [
    (256, 256),
    (400, 300),
    (300, 400),
    (301, 299),
    (97, 530),
    (530, 97),
    (1023, 640),
    (64, 1500),
    (1500, 9),
    (7, 5),
    (5, 7),
]


def picture(width: int, height: int) -> Image.Image:
    """Noise upon a slope, so that every pixel and every rounding counts."""
    rng = np.random.default_rng(width * 10_000 + height)
    slope = np.linspace(0, 200, width * height * 3).reshape(height, width, 3)
    return Image.fromarray((slope + rng.integers(0, 56, slope.shape)).astype(np.uint8))


def expand_to_square(image: Image.Image) -> Image.Image:
    """Apple's padding, as llava/mm_utils.py describes it: floor of half the difference, black."""
    side = max(image.size)
    square = Image.new(image.mode, (side, side), (0, 0, 0))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def reference(image: Image.Image, image_size: int) -> np.ndarray:
    """The processor that mobileclip_encoder.py builds."""
    processor = clip.CLIPImageProcessorPil(
        size={"shortest_edge": image_size},
        crop_size={"height": image_size, "width": image_size},
        image_mean=[0.0, 0.0, 0.0],
        image_std=[1.0, 1.0, 1.0],
    )
    return processor(images=image, return_tensors="np")["pixel_values"]


@pytest.mark.parametrize("size", SIZES)
def test_pad_equals_apples_pipeline(size: tuple[int, int]) -> None:
    image = picture(*size)
    pixel_values = ImageProcessor("pad", IMAGE_SIZE)(image)
    np.testing.assert_array_equal(pixel_values, reference(expand_to_square(image), IMAGE_SIZE))


@pytest.mark.parametrize("image_size", [64, 100, 333, 1024, 2048])
def test_pad_equals_apples_pipeline_at_any_image_size(image_size: int) -> None:
    image = picture(500, 700)
    pixel_values = ImageProcessor("pad", image_size)(image)
    np.testing.assert_array_equal(pixel_values, reference(expand_to_square(image), image_size))


@pytest.mark.parametrize("size", SIZES)
def test_crop_equals_the_transformers_processor(size: tuple[int, int]) -> None:
    image = picture(*size)
    pixel_values = ImageProcessor("crop", IMAGE_SIZE)(image)
    np.testing.assert_array_equal(pixel_values, reference(image, IMAGE_SIZE))


def test_crop_is_close_to_the_torchvision_processor() -> None:
    """That back end rounds elsewhere while resizing; two levels of 255 are the largest measured distance."""
    torchvision_clip = pytest.importorskip("transformers.models.clip.image_processing_clip")
    image = Image.fromarray(
        np.asarray(picture(40, 30).resize((400, 300), Image.Resampling.BICUBIC))
    )
    processor = torchvision_clip.CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.0, 0.0, 0.0],
        image_std=[1.0, 1.0, 1.0],
    )
    expected = processor(images=image, return_tensors="pt")["pixel_values"].numpy()
    pixel_values = ImageProcessor("crop", IMAGE_SIZE)(image)
    np.testing.assert_allclose(pixel_values, expected, atol=2 / 255, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_anyres_equals_llava_next(size: tuple[int, int]) -> None:
    grids = ((512, 256), (256, 512), (512, 512), (768, 256))
    image = picture(*size)
    processor = llava_next.LlavaNextImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_grid_pinpoints=[[height, width] for width, height in grids],
        image_mean=[0.0, 0.0, 0.0],
        image_std=[1.0, 1.0, 1.0],
    )
    expected = processor(images=image, return_tensors="np")["pixel_values"][0]
    pixel_values = ImageProcessor("anyres", IMAGE_SIZE, grids)(image)
    np.testing.assert_array_equal(pixel_values, expected)


@pytest.mark.parametrize("mode", ["pad", "crop"])
def test_pixels_are_the_references_for_all_256_levels(mode: ImageMode) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(4, 0).repeat(4, 1)
    image = Image.fromarray(np.stack([levels, levels[::-1], levels.T], axis=2))
    pixel_values = ImageProcessor(mode, 64)(image)
    np.testing.assert_array_equal(pixel_values, reference(image, 64))
