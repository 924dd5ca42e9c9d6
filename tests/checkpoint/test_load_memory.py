"""Full size: 0.5b with random weights loads and converts within the memory that was promised."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from fastvlm.checkpoint.config_json import write_config
from fastvlm.checkpoint.convert import convert_checkpoint
from fastvlm.checkpoint.empty_model import empty_model
from fastvlm.checkpoint.keymap import CLIP_HEAD, key_map
from fastvlm.checkpoint.save import SIDE_FILE
from fastvlm.checkpoint.shards import PlannedTensor, write_json, write_shards
from fastvlm.config import preset

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc/self/status"),
]

CONFIG = preset("0.5b")
PUBLISHED_TENSORS = 924
PEAK = """
def peak():
    status = open("/proc/self/status").read()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
"""
LOAD = """
import json, sys, time
from pathlib import Path
import psutil, torch
from fastvlm.checkpoint.load import load_model

before = psutil.Process().memory_info().rss
start = time.perf_counter()
model, report = load_model(Path(sys.argv[1]), dtype=getattr(torch, sys.argv[2]))
seconds = time.perf_counter() - start
tensors = {t.data_ptr(): t.nbytes for t in model.state_dict().values()}
print(json.dumps({"model": sum(tensors.values()), "peak": peak() - before, "seconds": seconds}))
"""
CONVERT = """
import json, sys
from pathlib import Path
import psutil
from fastvlm.checkpoint.convert import convert_checkpoint

before = psutil.Process().memory_info().rss
convert_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), layout=sys.argv[3])
print(json.dumps({"peak": peak() - before}))
"""


def run(code: str, *arguments: object) -> dict[str, float]:
    command = [sys.executable, "-c", PEAK + code, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The same random 0.5b as Apple stores it (tied, output layer and CLIP head stored), and in layout hf."""
    root = tmp_path_factory.mktemp("full")
    apple = root / "apple"
    apple.mkdir()
    untied = replace(CONFIG, text=replace(CONFIG.text, tie_word_embeddings=False))
    keys = key_map("apple", CONFIG)
    planned = [
        PlannedTensor(
            keys.to_layout(name),
            torch.bfloat16 if tensor.is_floating_point() else tensor.dtype,
            tuple(tensor.shape),
        )
        for name, tensor in empty_model(untied).state_dict().items()
    ]
    planned.append(PlannedTensor(CLIP_HEAD, torch.bfloat16, (3072, 768)))
    assert len(planned) == PUBLISHED_TENSORS
    by_key = {tensor.key: tensor for tensor in planned}

    def random_tensor(key: str) -> torch.Tensor:
        tensor = by_key[key]
        seed = 0 if key == "lm_head.weight" else list(by_key).index(key)
        seed = 0 if key == "model.embed_tokens.weight" else seed
        values = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
        return (values * 0.02).to(tensor.dtype)

    write_shards(apple, planned, random_tensor, max_shard_bytes=10**10)
    write_json(apple / "config.json", write_config(CONFIG, "apple"))
    convert_checkpoint(apple, root / "hf", layout="hf", max_shard_bytes=10**9)
    yield {"apple": apple, "hf": root / "hf"}
    for path in root.rglob("*.safetensors"):
        path.unlink()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("layout", ["apple", "hf"])
def test_loading_peaks_at_the_size_of_the_model(
    folders: dict[str, Path], layout: str, dtype: str
) -> None:
    measured = run(LOAD, folders[layout], dtype)
    item_size = {"bfloat16": 2, "float32": 4}[dtype]
    assert measured["model"] == pytest.approx(622.7e6 * item_size - 2.36e6 * item_size, rel=0.002)
    assert measured["peak"] <= 1.15 * measured["model"]


def test_conversion_holds_two_tensors_at_a_time(folders: dict[str, Path], tmp_path: Path) -> None:
    measured = run(CONVERT, folders["hf"], tmp_path / "apple", "apple")
    largest = CONFIG.text.vocab_size * CONFIG.text.hidden_size * 2
    assert measured["peak"] <= 2.2 * largest


def test_a_full_size_round_trip_is_bit_equal(folders: dict[str, Path], tmp_path: Path) -> None:
    convert_checkpoint(folders["hf"], tmp_path / "apple", layout="apple")
    assert (folders["hf"] / SIDE_FILE).is_file()
    with (
        safe_open(folders["apple"] / "model.safetensors", "pt") as original,
        safe_open(tmp_path / "apple/model.safetensors", "pt") as returned,
    ):
        assert set(original.keys()) == set(returned.keys())
        assert len(original.keys()) == PUBLISHED_TENSORS
        for key in original.keys():  # noqa: SIM118 -- the file is no dict
            assert torch.equal(original.get_tensor(key), returned.get_tensor(key)), key
