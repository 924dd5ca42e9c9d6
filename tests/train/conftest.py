"""A tiny random model folder, and a data set with pictures, several pictures and no picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastvlm.checkpoint.save import save_model
from fastvlm.processing.tokenizer import Tokenizer
from tiny_models import random_model, tiny_config

WORDS = ("red", "blue", "a circle", "two squares", "left of it", "nothing", "I am not sure")


@pytest.fixture(scope="session")
def base_folder(small_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    small_tokenizer.save(folder / "tokenizer")
    config = replace(tiny_config(tied=True), image_size=64, max_length=512)
    save_model(
        random_model(config, seed=1),
        folder / "model",
        layout="apple",
        tokenizer_from=folder / "tokenizer",
    )
    return folder / "model"


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.json with 24 records and validation.json with 6."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name, count in (("train", 24), ("validation", 6)):
        records = []
        for index in range(count):
            num_pictures = (1, 1, 2, 0)[index % 4]
            images = []
            for number in range(num_pictures):
                images.append(f"{name}{index}_{number}.png")
                pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / images[-1])
            record: dict[str, object] = {"id": f"{name}{index}", "conversations": []}
            if images:
                record["image"] = images if num_pictures > 1 else images[0]
            turns = []
            for turn in range(1 + index % 3):
                marks = "<image>\n" * num_pictures if turn == 0 else ""
                turns += [
                    {"from": "human", "value": f"{marks}What is {rng.choice(WORDS)}?"},
                    {"from": "gpt", "value": f"It is {rng.choice(WORDS)}."},
                ]
            record["conversations"] = turns
            records.append(record)
        (folder / f"{name}.json").write_text(json.dumps(records), encoding="utf-8")
    return folder
