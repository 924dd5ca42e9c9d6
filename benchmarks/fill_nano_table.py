"""Put the table of `benchmarks/nano_eval.json` into README.md and nano's model card.

Run with `python benchmarks/fill_nano_table.py` after `fastvlm eval nano --json benchmarks/nano_eval.json`.
"""

from __future__ import annotations

import json
from pathlib import Path

from fastvlm.evaluate.nano import markdown_table

ROOT = Path(__file__).parent.parent
START, END = "<!-- table: nano -->\n", "<!-- end -->"


def main() -> None:
    """Rewrite what stands between the marks."""
    report = ROOT / "benchmarks" / "nano_eval.json"
    table = markdown_table(json.loads(report.read_text(encoding="utf-8")))
    for path in (ROOT / "README.md", ROOT / "src/fastvlm/assets/nano/MODEL_CARD.md"):
        text = path.read_text(encoding="utf-8")
        before, mark, rest = text.partition(START)
        _, end, after = rest.partition(END)
        if not mark or not end:
            raise SystemExit(f"{path} has no {START.strip()} ... {END}")
        path.write_text(before + mark + table + end + after, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
