"""Records that cannot be used while training: counted and named, and above a limit the end of the run.

A broken record is left out. Another one never takes its place, which would change what a model learns without
a word.
"""

from __future__ import annotations

from typing import Final

from fastvlm.errors import DataError

_NUM_NAMED: Final = 10


class BrokenRecords:
    """Counts broken records and stops when there are too many.

    Args:
        num_records: records of the data set; the limit is a share of them.
        max_fraction: most that may be broken, 0 to 1. 0 stops at the first.
        max_count: most that may be broken, however large the data set is.
    """

    def __init__(
        self, num_records: int, *, max_fraction: float = 0.01, max_count: int = 1000
    ) -> None:
        if not 0 <= max_fraction <= 1 or max_count < 0:
            raise DataError(
                f"the limit of broken records is {max_fraction} or {max_count}; expected a fraction of 0 to 1 "
                "and a count of 0 or more"
            )
        self.num_records = num_records
        self.limit: Final = min(int(max_fraction * num_records), max_count)
        self._reasons: dict[str, str] = {}

    def __len__(self) -> int:
        """Different records; one that is met again in a later epoch counts once."""
        return len(self._reasons)

    @property
    def named(self) -> tuple[str, ...]:
        """The first of them, each with its reason."""
        return tuple(self._reasons.values())[:_NUM_NAMED]

    def add(self, source: str, reason: str) -> None:
        """Count a record.

        Args:
            source: its file and number, as `Record.source` says them.
            reason: why it cannot be used.

        Raises:
            DataError: there are more than the limit allows; the first are named.
        """
        reason = " ".join(reason.split())
        # What the data raises names the record already, what processing raises does not.
        self._reasons.setdefault(
            source, reason if reason.startswith(source) else f"{source}: {reason}"
        )
        if len(self) > self.limit:
            first = "; ".join(self.named[:3])
            raise DataError(
                f"{len(self)} broken records of {self.num_records} are more than the limit of {self.limit}: "
                f"{first}{'; ...' if len(self) > 3 else ''}. See all with `fastvlm data check`, or raise max_broken",
                kind="limit",
            )

    def summary(self) -> str | None:
        """One line for the end of a run; None if there were none."""
        if not self._reasons:
            return None
        return f"{len(self)} broken records of {self.num_records} were left out: {'; '.join(self.named[:3])}"
