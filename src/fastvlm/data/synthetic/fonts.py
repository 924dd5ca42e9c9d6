"""Fonts for drawn characters: those seen in training, and others that only evaluation uses.

Fonts are not shipped. Training takes them from Debian packages; evaluation always has the one inside Pillow
(Aileron) and adds what it finds installed.
"""

from __future__ import annotations

from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import ImageFont

from fastvlm.errors import ConfigError

TRAINING_PACKAGES: Final = (
    "fonts-cabin",
    "fonts-cantarell",
    "fonts-comfortaa",
    "fonts-crosextra-caladea",
    "fonts-crosextra-carlito",
    "fonts-dejavu-core",
    "fonts-dosis",
    "fonts-ebgaramond",
    "fonts-firacode",
    "fonts-freefont-ttf",
    "fonts-inconsolata",
    "fonts-lato",
    "fonts-liberation",
    "fonts-linuxlibertine",
    "fonts-open-sans",
    "fonts-quicksand",
    "fonts-urw-base35",
)
"""Debian and Ubuntu packages that hold the training fonts."""

_TRAINING: Final = (
    "opentype/cabin/Cabin-Regular.otf",
    "opentype/cabin/Cabin-Bold.otf",
    "opentype/cantarell/Cantarell-Regular.otf",
    "opentype/cantarell/Cantarell-ExtraBold.otf",
    "opentype/dosis/Dosis-SemiBold.otf",
    "opentype/ebgaramond/EBGaramond12-Regular.otf",
    "opentype/ebgaramond/EBGaramond12-Bold.otf",
    "opentype/linux-libertine/LinLibertine_R.otf",
    "opentype/linux-libertine/LinLibertine_RB.otf",
    "opentype/linux-libertine/LinBiolinum_R.otf",
    "opentype/urw-base35/C059-Roman.otf",
    "opentype/urw-base35/C059-Bold.otf",
    "opentype/urw-base35/NimbusSans-Regular.otf",
    "opentype/urw-base35/NimbusSans-Bold.otf",
    "opentype/urw-base35/NimbusMonoPS-Bold.otf",
    "opentype/urw-base35/P052-Roman.otf",
    "opentype/urw-base35/URWBookman-Demi.otf",
    "opentype/urw-base35/URWGothic-Demi.otf",
    "truetype/comfortaa/Comfortaa-Bold.ttf",
    "truetype/crosextra/Caladea-Regular.ttf",
    "truetype/crosextra/Caladea-Bold.ttf",
    "truetype/crosextra/Carlito-Regular.ttf",
    "truetype/crosextra/Carlito-Bold.ttf",
    "truetype/dejavu/DejaVuSans.ttf",
    "truetype/dejavu/DejaVuSans-Bold.ttf",
    "truetype/dejavu/DejaVuSerif.ttf",
    "truetype/dejavu/DejaVuSansMono-Bold.ttf",
    "truetype/firacode/FiraCode-Regular.ttf",
    "truetype/firacode/FiraCode-SemiBold.ttf",
    "truetype/freefont/FreeSansBold.ttf",
    "truetype/freefont/FreeSerif.ttf",
    "truetype/freefont/FreeMonoBold.ttf",
    "truetype/inconsolata/Inconsolata.otf",
    "truetype/lato/Lato-Regular.ttf",
    "truetype/lato/Lato-Black.ttf",
    "truetype/lato/Lato-BoldItalic.ttf",
    "truetype/liberation/LiberationSans-Regular.ttf",
    "truetype/liberation/LiberationSans-Bold.ttf",
    "truetype/liberation/LiberationSerif-Regular.ttf",
    "truetype/liberation/LiberationSerif-Bold.ttf",
    "truetype/liberation/LiberationMono-Bold.ttf",
    "truetype/open-sans/OpenSans-Regular.ttf",
    "truetype/open-sans/OpenSans-ExtraBold.ttf",
    "truetype/quicksand/Quicksand-Bold.ttf",
)
_HELD_OUT: Final = (
    "truetype/hack/Hack-Regular.ttf",
    "truetype/hack/Hack-Bold.ttf",
    "truetype/noto/NotoSans-Regular.ttf",
    "truetype/noto/NotoSans-Bold.ttf",
    "truetype/noto/NotoSerif-Regular.ttf",
    "truetype/roboto/unhinted/RobotoTTF/Roboto-Regular.ttf",
    "truetype/roboto/unhinted/RobotoTTF/Roboto-Bold.ttf",
)
_ROOT: Final = Path("/usr/share/fonts")
BUILT_IN: Final = "Aileron (in Pillow)"

NUM_TRAINING_FONTS: Final = len(_TRAINING)


def training_fonts() -> tuple[str, ...]:
    """Files of the fonts that training draws with, always all of them, so that a seed means one picture.

    Raises:
        ConfigError: a font is not installed; names the packages to install.
    """
    missing = [name for name in _TRAINING if not (_ROOT / name).is_file()]
    if missing:
        raise ConfigError(
            f"{len(missing)} of {len(_TRAINING)} training fonts are not in {_ROOT}, e.g. {missing[0]}; "
            f"on Debian or Ubuntu run: apt-get install {' '.join(TRAINING_PACKAGES)}"
        )
    return tuple(str(_ROOT / name) for name in _TRAINING)


def held_out_fonts() -> tuple[str, ...]:
    """Fonts that no training picture shows: the one inside Pillow, and others where they are installed."""
    installed = (str(_ROOT / name) for name in _HELD_OUT if (_ROOT / name).is_file())
    return (BUILT_IN, *installed)


def font_bytes(name: str) -> bytes:
    """The font file itself, for renderers that load fonts on their own."""
    if name != BUILT_IN:
        return Path(name).read_bytes()
    font = ImageFont.load_default(16)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ConfigError(
            "this Pillow was built without FreeType; install a regular wheel of Pillow"
        )
    return font.font_bytes


@cache
def open_font(name: str, pixels: int) -> ImageFont.FreeTypeFont:
    """A font at a size in pixels an em."""
    return ImageFont.truetype(BytesIO(font_bytes(name)) if name == BUILT_IN else name, pixels)
