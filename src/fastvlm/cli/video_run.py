"""One run of `fastvlm video`: lines, records and subtitles as answers come, files whole at the end."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvlm.cli.clip_questions import ClipReader
from fastvlm.cli.clips import VIDEO_WORDS, read_clip, spelled
from fastvlm.cli.session import figures, note, write_piece
from fastvlm.cli.subtitles import Cue, merge_equal, timecode, to_srt, to_vtt
from fastvlm.errors import ContextLengthError, FastVLMError, MediaError
from fastvlm.processing.video import VideoLimits

if TYPE_CHECKING:
    from fastvlm.cli.clip_questions import ClipQuestion, Reply
    from fastvlm.engine import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoRun:
    """One command: the same question about each clip."""

    engine: Engine
    question: ClipQuestion
    outputs: dict[str, str]
    merges: bool
    has_stats: bool
    is_quiet: bool
    is_streaming: bool
    done: list[tuple[str, Reply | str]] = field(default_factory=list)
    """Clips by name, each with an answer or what was wrong with it; what Ctrl-C leaves is whole."""

    def all(self, names: Sequence[str]) -> int:
        """Ask about every clip and write the files, also after Ctrl-C; returns the exit code."""
        codes: list[int] = []
        try:
            for name in names:
                if len(names) > 1 and not self.is_quiet:
                    note(f"== {name} ==")
                codes.append(self._one(name))
                if codes[-1] == 130:
                    break
        except KeyboardInterrupt:
            codes.append(130)
        finally:
            self._save()
        if 130 in codes:
            return 130
        return 3 if any(codes) and not all(codes) else max(codes)

    def _one(self, name: str) -> int:
        try:
            source = read_clip(name, self.engine.processor.video_limits or VideoLimits())
            reader = ClipReader(
                self.engine,
                self.question,
                source,
                needs_end=bool(self.outputs),
                is_quiet=self.is_quiet,
            )
            return self._ask(reader, name)
        except (MediaError, ContextLengthError) as error:
            self._report(error, name)
            return 2

    def _ask(self, reader: ClipReader, name: str) -> int:
        is_text = "-" not in self.outputs.values()
        streams = is_text and self.is_streaming and self.question.is_one_answer
        shown: str | None = None
        shows_bar = not self.question.is_one_answer and not self.is_quiet
        with _progress(reader.span_s, is_shown=shows_bar) as advance:
            for reply in reader.replies(write_piece if streams else None):
                text, is_whole = reply.answer.text, reply.answer.finish_reason != "cancelled"
                if is_whole:
                    self.done.append((name, reply))
                if streams:
                    write_piece("\n")
                elif is_text and is_whole and not (self.merges and text == shown):
                    write_piece(f"{self._line(reply)}\n")
                elif is_whole and self.outputs.get("jsonl") == "-":
                    write_piece(self._record(name, reply))
                shown = text
                if self.has_stats:
                    note(f"{self._token_line(reply)}; {figures(reply.answer)}")
                if not is_whole:
                    return 130
                advance(reply.end_s)
        return 0

    def _line(self, reply: Reply) -> str:
        """An answer as a line with its time; one about the whole clip alone; when merging, its end is not known yet."""
        if self.question.is_one_answer:
            return reply.answer.text
        text = " ".join(reply.answer.text.split())
        begin = timecode(reply.start_s, num_digits=1)
        if self.question.mode == "per-frame" or self.merges:
            return f"{begin}  {text}"
        return f"{begin} - {timecode(reply.end_s, num_digits=1)}  {text}"

    def _token_line(self, reply: Reply) -> str:
        usage, num_frames = reply.answer.usage, len(reply.times_s)
        return (
            f"{num_frames} {'frame' if num_frames == 1 else 'frames'} x {reply.frame_tokens} tokens + "
            f"{usage.prompt_tokens - usage.image_tokens} of text = {usage.prompt_tokens} "
            f"of max_length {self.engine.config.max_length}"
        )

    def _report(self, error: FastVLMError, name: str) -> None:
        message = spelled(str(error), VIDEO_WORDS, name=name)
        if isinstance(error, ContextLengthError):
            message = f"{name}: {message}"
        note(f"error: {message}")
        self.done.append((name, message))
        if self.outputs.get("jsonl") == "-":
            write_piece(self._record(name, message))

    def _record(self, name: str, result: Reply | str) -> str:
        """A line of JSON about an answer, or about what was wrong with a clip."""
        record: dict[str, Any] = {"input": name}
        if isinstance(result, str):
            record["error"] = result
        else:
            answer = result.answer
            timings = asdict(answer.timings) | {
                "tokens_per_second": answer.timings.tokens_per_second
            }
            record |= {
                "start_s": round(result.start_s, 3),
                "end_s": round(result.end_s, 3),
                "text": answer.text,
                "finish_reason": answer.finish_reason,
                "frame_times_s": [round(time_s, 3) for time_s in result.times_s],
                "usage": asdict(answer.usage) | {"total_tokens": answer.usage.total_tokens},
                "timings": {key: round(value, 2) for key, value in timings.items()},
                "options": self._options(),
                "error": None,
            }
        return json.dumps(record, ensure_ascii=False) + "\n"

    def _options(self) -> dict[str, Any]:
        question = self.question
        return {
            "prompt": question.prompt,
            "system": question.system,
            "mode": question.mode,
            **asdict(question.video),
            "frame_size": self.engine.config.image_size,
            "has_keyframes": question.has_keyframes,
            "window_s": question.window_s,
            "stride_s": question.stride_s,
            **question.keywords,
        }

    def _save(self) -> None:
        replies = [result for _, result in self.done if not isinstance(result, str)]
        cues = [Cue(reply.start_s, reply.end_s, reply.answer.text) for reply in replies]
        cues = merge_equal(cues) if self.merges else cues
        for kind, name in self.outputs.items():
            if kind == "jsonl":
                lines = [self._record(*one) for one in self.done]
                text, number = "".join(lines), f"{len(lines)} records"
            else:
                text = to_srt(cues) if kind == "srt" else to_vtt(cues)
                number = f"{len(cues)} cues"
            if name == "-":
                write_piece(text if kind != "jsonl" else "")  # its lines are there already
            elif replies:  # without any, an earlier file stays
                _write_whole(Path(name), text)
                if not self.is_quiet:
                    note(f"{name}: {number}")


def _write_whole(path: Path, text: str) -> None:
    """Write a file beside its place and rename it into it, so that it is never half there."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def _progress(span_s: tuple[float, float], *, is_shown: bool) -> Iterator[Callable[[float], None]]:
    """A bar over the time of the clip, on stderr if that is a terminal; takes how far the answers reach."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    start_s, end_s = span_s
    if not is_shown or not console.is_terminal or math.isinf(end_s):
        yield lambda _: None
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TimeRemainingColumn(),
        console=console,
        redirect_stdout=sys.stdout.isatty(),  # piped answers stay out of the terminal
        transient=True,
    )
    until = timecode(end_s, num_digits=1)
    with bar:
        task = bar.add_task(f"{timecode(start_s, num_digits=1)} of {until}", total=end_s - start_s)
        yield lambda reached_s: bar.update(
            task,
            completed=reached_s - start_s,
            description=f"{timecode(reached_s, num_digits=1)} of {until}",
        )
