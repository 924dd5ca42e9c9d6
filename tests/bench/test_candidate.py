"""The engine as a measured system."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastvlm.bench.candidate import FastVLMCandidate
from fastvlm.bench.protocol import PROMPT
from fastvlm.checkpoint.load import load_model
from fastvlm.checkpoint.save import save_model
from fastvlm.engine import Engine
from fastvlm.messages import user_message
from fastvlm.processing.processor import Processor
from fastvlm.processing.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def always_ending_folder(tiny_bench_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with an output layer in which nothing but the end token has weight."""
    model, _ = load_model(tiny_bench_folder, dtype=torch.float32)
    end = Tokenizer.from_folder(tiny_bench_folder).im_end_id
    weight = torch.zeros_like(model.lm_head.weight)
    weight[end] = 1.0
    weight[end + 1] = -1.0
    model.lm_head.weight = torch.nn.Parameter(weight)
    folder = tmp_path_factory.mktemp("ending") / "model"
    save_model(model, folder, layout="apple", tokenizer_from=tiny_bench_folder)
    return folder


def test_answers_have_the_asked_length(tiny_bench_folder: Path, photo: bytes) -> None:
    candidate = FastVLMCandidate(tiny_bench_folder, device="cpu", dtype="float32")
    sample = candidate.answer(photo, PROMPT, 5)
    assert candidate.dtype == "float32"
    assert sample.num_decoded == 4
    assert sample.num_prompt_tokens > 4


def test_answers_go_on_after_the_end_token(always_ending_folder: Path, photo: bytes) -> None:
    candidate = FastVLMCandidate(always_ending_folder, device="cpu", dtype="float32")
    assert candidate.answer(photo, PROMPT, 6).num_decoded == 5


def test_parts_add_up_to_the_first_token(tiny_bench_folder: Path, photo: bytes) -> None:
    sample = FastVLMCandidate(tiny_bench_folder, device="cpu", dtype="float32").answer(
        photo, PROMPT, 2
    )
    parts = (sample.preprocess_s, sample.vision_s, sample.prefill_s)
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(sample.ttft_s)


def test_every_answer_encodes_its_picture(tiny_bench_folder: Path, photo: bytes) -> None:
    candidate = FastVLMCandidate(tiny_bench_folder, device="cpu", dtype="float32")
    first, second = (candidate.answer(photo, PROMPT, 2) for _ in range(2))
    assert first.vision_s > 0
    assert second.vision_s > 0


def test_continuation_is_what_the_engine_answers(tiny_bench_folder: Path, photo: bytes) -> None:
    engine = Engine.load(tiny_bench_folder, device="cpu", dtype="float32")
    processor = Processor.from_folder(tiny_bench_folder, engine.config)
    inputs = processor([user_message(PROMPT, photo)])
    answer = engine.ask(PROMPT, images=[photo], max_new_tokens=8, ignore_eos=True)
    candidate = FastVLMCandidate(tiny_bench_folder, device="cpu", dtype="float32")
    tokens = candidate.greedy_tokens(inputs.input_ids, inputs.pixel_values[0], 8)
    assert tuple(tokens) == answer.token_ids
