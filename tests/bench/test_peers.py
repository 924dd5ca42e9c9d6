"""transformers as a measured system, beside ours on the same weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fastvlm.bench.candidate import FastVLMCandidate
from fastvlm.bench.peers import TransformersCandidate, import_transformers, require_transformers
from fastvlm.bench.protocol import PROMPT
from fastvlm.bench.random_checkpoint import write_random_checkpoint
from fastvlm.config import FastVLMConfig
from fastvlm.errors import MissingExtraError
from fastvlm.messages import user_message
from fastvlm.processing.processor import Processor


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"needs timm, .*pip install 'fastvlm\[bench\]'"):
        require_transformers()


@pytest.fixture(scope="module")
def hf_folder(tiny_bench_config: FastVLMConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peers") / "hf"
    write_random_checkpoint(folder, tiny_bench_config, layout="hf")
    return folder


@pytest.fixture(scope="module")
def peer(hf_folder: Path) -> TransformersCandidate:
    for name in ("transformers", "timm", "torchvision"):
        pytest.importorskip(name)
    import_transformers()
    return TransformersCandidate(hf_folder, device="cpu", dtype="float32")


@pytest.mark.oracle
def test_peer_answers_with_the_asked_length(peer: TransformersCandidate, photo: bytes) -> None:
    sample = peer.answer(photo, PROMPT, 5)
    assert peer.dtype == "float32"
    assert sample.num_decoded == 4
    parts = (sample.preprocess_s, sample.vision_s, sample.prefill_s)
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(sample.ttft_s)


@pytest.mark.oracle
def test_both_get_the_same_prompt_and_give_the_same_tokens(
    peer: TransformersCandidate,
    hf_folder: Path,
    tiny_bench_config: FastVLMConfig,
    photo: bytes,
) -> None:
    ours = FastVLMCandidate(hf_folder, device="cpu", dtype="float32")
    inputs = Processor.from_folder(hf_folder, tiny_bench_config)([user_message(PROMPT, photo)])
    arguments = (inputs.input_ids, inputs.pixel_values[0], 24)
    tokens = ours.greedy_tokens(*arguments)
    assert peer.greedy_tokens(*arguments) == tokens
    assert len(set(tokens)) > 4  # a network that always says the same would agree with anything
    counts = [candidate.answer(photo, PROMPT, 2).num_prompt_tokens for candidate in (ours, peer)]
    assert counts[0] == counts[1] == len(inputs.input_ids)
