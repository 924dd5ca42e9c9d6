"""Whole runs on a tiny model: what they write, and that stopping in any way changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fastvlm.checkpoint.load import load_model
from fastvlm.engine import Engine
from fastvlm.errors import CheckpointError, ConfigError, DataError
from fastvlm.train import tuner as tuner_module
from fastvlm.train.record import read_phases
from fastvlm.train.run import Listener, RunResult, last_checkpoint, tune
from fastvlm.train.settings import Phase, read_recipe, settings_from

SMALL: dict[str, Any] = {
    "batch_size": 2,
    "learning_rate": 1e-3,
    "max_steps": 6,
    "save_steps": 2,
    "log_steps": 1,
    "num_eval_answers": 2,
    "compare": False,
    "device": "cpu",
}
QUIET = Listener(lambda *_: None, lambda _: None, lambda _: None)


def phase(base: Path, data: Path, **changes: Any) -> tuple[Phase, ...]:
    values = SMALL | {"model": str(base), "data": [str(data / "train.json")]} | changes
    return (Phase("only", settings_from(values, where="test")),)


def run(
    phases: tuple[Phase, ...], folder: Path, *, should_stop: Callable[[], bool] = lambda: False
) -> RunResult:
    return tune(phases, folder, listener=QUIET, should_stop=should_stop)


def losses(folder: Path) -> dict[int, float]:
    lines = [json.loads(text) for text in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def stop_after(steps: int) -> Callable[[], bool]:
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked >= steps

    return should_stop


@pytest.fixture(scope="module")
def finished(
    base_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run that was never disturbed, with a validation set and an average of weights."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run(full(base_folder, data_folder), folder).is_finished
    return folder


def full(base: Path, data: Path) -> tuple[Phase, ...]:
    validation = [str(data / "validation.json")]
    return phase(
        base,
        data,
        validation=validation,
        image_validation=validation,
        eval_steps=3,
        ema_decay=0.5,
        gradient_accumulation_steps=2,
        compare=True,
    )


def test_a_run_leaves_a_model_that_answers(finished: Path, base_folder: Path) -> None:
    model, _ = load_model(finished / "model", dtype=torch.float32)
    before, _ = load_model(base_folder, dtype=torch.float32)
    assert model.config == before.config
    changed = [
        name
        for name, tensor in model.state_dict().items()
        if not torch.equal(tensor, before.state_dict()[name])
    ]
    assert any(name.startswith("vision_tower") for name in changed)
    assert any(name.startswith("language_model") for name in changed)
    assert not any("running" in name for name in changed)
    assert isinstance(Engine.load(finished / "model").ask("Hello?", max_new_tokens=3).text, str)


def test_a_run_writes_down_what_it_did(finished: Path) -> None:
    document = json.loads((finished / "run.json").read_text())
    assert {row["group"]: row["is_trained"] for row in document["trainable"]} == {
        "vision_tower": True,
        "projector": True,
        "language_model": True,
    }
    assert [Path(one["file"]).name for one in document["data"]] == [
        "train.json",
        "validation.json",
    ]
    assert all(len(one["sha256"]) == 64 for one in document["data"])
    assert sorted(losses(finished)) == [1, 2, 3, 4, 5, 6]
    lines = [json.loads(text) for text in (finished / "log.jsonl").read_text().splitlines()]
    (first, last) = (line["eval"] for line in lines if "eval" in line)
    assert first.keys() >= {"loss", "token_accuracy", "exact_match", "bleu", "rouge_l", "cider"}
    assert last["loss"] < first["loss"]
    comparison = json.loads((finished / "comparison.json").read_text())
    assert comparison["sets"].keys() == {"validation", "images"}
    card = (finished / "model" / "README.md").read_text()
    assert "| vision_tower |" in card
    assert "| validation | 2 | exact_match |" in card
    assert read_phases(finished)[0].settings.ema_decay == 0.5


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_a_stopped_and_resumed_run_is_the_same_run(
    finished: Path, base_folder: Path, data_folder: Path, tmp_path: Path, steps: int
) -> None:
    phases = full(base_folder, data_folder)
    folder = tmp_path / "run"
    assert not run(phases, folder, should_stop=stop_after(steps)).is_finished
    assert not (folder / "model").exists()
    assert run(read_phases(folder), folder).is_finished
    assert losses(folder) == losses(finished)
    for name, tensor in weights(finished).items():
        assert torch.equal(tensor, weights(folder)[name]), name


def test_a_run_killed_after_its_last_checkpoint_only_writes_the_model(
    base_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    phases = phase(base_folder, data_folder)
    folder = tmp_path / "run"
    # Asked to stop at the last step, there is nothing left to go on with.
    assert run(phases, folder, should_stop=stop_after(SMALL["max_steps"])).is_finished
    expected, log = weights(folder), losses(folder)
    shutil.rmtree(folder / "model")
    assert run(phases, folder).is_finished
    assert losses(folder) == log
    for name, tensor in expected.items():
        assert torch.equal(tensor, weights(folder)[name]), name


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
import test_run
import torch
from fastvlm.train import tuner

torch.set_num_threads({threads})  # as in the process that it is compared with

written = tuner.save_file
def save_and_die(*arguments, **options):
    written(*arguments, **options)
    if "checkpoint-4" in str(arguments[1]):
        os.kill(os.getpid(), signal.SIGKILL)
tuner.save_file = save_and_die
test_run.run(test_run.full(Path({base!r}), Path({data!r})), Path({folder!r}))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on Windows")
def test_a_run_killed_while_it_saves_goes_on_from_the_checkpoint_before(
    finished: Path, base_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    here = Path(__file__).parent
    code = KILLED.format(
        here=str(here),
        base=str(base_folder),
        data=str(data_folder),
        folder=str(folder),
        threads=torch.get_num_threads(),
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert last_checkpoint(folder / "phases" / "only") == folder / "phases/only/checkpoint-2"
    assert run(read_phases(folder), folder).is_finished
    assert losses(folder) == losses(finished)
    for name, tensor in weights(finished).items():
        assert torch.equal(tensor, weights(folder)[name]), name


def test_a_full_disk_leaves_the_checkpoint_before(
    base_folder: Path, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tuner_module.save_file

    def save(tensors: Any, path: Path) -> None:
        if "checkpoint-4" in str(path):
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        written(tensors, path)

    monkeypatch.setattr(tuner_module, "save_file", save)
    folder = tmp_path / "run"
    with pytest.raises(CheckpointError, match=r"step 4 could not be written .* No space left"):
        run(phase(base_folder, data_folder), folder)
    own = folder / "phases" / "only"
    assert [path.name for path in own.iterdir()] == ["checkpoint-2"]
    assert load_file(own / "checkpoint-2" / "trained.safetensors")


def test_only_the_last_checkpoints_are_kept(
    base_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    run(phase(base_folder, data_folder, save_steps=1, save_total_limit=2), tmp_path / "run")
    kept = sorted(path.name for path in (tmp_path / "run/phases/only").iterdir())
    assert kept == ["checkpoint-5", "checkpoint-6"]


def test_phases_follow_one_another(base_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    values = SMALL | {
        "model": str(base_folder),
        "data": [str(data_folder / "train.json")],
        "max_steps": 2,
        "gradient_accumulation_steps": 1,
    }
    folder = tmp_path / "run"
    phases = read_recipe("three_phase", values)
    assert run(phases, folder).is_finished
    document = json.loads((folder / "run.json").read_text())
    trained = {
        name: [row["group"] for row in rows if row["is_trained"]]
        for name, rows in document["trainable_by_phase"].items()
    }
    assert trained == {
        "frozen": ["projector"],
        "lora": ["projector", "language_model"],
        "full": ["vision_tower", "projector", "language_model"],
    }
    assert (folder / "phases/lora/adapter/adapter_config.json").is_file()
    first, _ = load_model(folder / "phases/frozen/model", dtype=torch.float32)
    base, _ = load_model(base_folder, dtype=torch.float32)
    for name, tensor in first.state_dict().items():
        is_trained = name.startswith("projector")
        assert torch.equal(tensor, base.state_dict()[name]) != is_trained, name


def test_training_stops_when_validation_gets_no_better(
    base_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    phases = phase(
        base_folder,
        data_folder,
        validation=[str(data_folder / "validation.json")],
        eval_steps=1,
        early_stop=2,
        max_steps=40,
        learning_rate=0.0,  # nothing ever gets better
        num_eval_answers=0,
    )
    run(phases, tmp_path / "run")
    assert max(losses(tmp_path / "run")) == 3


class TestBadInput:
    def test_broken_records_stop_the_run_above_the_limit(
        self, base_folder: Path, data_folder: Path, tmp_path: Path
    ) -> None:
        records = json.loads((data_folder / "train.json").read_text())
        for record in records[:8:4]:
            record["image"] = "missing.png"
        (tmp_path / "train.json").write_text(json.dumps(records), encoding="utf-8")
        strict = phase(base_folder, tmp_path, media_folder=str(data_folder), max_steps=12)
        with pytest.raises(DataError, match=r"1 broken records of 24 .*record \d.*missing.png"):
            run(strict, tmp_path / "strict")
        lenient = phase(
            base_folder, tmp_path, media_folder=str(data_folder), max_steps=12, max_broken=0.1
        )
        result = run(lenient, tmp_path / "lenient")
        assert result.is_finished
        assert result.broken is not None
        assert "2 broken records of 24 were left out" in result.broken

    def test_a_folder_with_another_run_is_refused(
        self, finished: Path, base_folder: Path, data_folder: Path
    ) -> None:
        with pytest.raises(ConfigError, match="holds a run with other settings; resume it"):
            run(phase(base_folder, data_folder), finished)

    def test_a_folder_with_other_things_is_refused(
        self, base_folder: Path, data_folder: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
        with pytest.raises(ConfigError, match="is not empty and holds no run"):
            run(phase(base_folder, data_folder), tmp_path)

    def test_a_missing_model_is_named(self, data_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="nowhere"):
            run(phase(tmp_path / "nowhere", data_folder), tmp_path / "run")


PARALLEL = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import test_run
test_run.run(test_run.parallel(Path({base!r}), Path({data!r}), 2), Path({folder!r}))
"""


def parallel(base: Path, data: Path, num_processes: int) -> tuple[Phase, ...]:
    return phase(base, data, batch_size=4 // num_processes, max_steps=4, save_steps=0)


def test_two_processes_do_what_one_does(
    base_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    run(parallel(base_folder, data_folder, 1), tmp_path / "one")
    here = Path(__file__).parent
    script = tmp_path / "parallel.py"
    script.write_text(
        PARALLEL.format(
            here=str(here),
            base=str(base_folder),
            data=str(data_folder),
            folder=str(tmp_path / "two"),
        ),
        encoding="utf-8",
    )
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]),
        "OMP_NUM_THREADS": "1",
    }
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert launched.returncode == 0, launched.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one.keys() == two.keys()
    for step, loss in one.items():
        assert two[step] == pytest.approx(loss, rel=1e-5), step
