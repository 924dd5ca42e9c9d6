"""The interval in which a share lies, given how often it was seen."""

from __future__ import annotations

import math
from typing import Final

_Z_95: Final = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""


def wilson_interval(num_correct: int, num_total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; (0, 1) when nothing was asked.

    Source: E. B. Wilson, JASA 22 (1927). Unlike the usual interval it stays within 0..1 and has a width at
    0 and 1.

    Raises:
        ValueError: more correct than asked, or a negative number.
    """
    if not 0 <= num_correct <= num_total:
        raise ValueError(f"{num_correct} correct of {num_total}; expected 0 <= correct <= total")
    if num_total == 0:
        return 0.0, 1.0
    share, z2 = num_correct / num_total, _Z_95**2
    centre = (share + z2 / (2 * num_total)) / (1 + z2 / num_total)
    half = (
        _Z_95
        / (1 + z2 / num_total)
        * math.sqrt(share * (1 - share) / num_total + z2 / (4 * num_total**2))
    )
    return max(0.0, centre - half), min(1.0, centre + half)
