"""A run folder as a trainer leaves it, with everything that goes wrong in real ones."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

Events = list[dict[str, Any]]


def log_events(num_steps: int = 120, *, seed: int = 0) -> Events:
    """Three phases whose steps count on, with validations; a spike of nan and inf in the second."""
    rng = np.random.default_rng(seed)
    names = ("frozen", "lora", "full")
    events: Events = []
    for step in range(1, num_steps + 1):
        done = step / num_steps
        phase = names[min(2, 3 * (step - 1) // num_steps)]
        rate = 1e-3 * (0.5 + 0.5 * math.cos(math.pi * done))
        events.append(
            {
                "step": step,
                "epoch": 2 * done,
                "phase": phase,
                "time": 1_790_000_000 + 7.5 * step,
                "loss": 0.4 + 3 * math.exp(-4 * done) + rng.normal(0, 0.08),
                "grad_norm": float(rng.gamma(4, 0.3)),
                "learning_rates": {
                    "projector": rate,
                    "language_model": rate / 10 if phase != "frozen" else 0.0,
                    "norms": rate / 10 if phase != "frozen" else 0.0,
                },
                "samples_per_second": 4.2 + rng.normal(0, 0.2),
                "tokens_per_second": 1900 + rng.normal(0, 60),
                "memory_mib": 5200 if phase == "frozen" else 7900,
                "mfu": 0.31 + rng.normal(0, 0.01),
            }
        )
        if step % max(1, num_steps // 10) == 0:
            events.append(
                {
                    "step": step,
                    "phase": phase,
                    "time": 1_790_000_003 + 7.5 * step,
                    "eval": {
                        "loss": 0.55 + 2.6 * math.exp(-4 * done) + 0.3 * max(0, done - 0.7),
                        "token_accuracy": 0.9 - 0.5 * math.exp(-3 * done),
                        "exact_match": 0.8 - 0.6 * math.exp(-3 * done),
                        "bleu": 0.5 - 0.4 * math.exp(-3 * done),
                        "rouge_l": 0.84 - 0.6 * math.exp(-3 * done),
                        "cider": 3 - 2.5 * math.exp(-3 * done),
                        "n": 64,
                        "num_empty": 1,
                    },
                }
            )
    return events


def write_log(folder: Path, events: Events) -> None:
    text = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "log.jsonl").write_text(text, "utf-8")


def _write_run(folder: Path) -> None:
    recipe = {"learning_rate": 1e-3, "batch_size": 4, "data": ["clips.jsonl:2", "<photos>.json"]}
    run = {
        "recipe": [
            {"phase": "frozen", "lora_rank": 0, **recipe},
            {"phase": "lora", "lora_rank": 16, **recipe},
            {"phase": "full", "lora_rank": 0, **recipe, "vision_learning_rate": None},
        ],
        "model": "nano",
        "trainable": [
            {
                "group": "vision tower",
                "parameters": 1_480_000,
                "learning_rate": 0.0,
                "is_trained": False,
            },
            {
                "group": "projector",
                "parameters": 210_432,
                "learning_rate": 1e-3,
                "is_trained": True,
            },
            {
                "group": "language model",
                "parameters": 2_900_112,
                "learning_rate": 1e-4,
                "is_trained": True,
            },
        ],
        "data": [
            {"file": "data/clips.jsonl", "records": 12_000, "sha256": "3f" * 32},
            {"file": "data/<photos>.json", "records": 4_000, "sha256": "a0" * 32},
        ],
        "machine": {
            "cpu": "Example CPU",
            "cores": 8,
            "packages": {"torch": "2.15", "peft": "0.21"},
        },
        "fastvlm_version": "0.3.0",
        "started": "2026-11-21T09:30:00+00:00",
    }
    (folder / "run.json").write_text(json.dumps(run), "utf-8")


def _write_comparison(folder: Path) -> None:
    (folder / "thumbnails").mkdir()
    examples = []
    said = [
        ("Which way does the square move?", "right", "It is red.", "Right."),
        (
            "What happens first?",
            "The circle appears.",
            "The square appears.",
            "The circle appears.",
        ),
        ("How many flashes are there?", "3", "3", "2"),
        (
            "What is in the picture?",
            "a red circle left of a blue square",
            "a circle",
            "a red circle right of a square",
        ),
        ("Is the sun visible?", "no", "No.", "no"),
        ("Which <b>colour</b> has $x$?", "blue", "", "blue & white"),
    ]
    for index, (question, reference, base, tuned) in enumerate(said):
        name = f"thumbnails/{index}.png"
        image = Image.new("RGB", (3 * 150, 100), (30 + 30 * index, 80, 120))
        draw = ImageDraw.Draw(image)
        for frame in range(3):
            left = 150 * frame + 20 + 30 * frame
            draw.rectangle((left, 30, left + 40, 70), fill=(240, 200, 60))
        if index != 4:
            image.save(folder / name)
        examples.append(
            {
                "set": "validation" if index < 4 else "images",
                "question": question,
                "reference": reference,
                "base": base,
                "tuned": tuned,
                "media": f"clip{index}.mp4",
                "thumbnail": name,
            }
        )
    sets = {
        "validation": {
            "base": {"loss": 3.41, "token_accuracy": 0.41, "exact_match": 0.25, "bleu": 0.08, "rouge_l": 0.31, "cider": 0.62, "num_empty": 3},
            "tuned": {"loss": 0.62, "token_accuracy": 0.88, "exact_match": 0.79, "bleu": 0.47, "rouge_l": 0.83, "cider": 2.91, "num_empty": 0},
            "n": 400,
        },
        "images": {
            "base": {"loss": 0.910, "token_accuracy": 0.81, "exact_match": 0.812},
            "tuned": {"loss": 0.921, "token_accuracy": 0.81, "exact_match": 0.809},
            "n": 1000,
            "pairs": [795, 17, 14, 174],
        },
    }  # fmt: skip
    document = {"sets": sets, "examples": examples}
    (folder / "comparison.json").write_text(json.dumps(document), "utf-8")


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[[], Path]:
    """Writes a whole run folder: resumed twice, not finite in places, its last line cut."""

    def make() -> Path:
        folder = tmp_path / "three_phase"
        folder.mkdir()
        events = log_events()
        for event in events:
            if event["step"] in (50, 51) and "loss" in event:
                event["loss"], event["grad_norm"] = math.nan, math.inf
            if event["step"] == 70 and "loss" in event:
                event["loss"], event["grad_norm"] = 55.0, 900.0
        again = [event for event in events if 61 <= event["step"] <= 66]
        late = [{**event, "time": event["time"] + 40_000} for event in events if event["step"] > 60]
        first = [event for event in events if event["step"] <= 60]
        write_log(folder, first + again + late)
        with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write('{"step": 121, "loss": 0.4')
        _write_run(folder)
        _write_comparison(folder)
        return folder

    return make
