"""Token ids to text while they arrive: each piece is final when it is given out."""

from __future__ import annotations

import codecs

from fastvlm.errors import ConfigError
from fastvlm.processing.tokenizer import Tokenizer


class StreamDecoder:
    """Turns one answer into pieces of text, token by token.

    The pieces joined equal `tokenizer.decode(all ids)`, cut before the stop string that begins earliest.
    Held back until it is certain: a character of which only some bytes have come, and text that could be the
    beginning of a stop string.

    Args:
        tokenizer: gives the bytes of each id.
        stop: texts that end the answer; they are not part of it.

    Raises:
        ConfigError: an empty stop string, which would end every answer at once.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...] = ()) -> None:
        if "" in stop:
            raise ConfigError(
                f"stop strings {stop!r} contain an empty one; expected at least a character"
            )
        self.stopped = False
        """Whether a stop string has ended the answer; what is pushed afterwards is ignored."""
        self._tokenizer = tokenizer
        self._stop = stop
        self._longest_stop = max(map(len, stop), default=0)
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""

    def push(self, token_id: int) -> str:
        """Take the next id; returns the text that has become final, often none."""
        if self.stopped:
            return ""
        self._pending += self._characters.decode(self._tokenizer.token_bytes(token_id))
        return self._release(self._start_of_possible_stop())

    def finish(self) -> str:
        """No more ids will come; returns the text still held back, half a character as U+FFFD."""
        if self.stopped:
            return ""
        self._pending += self._characters.decode(b"", final=True)
        return self._release(len(self._pending))

    def _release(self, certain: int) -> str:
        """Give out the first `certain` characters, or those before a stop string that begins within them."""
        found = [self._pending.find(stop) for stop in self._stop]
        cut = min((start for start in found if start >= 0), default=None)
        if cut is not None and cut <= certain:
            self.stopped = True
            text, self._pending = self._pending[:cut], ""
        else:
            text, self._pending = self._pending[:certain], self._pending[certain:]
        return text

    def _start_of_possible_stop(self) -> int:
        """Where the earliest unfinished stop string at the end of the pending text begins."""
        first = max(0, len(self._pending) - self._longest_stop + 1)
        for start in range(first, len(self._pending)):
            if any(stop.startswith(self._pending[start:]) for stop in self._stop):
                return start
        return len(self._pending)
