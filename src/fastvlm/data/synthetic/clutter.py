"""Pictures outside the world: what photographs and clutter look like to a statistic, without being any.

Dead leaves (things that cover each other, with shading and texture), noise whose power falls with
frequency, and soft light are the usual models of natural pictures; the rest is plain clutter. Two
generators are kept for evaluation: the model must decline what it has not seen in training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Picture = NDArray[np.uint8]


def draw_clutter(rng: np.random.Generator, size: int) -> Picture:
    """One picture to decline, [size, size, 3] RGB, by a generator used in training."""
    return _draw(rng, size, TRAINING_GENERATORS)


def draw_held_out_clutter(rng: np.random.Generator, size: int) -> Picture:
    """One picture to decline, by a generator that no training picture came from."""
    return _draw(rng, size, HELD_OUT_GENERATORS)


def _draw(
    rng: np.random.Generator,
    size: int,
    generators: tuple[Callable[[np.random.Generator, int], Picture], ...],
) -> Picture:
    pixels = generators[int(rng.integers(len(generators)))](rng, size)
    if rng.random() < 0.25:
        pixels = _with_bars(rng, pixels)
    elif rng.random() < 0.3:
        blurred = Image.fromarray(pixels).filter(
            ImageFilter.GaussianBlur(float(rng.uniform(0.5, 2)))
        )
        pixels = np.asarray(blurred)
    return pixels


def _with_bars(rng: np.random.Generator, pixels: Picture) -> Picture:
    """Black above and below or on both sides, as image mode `pad` leaves around what is not square."""
    bar = int(len(pixels) * rng.uniform(0.05, 0.25))
    barred = pixels.copy()
    view = barred if rng.random() < 0.5 else barred.transpose(1, 0, 2)
    view[:bar] = view[len(view) - bar :] = 0
    return barred


def _palette(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Colours that belong together: around one tone, more or less saturated."""
    tone = rng.uniform(0, 255, size=3)
    spread = rng.uniform(15, 110)
    return np.clip(tone + rng.normal(0, spread, size=(count, 3)), 0, 255)


def _power_noise(
    rng: np.random.Generator, size: int, exponent: float, channels: int = 3
) -> NDArray[np.float64]:
    """Noise whose amplitude falls as 1 / f ** exponent, [size, size, channels], mean 0, deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = 1
    shape = (channels, size, size // 2 + 1)
    spectrum = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    field = np.fft.irfft2(spectrum / frequency**exponent, s=(size, size)).transpose(1, 2, 0)
    field -= field.mean()
    return field / (field.std() + 1e-9)


def _soft_noise(rng: np.random.Generator, size: int) -> Picture:
    shared = _power_noise(rng, size, float(rng.uniform(0.9, 1.8)), 1)
    own = _power_noise(rng, size, float(rng.uniform(0.9, 1.8)))
    field = shared * rng.uniform(20, 60) + own * rng.uniform(5, 35) + _palette(rng, 1)
    return _to_picture(field)


def _dead_leaves(rng: np.random.Generator, size: int) -> Picture:
    """Things of all sizes that cover each other, then shading and texture."""
    count = int(rng.integers(30, 140))
    colours = _palette(rng, count).astype(int)
    canvas = Image.new("RGB", (size, size), tuple(int(value) for value in colours[0]))
    pen = ImageDraw.Draw(canvas)
    # Sizes fall as a power, as they do when things stand at all distances.
    radius = size * 0.5 * (1 - rng.random(count)) ** 1.7 * 0.7 + 2
    centres = rng.uniform(-0.1, 1.1, size=(count, 2)) * size
    for (x, y), r, colour in zip(
        centres, np.sort(radius)[::-1] if rng.random() < 0.5 else radius, colours, strict=True
    ):
        fill = (int(colour[0]), int(colour[1]), int(colour[2]))
        if rng.random() < 0.5:
            stretch = rng.uniform(0.3, 1)
            pen.ellipse([x - r, y - r * stretch, x + r, y + r * stretch], fill=fill)
        else:
            turn = np.sort(rng.uniform(0, 2 * np.pi, size=int(rng.integers(3, 8))))
            pen.polygon(
                [(float(x + r * np.cos(t)), float(y + r * np.sin(t))) for t in turn], fill=fill
            )
    light = _power_noise(rng, size, 1.6, 1) * rng.uniform(4, 30)
    texture = _power_noise(rng, size, 0.5, 1) * rng.uniform(0, 14)
    return _to_picture(np.asarray(canvas, dtype=np.float64) + light + texture)


def _horizon(rng: np.random.Generator, size: int) -> Picture:
    """Sky over ground: two tones with soft noise and a rough border."""
    border = size * rng.uniform(0.25, 0.75) + size * rng.uniform(0.01, 0.15) * np.cumsum(
        rng.normal(0, 1, size=size)
    ) / np.sqrt(size)
    below = np.arange(size)[:, None] > border[None, :]
    tones = _palette(rng, 2)
    fall = np.linspace(1.15, 0.75, size)[:, None, None]
    field = np.where(below[..., None], tones[0], tones[1] * fall)
    rough = _power_noise(rng, size, 1.0) * rng.uniform(8, 30)
    return _to_picture(field + np.where(below[..., None], rough, rough * 0.4))


def _scribble(rng: np.random.Generator, size: int) -> Picture:
    """Many lines and arcs of all colours."""
    canvas = Image.new("RGB", (size, size), tuple(int(v) for v in rng.integers(0, 256, size=3)))
    pen = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(25, 90))):
        points = rng.uniform(-0.1, 1.1, size=(int(rng.integers(2, 5)), 2)) * size
        colour = tuple(int(value) for value in rng.integers(0, 256, size=3))
        pen.line(
            [(float(x), float(y)) for x, y in points], fill=colour, width=int(rng.integers(1, 7))
        )
    return np.asarray(canvas)


def _texture(rng: np.random.Generator, size: int) -> Picture:
    """Cloth, stone and static: stripes and checks with noise of a steep or flat spectrum."""
    axis = np.arange(size) / size
    angle = rng.uniform(0, np.pi)
    along = np.cos(angle) * axis[:, None] + np.sin(angle) * axis[None, :]
    waves = np.sin(along * rng.uniform(20, 160) + _power_noise(rng, size, 1.5, 1)[..., 0])
    if rng.random() < 0.4:
        across = -np.sin(angle) * axis[:, None] + np.cos(angle) * axis[None, :]
        waves = waves * np.sin(across * rng.uniform(20, 160))
    tones = _palette(rng, 2)
    mix = (waves[..., None] + 1) / 2
    grain = _power_noise(rng, size, float(rng.uniform(0, 0.8))) * rng.uniform(5, 35)
    return _to_picture(tones[0] * mix + tones[1] * (1 - mix) + grain)


def _crowd(rng: np.random.Generator, size: int) -> Picture:
    """Far more shapes than the world's pictures have, small and covering each other."""
    canvas = Image.new("RGB", (size, size), tuple(int(v) for v in rng.integers(0, 256, size=3)))
    pen = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(40, 160))):
        x, y = rng.uniform(0, 1, size=2) * size
        r = rng.uniform(0.02, 0.13) * size
        colour = tuple(int(value) for value in rng.integers(0, 256, size=3))
        if rng.random() < 0.5:
            pen.ellipse([x - r, y - r, x + r, y + r], fill=colour)
        else:
            pen.rectangle([x - r, y - r * 0.7, x + r, y + r * 0.7], fill=colour)
    return np.asarray(canvas)


def _page(rng: np.random.Generator, size: int) -> Picture:
    """Lines of small marks, as on a printed page, a letter or a screen."""
    is_dark = rng.random() < 0.25
    paper, ink = (int(rng.integers(215, 256)), int(rng.integers(0, 90)))
    if is_dark:
        paper, ink = ink // 2, paper
    canvas = Image.new("RGB", (size, size), (paper, paper, paper))
    pen = ImageDraw.Draw(canvas)
    height = size * rng.uniform(0.025, 0.11)
    pitch = height * rng.uniform(1.4, 2.2)
    y = size * rng.uniform(0.02, 0.3)
    while y < size * rng.uniform(0.6, 1.0):
        x = size * rng.uniform(0.02, 0.1)
        end = size * rng.uniform(0.4, 0.98)
        while x < end:
            for _ in range(int(rng.integers(2, 9))):
                _mark(pen, rng, x, y, height, (ink, ink, ink))
                x += height * rng.uniform(0.45, 0.75)
            x += height * 0.6
        y += pitch
    return np.asarray(canvas)


def _mark(
    pen: ImageDraw.ImageDraw,
    rng: np.random.Generator,
    x: float,
    y: float,
    height: float,
    ink: tuple[int, int, int],
) -> None:
    """Something like a letter, which it is not: two or three short strokes."""
    wide = max(1, round(height * 0.13))
    for _ in range(int(rng.integers(2, 4))):
        ends = rng.uniform(0, 1, size=4)
        pen.line(
            [
                (x + ends[0] * height * 0.5, y + ends[1] * height),
                (x + ends[2] * height * 0.5, y + ends[3] * height),
            ],
            fill=ink,
            width=wide,
        )


def _subject(rng: np.random.Generator, size: int) -> Picture:
    """Something round and shaded before an even ground: a hand, a cup, a face from afar."""
    ground, body = _palette(rng, 1)[0], _palette(rng, 1)[0]
    mask = Image.new("L", (size, size))
    pen = ImageDraw.Draw(mask)
    x, y = rng.uniform(0.3, 0.7, size=2) * size
    for _ in range(int(rng.integers(3, 9))):
        rx, ry = rng.uniform(0.06, 0.3, size=2) * size
        pen.ellipse([x - rx, y - ry, x + rx, y + ry], fill=255)
        x += rng.uniform(-0.22, 0.22) * size
        y += rng.uniform(-0.22, 0.22) * size
    soft = mask.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 2))))
    thick = mask.filter(ImageFilter.GaussianBlur(size * 0.08))
    shape = np.asarray(soft, dtype=np.float64)[..., None] / 255
    depth = np.asarray(thick, dtype=np.float64)[..., None] / 255
    shaded = body * (0.45 + 0.75 * depth) + _power_noise(rng, size, 1.3, 1) * rng.uniform(6, 25)
    around = ground + _power_noise(rng, size, 1.8, 1) * rng.uniform(2, 20)
    grain = rng.normal(0, rng.uniform(0, 6), size=(size, size, 3))
    return _to_picture(around * (1 - shape) + shaded * shape + grain)


def _sign(rng: np.random.Generator, size: int) -> Picture:
    """A board with marks or bands before something rough."""
    field = _soft_noise(rng, size) if rng.random() < 0.6 else _horizon(rng, size)
    canvas = Image.fromarray(field)
    pen = ImageDraw.Draw(canvas)
    left, top = rng.uniform(0.02, 0.3, size=2) * size
    right, bottom = rng.uniform(0.7, 0.98, size=2) * size
    tones = [tuple(int(value) for value in rng.integers(0, 256, size=3)) for _ in range(3)]
    pen.rounded_rectangle([left, top, right, bottom], radius=size * 0.04, fill=tones[0])
    pen.rounded_rectangle(
        [left + 3, top + 3, right - 3, bottom - 3], radius=size * 0.03, outline=tones[1], width=2
    )
    height = (bottom - top) * rng.uniform(0.1, 0.3)
    ink = (int(tones[1][0]), int(tones[1][1]), int(tones[1][2]))
    for line in range(int(rng.integers(1, 4))):
        y = top + (bottom - top) * 0.12 + line * height * 1.4
        x = left + (right - left) * 0.1
        while x < right - height and y < bottom - height:
            _mark(pen, rng, x, y, height, ink)
            x += height * 0.7
    light = _power_noise(rng, size, 1.6, 1) * rng.uniform(3, 20)
    return _to_picture(np.asarray(canvas, dtype=np.float64) + light)


def _mosaic(rng: np.random.Generator, size: int) -> Picture:
    """Cells around random points (Voronoi), shaded."""
    count = int(rng.integers(25, 120))
    points = rng.uniform(0, size, size=(count, 2))
    grid = np.indices((size, size)).transpose(1, 2, 0).reshape(-1, 1, 2)
    nearest = np.square(grid - points[None]).sum(axis=-1).argmin(axis=1)
    field = _palette(rng, count)[nearest].reshape(size, size, 3)
    return _to_picture(field + _power_noise(rng, size, 1.3, 1) * rng.uniform(5, 25))


def _plasma(rng: np.random.Generator, size: int) -> Picture:
    """Sums of warped waves, each channel on its own: marble, water, clouds."""
    axis = np.linspace(0, 1, size)
    x, y = np.meshgrid(axis, axis)
    warp = _power_noise(rng, size, 1.7, 2) * rng.uniform(0.1, 0.6)
    layers = []
    for _ in range(3):
        fx, fy, phase = rng.uniform(-14, 14), rng.uniform(-14, 14), rng.uniform(0, 6)
        layers.append(np.sin(fx * (x + warp[..., 0]) + fy * (y + warp[..., 1]) + phase))
    return _to_picture(_palette(rng, 1) + np.stack(layers, axis=-1) * rng.uniform(30, 90))


def _to_picture(field: NDArray[np.float64]) -> Picture:
    return np.clip(field, 0, 255).astype(np.uint8)


TRAINING_GENERATORS: Final = (
    _soft_noise,
    _dead_leaves,
    _dead_leaves,
    _horizon,
    _scribble,
    _texture,
    _crowd,
    _page,
    _subject,
    _subject,
    _sign,
)
HELD_OUT_GENERATORS: Final = (_mosaic, _plasma)
