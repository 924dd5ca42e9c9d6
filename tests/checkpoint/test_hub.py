import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from fastvlm.checkpoint.download import Downloader
from fastvlm.checkpoint.hub import home_folder, list_pulled, pull_model, resolve_model
from fastvlm.checkpoint.manifest import MANIFEST_NAME, read_manifest
from fastvlm.checkpoint.verify import verify_folder
from fastvlm.errors import CheckpointError, DownloadError
from model_server import (
    REVISION,
    Behaviour,
    ModelServer,
    running_server,
    tiny_checkpoint,
    zip_of,
)

HUB_NAME = "apple/FastVLM-0.5B"
ZIP_NAME = "llava-fastvithd_0.5b_stage3"
ZIP_PATH = f"/{ZIP_NAME}.zip"
SHARD = "model-00001-of-00002.safetensors"
SHARD_PATH = f"/{HUB_NAME}/resolve/{REVISION}/{SHARD}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModelServer]:
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "FASTVLM_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("FASTVLM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    with running_server() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("FASTVLM_ARCHIVE_ENDPOINT", running.url)
        running.add_repository(HUB_NAME, tiny_checkpoint())
        running.files[ZIP_PATH] = zip_of(tiny_checkpoint())
        yield running


class Notes:
    """Listens to a pull."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.progress: list[tuple[str, int, int]] = []

    def on_note(self, line: str) -> None:
        self.lines.append(line)

    def on_progress(self, name: str, done: int, total: int) -> None:
        assert any(line.startswith("licence: ") for line in self.lines), "licence comes first"
        self.progress.append((name, done, total))


def pull(name: str, notes: Notes | None = None) -> Path:
    with Downloader(attempts=3, first_wait_s=0) as downloader:
        return pull_model(name, listener=notes, downloader=downloader)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != MANIFEST_NAME}


def left_in_home() -> list[str]:
    return sorted(path.name for path in (home_folder() / "models").iterdir())


@pytest.mark.parametrize("name", [HUB_NAME, "0.5b", ZIP_NAME])
def test_pulled_model_is_whole_and_found_by_name(server: ModelServer, name: str) -> None:
    notes = Notes()

    folder = pull(name, notes)

    assert contents(folder) == tiny_checkpoint()
    assert verify_folder(folder).is_whole
    assert resolve_model(name) == folder
    assert left_in_home() == [folder.name]
    assert "research only" in notes.lines[0]
    done = [(done, total) for _, done, total in notes.progress]
    assert done[-1][0] == done[-1][1]


def test_manifest_says_where_it_came_from(server: ModelServer) -> None:
    manifest = read_manifest(pull("0.5b"))

    assert manifest is not None
    assert manifest.name == HUB_NAME
    assert manifest.source == f"{server.url}/{HUB_NAME}"
    assert manifest.revision == REVISION
    assert set(manifest.files) == set(tiny_checkpoint())


def test_pulled_model_is_not_fetched_again(server: ModelServer) -> None:
    pull("0.5b")
    num_requests = len(server.requests)
    notes = Notes()

    pull("0.5b", notes)

    assert len(server.requests) == num_requests
    assert notes.lines == [f"{HUB_NAME} is on this disk already"]


def test_damaged_model_is_fetched_again(server: ModelServer) -> None:
    folder = pull("0.5b")
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-1])
    notes = Notes()

    pull("0.5b", notes)

    assert "is damaged" in notes.lines[0]
    assert contents(folder) == tiny_checkpoint()
    assert left_in_home() == [folder.name]


def test_code_and_pickles_are_left_out_and_named(server: ModelServer) -> None:
    extra = {"llava_qwen.py": b"print()", "training_args.bin": b"x", "onnx/a.json": b"{}"}
    server.add_repository(HUB_NAME, {**tiny_checkpoint(), **extra})
    notes = Notes()

    assert contents(pull("0.5b", notes)) == tiny_checkpoint()
    assert "llava_qwen.py, training_args.bin, onnx/a.json" in notes.lines[1]
    assert not server.asked_for(".py")


def test_other_hub_models_show_the_licence_of_their_page(server: ModelServer) -> None:
    licence = {"license": "other", "license_name": "my\x1b[31m-licence"}
    server.add_repository("someone/tuned", tiny_checkpoint(), cardData=licence)
    notes = Notes()

    folder = pull("someone/tuned", notes)

    assert notes.lines == [f"licence: my?[31m-licence ({server.url}/someone/tuned)"]
    assert resolve_model("someone/tuned") == folder
    assert [entry.name for entry in list_pulled()] == ["someone/tuned"]


def test_token_goes_to_the_hub(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    pull(HUB_NAME)
    assert {h.get("authorization") for _, h in server.requests} == {"Bearer hf_secret"}

    server.requests.clear()
    pull(ZIP_NAME)
    assert {h.get("authorization") for _, h in server.requests} == {None}


def test_interrupted_pull_keeps_finished_files_and_resumes(server: ModelServer) -> None:
    server.script[SHARD_PATH] = [Behaviour(cut_after=50_000), *[Behaviour(status=502)] * 3]
    with pytest.raises(DownloadError, match="502"):
        pull("0.5b")
    assert not (home_folder() / "models" / "apple--FastVLM-0.5B").exists()
    with pytest.raises(CheckpointError, match=r"`fastvlm models pull 0\.5b`"):
        resolve_model("0.5b")
    server.requests.clear()

    folder = pull("0.5b")

    assert contents(folder) == tiny_checkpoint()
    assert [h.get("range") for h in server.asked_for(SHARD)] == ["bytes=50000-"]
    assert not server.asked_for("config.json")


def test_unchanged_files_survive_a_new_commit(server: ModelServer) -> None:
    server.script[SHARD_PATH] = [Behaviour(cut_after=50_000), *[Behaviour(status=502)] * 3]
    with pytest.raises(DownloadError):
        pull("0.5b")
    new = {**tiny_checkpoint(), "config.json": b'{"model_type": "llava_qwen2", "new": 1}'}
    del new["tokenizer.json"]
    new |= {"vocab.json": b"{}", "merges.txt": b"x"}
    server.add_repository(HUB_NAME, new)
    server.requests.clear()

    folder = pull("0.5b")

    assert contents(folder) == new
    assert [h.get("range") for h in server.asked_for(SHARD)] == ["bytes=50000-"]


@pytest.mark.parametrize("path", [SHARD, "tokenizer.json"])
def test_wrong_hash_leaves_nothing(server: ModelServer, path: str) -> None:
    right = server.files[f"/{HUB_NAME}/resolve/{REVISION}/{path}"]
    server.files[f"/{HUB_NAME}/resolve/{REVISION}/{path}"] = bytes(len(right))

    with pytest.raises(DownloadError, match=rf"{path}: (SHA-256|git id) is"):
        pull("0.5b")

    assert left_in_home() == [".apple--FastVLM-0.5B.partial"]


def test_hub_that_names_another_size_is_found_out(server: ModelServer) -> None:
    description = server.description(HUB_NAME)
    for sibling in description["siblings"]:  # type: ignore[attr-defined]
        if "lfs" in sibling:
            sibling["lfs"]["size"] += 1
    server.describe(HUB_NAME, description)

    with pytest.raises(DownloadError, match=r"announces \d+ bytes, expected"):
        pull("0.5b")


@pytest.mark.parametrize("name", ["../evil.json", "/tmp/evil.json", "a\\..\\evil.json"])
def test_unsafe_file_names_of_a_repository_are_refused(server: ModelServer, name: str) -> None:
    server.add_repository(HUB_NAME, {**tiny_checkpoint(), name: b"{}"})

    with pytest.raises(DownloadError, match="not a plain relative path"):
        pull("0.5b")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "document",
    [
        b"[]",
        b"{}",
        b'{"sha": "x", "siblings": [{"size": 3}]}',
        b'{"sha": "x", "siblings": [{"rfilename": "a.json", "size": "3"}]}',
        b'{"sha": "x", "siblings": [{"rfilename": "a.json", "size": -3}]}',
        b'{"sha": "x", "siblings": [{"rfilename": "a.json", "size": 3, "blobId": "../a"}]}',
        b'{"sha": "x", "siblings": [{"rfilename": "a", "lfs": {"size": 3, "sha256": 5}}]}',
        b'{"sha": "x", "siblings": [], "cardData": 3}',
    ],
)
def test_descriptions_of_another_form_are_one_clear_error(
    server: ModelServer, document: bytes
) -> None:
    server.files[f"/api/models/{HUB_NAME}"] = document

    with pytest.raises(DownloadError, match="form that is not understood"):
        pull("0.5b")


def test_repository_without_weights_is_no_model(server: ModelServer) -> None:
    server.add_repository(HUB_NAME, {"README.md": b"hello", "pytorch_model.bin": b"x"})

    with pytest.raises(CheckpointError, match="no safetensors file"):
        pull("0.5b")


def test_published_model_that_lacks_a_shard_is_refused(server: ModelServer) -> None:
    files = tiny_checkpoint()
    del files[SHARD]
    server.add_repository(HUB_NAME, files)

    with pytest.raises(CheckpointError, match=f"not a whole FastVLM checkpoint: {SHARD}: missing"):
        pull("0.5b")
    assert left_in_home() == []


def test_disk_space_is_checked_before_the_first_byte(server: ModelServer) -> None:
    description = server.description(HUB_NAME)
    description["siblings"][-1]["lfs"]["size"] = 10**18  # type: ignore[index]
    server.describe(HUB_NAME, description)

    with pytest.raises(DownloadError, match=r"1000000000\.00 GB more are needed"):
        pull("0.5b")
    assert len(server.requests) == 1


def test_offline_is_respected(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    with pytest.raises(DownloadError, match="while HF_HUB_OFFLINE is set"):
        pull("0.5b")
    assert not server.requests


def test_unwritable_home_is_one_clear_error(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("FASTVLM_HOME", str(tmp_path / "file"))

    with pytest.raises(CheckpointError, match="set FASTVLM_HOME to a folder of yours"):
        pull("0.5b")


def test_archive_is_recorded_and_must_stay_the_same(server: ModelServer) -> None:
    folder = pull(ZIP_NAME)
    lock = json.loads((home_folder() / "archives.lock.json").read_bytes())
    sha256 = hashlib.sha256(server.files[ZIP_PATH]).hexdigest()
    assert lock["archives"][ZIP_NAME]["sha256"] == sha256
    shutil.rmtree(folder)
    original, other = server.files[ZIP_PATH], zip_of(tiny_checkpoint(seed=1))
    server.files[ZIP_PATH] = other

    with pytest.raises(DownloadError, match="recorded when it was fetched first"):
        pull(ZIP_NAME)
    assert not folder.exists()

    server.files[ZIP_PATH] = original
    assert contents(pull(ZIP_NAME)) == tiny_checkpoint()


def test_archive_that_changes_between_resumes_is_the_new_one(server: ModelServer) -> None:
    other = zip_of(tiny_checkpoint(seed=1))
    server.script[ZIP_PATH] = [Behaviour(), Behaviour(cut_after=50_000)]
    server.script[ZIP_PATH] += [Behaviour(status=503)] * 3
    with pytest.raises(DownloadError):
        pull(ZIP_NAME)
    server.files[ZIP_PATH] = other

    assert contents(pull(ZIP_NAME)) == tiny_checkpoint(seed=1)


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (zip_of({**tiny_checkpoint(), "../../evil.json": b"{}"}), "not a plain relative path"),
        (zip_of(tiny_checkpoint())[:-100], "not a readable zip file"),
        (b"<html>busy</html>", "not a readable zip file"),
        (zip_of({"config.json": b"{}"}), "not a whole FastVLM checkpoint"),
    ],
)
def test_bad_archives_leave_nothing_and_are_not_recorded(
    server: ModelServer, archive: bytes, message: str, tmp_path: Path
) -> None:
    server.files[ZIP_PATH] = archive

    with pytest.raises(CheckpointError, match=message):
        pull(ZIP_NAME)

    assert left_in_home() == []
    assert not (home_folder() / "archives.lock.json").exists()
    assert not list(tmp_path.rglob("evil.json"))
    server.files[ZIP_PATH] = zip_of(tiny_checkpoint())
    assert contents(pull(ZIP_NAME)) == tiny_checkpoint()


def test_nano_needs_no_network(server: ModelServer) -> None:
    folder = pull("nano")

    assert folder == resolve_model("nano")
    assert verify_folder(folder).is_whole
    assert not server.requests


def test_folder_wins_over_a_name_if_it_holds_a_model(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    local = tmp_path / "apple" / "FastVLM-0.5B"
    local.mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"fastvlm models pull apple/FastVLM-0\.5B"):
        resolve_model("apple/FastVLM-0.5B")

    (local / "config.json").write_bytes(b"{}")
    assert resolve_model("apple/FastVLM-0.5B") == Path("apple/FastVLM-0.5B")
    assert resolve_model(tmp_path) == tmp_path


def test_names_that_lead_nowhere_are_clear_errors(server: ModelServer, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")

    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        resolve_model(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"did you mean 0\.5b"):
        resolve_model("0.5bb")
    with pytest.raises(CheckpointError, match=r"`fastvlm models pull someone/tuned`"):
        resolve_model("someone/tuned")
    assert not server.requests


@pytest.mark.parametrize(
    "name", ["a" * 5000, "~nobody-of-this-name/model", "a\0b", "", "bad/\ud800"]
)
def test_impossible_paths_are_unknown_names(name: str) -> None:
    with pytest.raises(CheckpointError, match="neither a folder"):
        resolve_model(name)


def test_cache_of_huggingface_hub_is_used_if_whole(server: ModelServer, tmp_path: Path) -> None:
    repository = tmp_path / "hf" / "models--apple--FastVLM-0.5B"
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION, encoding="utf-8")
    (snapshot / "config.json").write_bytes(tiny_checkpoint()["config.json"])
    with pytest.raises(CheckpointError, match="not on this disk"):
        resolve_model("0.5b")

    for name, content in tiny_checkpoint().items():
        (snapshot / name).write_bytes(content)

    assert resolve_model("0.5b") == snapshot
    assert not server.requests


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"FASTVLM_HOME": "/data/models"}, Path("/data/models")),
        ({"XDG_CACHE_HOME": "/cache", "LOCALAPPDATA": "/cache"}, Path("/cache/fastvlm")),
    ],
)
def test_home_folder(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: Path
) -> None:
    monkeypatch.delenv("FASTVLM_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert home_folder() == expected
