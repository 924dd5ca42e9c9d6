"""README.md of a tuned model: what it came from, what it learned from, how it was trained, what changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastvlm.train.record import RunRecord
from fastvlm.train.report.comparison import regression_line


def write_model_card(run: Path, model: Path, record: RunRecord, comparison: dict[str, Any]) -> None:
    """Write the card into the model's folder.

    Args:
        run: folder of the run; its curves are named, not copied.
        model: the finished model.
        record: of the run.
        comparison: metrics before and after; may be empty.
    """
    document = record.document
    lines = [
        f"# {run.name}",
        "",
        f"Tuned from `{document['model']}` with fastvlm {document['fastvlm_version']}, {document['started']}.",
        "The licence of the base model applies to this one too.",
        "",
        "## Data",
        "| file | SHA-256 |",
        "|---|---|",
        *(f"| {Path(one['file']).name} | `{one['sha256']}` |" for one in document["data"]),
        "",
        "## Training",
        f"Pictures: {document['image_mode']}, {document['image_size']} px.",
        "",
    ]
    for name, rows in document["trainable_by_phase"].items():
        lines += [
            f"Phase `{name}`:",
            "",
            "| part | parameters | trained | peak learning rate |",
            "|---|---:|---:|---:|",
            *(
                f"| {row['group']} | {row['parameters']:,} | {row['trained']:,} | {row['learning_rate']:g} |"
                for row in rows
            ),
            "",
        ]
    if comparison:
        lines += ["## Before and after", *_table(comparison), ""]
        if (line := regression_line(comparison)) is not None:
            lines += [line, ""]
    lines += [
        "## Curves",
        f"Loss, metrics and rates of all steps: `log.jsonl` of the run; `fastvlm train report {run.name}` draws them.",
        "",
    ]
    lines += ["## Recipe", "```json", *_recipe(document), "```", ""]
    (model / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _table(comparison: dict[str, Any]) -> list[str]:
    lines = ["| set | n | metric | before | after |", "|---|---:|---|---:|---:|"]
    for name, one in comparison["sets"].items():
        lines += [
            f"| {name} | {one['n']} | {metric} | {value:.3f} | {one['tuned'][metric]:.3f} |"
            for metric, value in one["base"].items()
            if isinstance(value, float) and metric in one["tuned"]
        ]
    return lines


def _recipe(document: dict[str, Any]) -> list[str]:
    import json

    return json.dumps(document["phases"], indent=2).splitlines()
