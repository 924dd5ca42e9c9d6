"""Results files and the tables made from them: every published figure comes from a file in `benchmarks/`."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from fastvlm.errors import ConfigError

RESULTS_FOLDER: Final = Path("benchmarks")

_Cell = Callable[[Mapping[str, Any]], str]
_COLUMNS: Final[tuple[tuple[str, _Cell], ...]] = (
    ("system", lambda s: s["name"]),
    ("weights", lambda s: s["dtype"]),
    ("load", lambda s: f"{s['load_s']:.2f} s"),
    ("peak memory", lambda s: _mib(s["peak_rss_mib"])),
    ("TTFT", lambda s: f"{s['ttft_ms'] / 1000:.2f} s"),
    (
        "= preprocess + vision + prefill",
        lambda s: " + ".join(
            f"{s[name] / 1000:.2f}" for name in ("preprocess_ms", "vision_ms", "prefill_ms")
        ),
    ),
    ("TPS", lambda s: f"{s['tokens_per_second']:.1f}"),
)
_DEVICE_COLUMN: Final[tuple[str, _Cell]] = (
    "peak GPU memory",
    lambda s: _mib(s["peak_device_mib"]),
)


_TRAINED: Final = {"full": "all weights", "lora": "LoRA and projector"}


def result_name(result: Mapping[str, Any]) -> str:
    """The name of the file that a result belongs in, e.g. `latency-0.5b-cpu.json`."""
    return f"{result['benchmark']}-{result['model']}-{result['device']}.json"


def write_result(result: Mapping[str, Any], path: Path) -> None:
    """Write a results file whole or not at all.

    Raises:
        ConfigError: the place cannot be written.
    """
    staging = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            staging.write_text(text, "utf-8", newline="\n")
            staging.replace(path)
        finally:
            staging.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error


def render_tables(folder: Path) -> str:
    """Markdown of all results in a folder: for each a heading, the table, ratios, and how it was measured.

    Raises:
        ConfigError: no results there, or a damaged file.
    """
    files = [(path, kind) for kind in _RENDERERS for path in sorted(folder.glob(f"{kind}-*.json"))]
    if not files:
        raise ConfigError(
            f"{folder} holds no latency-*.json and no train-*.json; run `fastvlm bench latency` or "
            "`fastvlm bench train`, or name another folder"
        )
    return "\n".join(_render_file(path, kind) for path, kind in files)


def render_latency(result: Mapping[str, Any]) -> str:
    """Markdown of one result."""
    systems = list(result["systems"].values())
    columns = _COLUMNS
    if any(system["peak_device_mib"] for system in systems):
        columns = (*columns, _DEVICE_COLUMN)
    lines = [f"**FastVLM {result['model']}, {_where(result)}**", ""]
    lines += ["| " + " | ".join(heading for heading, _ in columns) + " |"]
    lines += ["|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(system) for _, cell in columns) + " |" for system in systems]
    lines += ["", *_ratio_lines(result), _protocol_line(result), ""]
    return "\n".join(lines)


def render_training(result: Mapping[str, Any]) -> str:
    """Markdown of one result of `fastvlm bench train`."""
    lines = [f"**Tuning FastVLM {result['model']}, {_where(result)}**", ""]
    lines += [
        "| trained | system | parameters trained | time of a step | peak memory | process, with saving |",
        "|---|---|---:|---:|---:|---:|",
    ]
    comparisons = []
    for variant, measured in result["variants"].items():
        for system in measured["systems"].values():
            cells = (
                _TRAINED[variant],
                system["name"],
                f"{system['num_trained'] / 1e6:.1f} M",
                f"{system['seconds_per_step']:.2f} s",
                _mib(system["peak_mib"]),
                _mib(system["peak_process_mib"]),
            )
            lines.append("| " + " | ".join(cells) + " |")
        if measured["ratios"]:
            comparisons.append(_training_comparison(variant, measured))
    lines += ["", *comparisons, *([""] if comparisons else []), _training_protocol(result), ""]
    return "\n".join(lines)


def _training_comparison(variant: str, measured: Mapping[str, Any]) -> str:
    ratios, agreement = measured["ratios"], measured["agreement"]
    parts = [f"time of a step {ratios['seconds_per_step']:.2f}x"]
    if "peak_mib" in ratios:
        parts.append(f"peak memory {ratios['peak_mib']:.2f}x")
    verdict = "the same" if agreement["is_equal"] else "NOT the same"
    return (
        f"- {_TRAINED[variant]}, `fastvlm` / `transformers`: {', '.join(parts)}; {verdict} parameters and "
        f"first loss (difference {agreement['first_loss_difference']:.1e})"
    )


def _training_protocol(result: Mapping[str, Any]) -> str:
    protocol = result["protocol"]
    again = "with" if protocol["has_checkpointing"] else "without"
    return (
        f"{result['weights'].capitalize()} weights of {result['weight_file_mib']} MiB; batches of "
        f"{protocol['batch_size']}, each sample one picture of {protocol['image_size']} px in "
        f"{protocol['num_tokens']} tokens, {protocol['num_targets']} of them learned; {protocol['precision']}, "
        f"{again} gradient checkpointing; AdamW; medians of {protocol['num_steps'] - 1} steps after the first; "
        f"{_versions(result['machine'])}."
    )


def _render_file(path: Path, kind: str) -> str:
    try:
        return _RENDERERS[kind](json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is no results file: {error!r}; measure again with `fastvlm bench {kind}`"
        ) from error


def _where(result: Mapping[str, Any]) -> str:
    machine, threads = result["machine"], result["protocol"]["threads"]
    place = machine.get("gpu") or machine["cpu"]
    return f"{place}, {threads} thread{'s' if threads > 1 else ''}, {machine['date']}"


def _ratio_lines(result: Mapping[str, Any]) -> list[str]:
    """Our first system beside all others, and each further one beside those of its own dtype."""
    dtypes = {name: system["dtype"] for name, system in result["systems"].items()}
    lines = []
    for index, (ours, others) in enumerate(result["ratios"].items()):
        for theirs, ratio in others.items():
            if index and dtypes[ours] != dtypes[theirs]:
                continue
            parts = [
                f"{label} {ratio[name]:.2f}x"
                for label, name in (
                    ("TTFT", "ttft_ms"),
                    ("TPS", "tokens_per_second"),
                    ("load", "load_s"),
                    ("peak memory", "peak_rss_mib"),
                )
                if name in ratio
            ]
            lines.append(f"- `{ours}` / `{theirs}`: {', '.join(parts)}")
    if lines:
        lines.append("")
    return lines


def _protocol_line(result: Mapping[str, Any]) -> str:
    protocol, machine = result["protocol"], result["machine"]
    prompt_tokens = max(system["num_prompt_tokens"] for system in result["systems"].values())
    line = (
        f"{result['weights'].capitalize()} weights of {result['weight_file_mib']} MiB; {protocol['image']} of "
        f"{protocol['image_bytes'] / 1e6:.1f} MB; {prompt_tokens} prompt tokens; "
        f"{protocol['num_new_tokens']} new tokens; medians of {protocol['rounds']} processes a system with "
        f"{protocol['answers_per_round']} answers each; {_versions(machine)}."
    )
    agreement = result["agreement"]
    if agreement:
        verdict = "the same" if agreement["is_equal"] else "NOT the same"
        line += f" In float32 all systems give {verdict} {agreement['num_tokens']} greedy tokens."
    return line


def _versions(machine: Mapping[str, Any]) -> str:
    packages = machine["packages"]
    return ", ".join(
        f"{name} {packages[name]}" for name in ("torch", "transformers") if name in packages
    )


def _mib(value: int | None) -> str:
    return "-" if value is None else f"{value} MiB"


_RENDERERS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "latency": render_latency,
    "train": render_training,
}
