"""Put nano's tables into README.md and its model card.

Run with `python benchmarks/fill_nano_table.py` after `fastvlm eval nano --json benchmarks/nano_eval.json` and
`fastvlm eval nano-video --json benchmarks/nano_video_eval.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastvlm.evaluate.nano import markdown_table
from fastvlm.evaluate.nano_video import video_markdown_table

ROOT = Path(__file__).parent.parent
END = "<!-- end -->"


def main() -> None:
    """Rewrite what stands between the marks."""
    fill("nano", ROOT / "benchmarks/nano_eval.json", markdown_table)
    fill("nano-video", ROOT / "benchmarks/nano_video_eval.json", video_markdown_table)


def fill(name: str, report: Path, render: Callable[[dict[str, Any]], str]) -> None:
    """Render a report into both documents."""
    start = f"<!-- table: {name} -->\n"
    table = render(json.loads(report.read_text(encoding="utf-8")))
    for path in (ROOT / "README.md", ROOT / "src/fastvlm/assets/nano/MODEL_CARD.md"):
        text = path.read_text(encoding="utf-8")
        before, mark, rest = text.partition(start)
        _, end, after = rest.partition(END)
        if not mark or not end:
            raise SystemExit(f"{path} has no {start.strip()} ... {END}")
        path.write_text(before + mark + table + end + after, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
