"""A tiny random checkpoint folder on disk, and the program run as a user runs it, in this process."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastvlm.checkpoint.save import save_model
from fastvlm.cli.app import main
from fastvlm.config import FastVLMConfig, TextConfig, VisionConfig
from fastvlm.model import FastVLM
from fastvlm.processing.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tiny_folder(small_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    config = FastVLMConfig(
        vision=VisionConfig(
            depths=(1, 1, 1, 1, 1),
            widths=(16, 16, 32, 32, 64),
            mlp_ratios=(1, 1, 1, 1, 1),
            layer_scale_init=0.3,
        ),
        text=TextConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=64 * (small_tokenizer.vocab_size // 64 + 1),
            tie_word_embeddings=False,
        ),
        image_size=256,
        max_length=512,
    )
    model = FastVLM(config)
    for parameter in model.language_model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    base = tmp_path_factory.mktemp("tiny")
    small_tokenizer.save(base / "tokenizer")
    save_model(model, base / "model", layout="apple", tokenizer_from=base / "tokenizer")
    return base / "model"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name, color in (("a.png", "red"), ("b.jpg", "blue"), ("c.webp", "green")):
        Image.new("RGB", (60, 40), color).save(folder / name)
    (folder / "notes.txt").write_text("no picture", encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def fastvlm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Run `fastvlm ...`; `stdin` is text or bytes."""

    def run(*arguments: object, stdin: str | bytes = "") -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "argv", ["fastvlm", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return Result(stopped.value.code, printed.out, printed.err)

    return run
