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
    files = sorted(folder.glob("latency-*.json"))
    if not files:
        raise ConfigError(
            f"{folder} holds no latency-*.json; run `fastvlm bench latency`, or name another folder"
        )
    return "\n".join(_render_file(path) for path in files)


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


def _render_file(path: Path) -> str:
    try:
        return render_latency(json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is no results file: {error!r}; measure again with `fastvlm bench latency`"
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
    versions = ", ".join(
        f"{name} {machine['packages'][name]}"
        for name in ("torch", "transformers")
        if name in machine["packages"]
    )
    line = (
        f"{result['weights'].capitalize()} weights of {result['weight_file_mib']} MiB; {protocol['image']} of "
        f"{protocol['image_bytes'] / 1e6:.1f} MB; {prompt_tokens} prompt tokens; "
        f"{protocol['num_new_tokens']} new tokens; medians of {protocol['rounds']} processes a system with "
        f"{protocol['answers_per_round']} answers each; {versions}."
    )
    agreement = result["agreement"]
    if agreement:
        verdict = "the same" if agreement["is_equal"] else "NOT the same"
        line += f" In float32 all systems give {verdict} {agreement['num_tokens']} greedy tokens."
    return line


def _mib(value: int | None) -> str:
    return "-" if value is None else f"{value} MiB"
