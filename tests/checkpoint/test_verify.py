import json
from pathlib import Path

import pytest

from fastvlm.checkpoint.manifest import MANIFEST_NAME, Manifest, write_manifest
from fastvlm.checkpoint.partial_body import FileRecord
from fastvlm.checkpoint.verify import verify_folder
from fastvlm.errors import CheckpointError
from model_server import tiny_checkpoint

SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in tiny_checkpoint().items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def problems(folder: Path) -> str:
    return "; ".join(verify_folder(folder).problems)


def test_whole_folder_has_no_problem(folder: Path) -> None:
    report = verify_folder(folder)

    assert report.is_whole
    assert report.layout == "apple"
    assert {check.name for check in report.checks} == set(tiny_checkpoint())


def test_single_file_needs_no_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    assert "model.safetensors: missing" in problems(folder)

    (folder / SHARD).rename(folder / "model.safetensors")
    assert verify_folder(folder).is_whole


def test_truncated_shard_is_found(folder: Path) -> None:
    content = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(content[:-1])

    assert f"{SHARD}: is cut short" in problems(folder)


def test_missing_shard_is_found(folder: Path) -> None:
    (folder / SHARD).unlink()

    assert problems(folder) == f"{SHARD}: missing"


def test_projector_alone_needs_no_tokenizer(folder: Path) -> None:
    for path in [*folder.glob("model*"), folder / "tokenizer.json"]:
        path.unlink()
    (folder / "mm_projector.safetensors").write_bytes(tiny_checkpoint()[SHARD])

    assert verify_folder(folder).is_whole


def test_pickles_get_a_hint(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")

    assert "fastvlm models convert" in problems(folder)


def test_tensor_that_the_index_promises_must_be_there(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_bytes())["weight_map"]
    index.write_text(json.dumps({"weight_map": {**weight_map, "lm_head.weight": SHARD}}))

    assert "1 tensors of the index are not in it, e.g. 'lm_head.weight'" in problems(folder)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "a\\b", 3, "", ".."])
def test_index_names_files_of_its_folder_only(folder: Path, name: object) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))

    assert "expected a file name" in problems(folder)


def test_files_outside_the_index_are_mentioned(folder: Path) -> None:
    (folder / "extra.safetensors").write_bytes((folder / SHARD).read_bytes())

    report = verify_folder(folder)

    assert report.is_whole
    assert "not part of the model" in next(
        c.detail for c in report.checks if c.name == "extra.safetensors"
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "config.json: missing"),
        ("{", "is not JSON"),
        ("[]", "holds list"),
        ('{"model_type": "llava"}', "model_type is 'llava', expected one of llava_qwen2, fast_vlm"),
        ('{"model_type": ["llava"]}', "model_type is"),
    ],
)
def test_config_must_be_recognised(folder: Path, config: str | None, message: str) -> None:
    (folder / "config.json").unlink()
    if config is not None:
        (folder / "config.json").write_text(config)

    assert message in problems(folder)
    assert verify_folder(folder).layout is None


def test_tokenizer_is_one_file_or_two(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json: missing" in problems(folder)

    (folder / "vocab.json").write_text("{}")
    assert problems(folder) == "merges.txt: missing"

    (folder / "merges.txt").write_text("a b")
    assert verify_folder(folder).is_whole


def test_manifest_tells_a_changed_byte(folder: Path) -> None:
    content = (folder / SHARD).read_bytes()
    record = FileRecord(size=len(content), sha256="0" * 64)
    files = {SHARD: record, "gone.txt": FileRecord(size=1, sha256="")}
    write_manifest(folder, Manifest(name="m", source="s", revision=None, licence="l", files=files))

    assert f"{SHARD}: SHA-256 is" in problems(folder)
    assert "gone.txt: missing, the manifest names it" in problems(folder)
    assert len(verify_folder(folder, with_hashes=False).problems) == 1


def test_unreadable_manifest_is_a_problem(folder: Path) -> None:
    (folder / MANIFEST_NAME).write_text('{"files": 3}')

    assert "pull the model again" in problems(folder)


def test_what_is_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        verify_folder(tmp_path / "nothing")
