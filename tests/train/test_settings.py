"""Settings: every preset reads, wrong ones are refused in one line, each is a flag, and a run keeps them."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st

from fastvlm.errors import ConfigError
from fastvlm.train.record import RunRecord, read_phases
from fastvlm.train.settings import (
    Phase,
    TuneSettings,
    as_plain,
    list_recipes,
    list_settings,
    read_recipe,
    settings_from,
)
from tiny_models import tiny_config

NAMES = tuple(list_recipes())


def test_there_are_presets_for_each_way_of_tuning() -> None:
    assert set(NAMES) >= {"stage1", "stage1_5", "stage2", "stage3", "video", "lora", "qlora"}
    assert all(about.endswith(".") for about in list_recipes().values())


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_reads_and_its_own_values_survive_a_way_through_plain_data(name: str) -> None:
    phases = read_recipe(name)
    last = {"three_phase": "full", "nano_video": "all_again"}.get(name, name)
    assert phases[-1].name == last
    for phase in phases:
        assert settings_from(as_plain(phase.settings), where="a test") == phase.settings


@pytest.mark.parametrize(
    ("name", "expected"),
    [  # table 9 of the paper: learning rate, samples of a step, what is trained
        ("stage1", (1e-3, 256, False, True, False)),
        ("stage1_5", (2e-5, 128, True, True, True)),
        ("stage2", (2e-5, 128, True, True, True)),
        ("stage3", (2e-5, 128, True, True, True)),
    ],
)
def test_presets_of_the_paper(name: str, expected: tuple[Any, ...]) -> None:
    (phase,) = read_recipe(name)
    one = phase.settings
    assert expected == (
        one.learning_rate,
        one.batch_size * one.gradient_accumulation_steps,
        one.train_language_model,
        one.train_projector,
        one.train_vision_tower,
    )
    assert (one.schedule, one.warmup_fraction, one.num_epochs) == ("cosine", 0.03, 1.0)
    assert one.image_size == {"stage1": 224, "stage1_5": 1024}.get(name, 0)


def test_three_phases_share_what_stands_above_them() -> None:
    frozen, lora, full = read_recipe("three_phase", {"data": ["a.json"], "batch_size": 2})
    assert [one.name for one in (frozen, lora, full)] == ["frozen", "lora", "full"]
    for phase in (frozen, lora, full):
        assert (phase.settings.data, phase.settings.batch_size) == (("a.json",), 2)
        assert phase.settings.gradient_accumulation_steps == 4
    assert not frozen.settings.train_language_model
    assert (lora.settings.lora_rank, full.settings.lora_rank) == (64, 0)
    assert full.settings.train_vision_tower


def test_a_flag_goes_before_the_phase_and_the_phase_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        'about = "Mine."\nseed = 1\nnum_frames = 2\nbatch_size = 3\n'
        "[[phase]]\nnum_frames = 4\nbatch_size = 5\n[[phase]]\n",
        "utf-8",
    )
    first, second = read_recipe(str(file), {"batch_size": 7})
    assert (first.name, second.name) == ("phase 1", "phase 2")
    assert (first.settings.num_frames, second.settings.num_frames) == (4, 2)
    assert first.settings.batch_size == second.settings.batch_size == 7
    assert first.settings.seed == second.settings.seed == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learningrate": 1e-4}, "a test: unknown setting 'learningrate'; expected one of model"),
        ({"learning_rate": "1e-4"}, "learning_rate is '1e-4'; expected float"),
        ({"learning_rate": True}, "learning_rate is True; expected float"),
        ({"batch_size": 2.5}, "batch_size is 2.5; expected int"),
        ({"batch_size": True}, "batch_size is True; expected int"),
        ({"packing": 1}, "packing is 1; expected bool"),
        ({"data": "a.json"}, "data is 'a.json'; expected a list of texts"),
        ({"model": 3}, "model is 3; expected str"),
        ({"seed": None}, "seed is None; expected int"),
        ({"schedule": "step"}, "schedule is 'step'; expected one of cosine, linear, constant"),
        ({"image_mode": "fill"}, "image_mode is 'fill'; expected one of pad, crop, anyres"),
        ({"batch_size": 0}, "batch_size is 0; expected 1 to 65536"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; expected 0 to 1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; expected 0 to 1"),
        ({"projector_learning_rate": 2}, "projector_learning_rate is 2.0; expected 0 to 1"),
        ({"max_broken": 1.1}, "max_broken is 1.1; expected 0 to 1"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf; expected 1e-06 to"),
        ({"image_size": -64}, "image_size is -64; expected 64 to 2048 pixels, or 0"),
        ({"seed": -1}, "seed is -1; expected 0 to"),
        ({"num_frames": 0}, "num_frames"),
        ({"sampling": "fps"}, "fps"),
        ({"quantize_base": "nf4"}, "quantize_base is 'nf4' without adapters.*set lora_rank"),
        ({"lora_rank": 4, "train_language_model": False}, "adapters are part of it"),
        ({"early_stop": 3}, "early_stop is 3, which needs validation files and eval_steps"),
        ({"fsdp": True, "deepspeed": "z.json"}, "fsdp and deepspeed exclude each other"),
        (
            {"train_projector": False, "train_language_model": False, "train_vision_tower": False},
            "nothing is trained",
        ),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_from(values, where="a test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = ", "is no TOML"),
        ("sed = 1", "unknown setting 'sed'"),
        ("[[phase]]\nname = 'a'\n[[phase]]\nname = 'a'", "two phases have the same name"),
        ("[[phase]]\nname = 'a'\nsed = 1", "unknown setting 'sed'"),
    ],
)
def test_wrong_recipe_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=message):
        read_recipe(str(file))


def test_recipes_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recipe named 'stage4'; there are lora, nano_video"):
        read_recipe("stage4")
    with pytest.raises(ConfigError, match="no such recipe file"):
        read_recipe(str(tmp_path / "none.toml"))


def test_every_setting_is_an_option_with_its_text() -> None:
    from fastvlm.cli.train import app

    command: Any = typer.main.get_command(app)
    options = {one.name: one for one in command.params}
    for setting in list_settings():
        option = options[setting.name]
        assert f"--{setting.name.replace('_', '-')}" in option.opts
        assert option.help == setting.doc.text
        assert option.default is None, "or the recipe's value would never count"


def test_every_field_has_a_text_and_a_group() -> None:
    assert [one.name for one in list_settings()] == [one.name for one in fields(TuneSettings)]
    for setting in list_settings():
        assert setting.doc.text.endswith(".")
        assert setting.doc.group


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    plain: dict[Any, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(1, 64),
        float: st.floats(0.001, 0.9),
        str: st.text(min_size=1),
        NoneType: st.none(),
        tuple[str, ...]: st.lists(st.text()).map(tuple),
    }
    if kind in plain:
        return plain[kind]
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    return st.one_of(*(values_of(one) for one in get_args(kind)))


@given(data=st.data())
def test_a_run_folder_keeps_any_settings(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hints = get_type_hints(TuneSettings)
    names = data.draw(st.lists(st.sampled_from([*hints]), unique=True, max_size=8))
    drawn = {name: data.draw(values_of(hints[name])) for name in names}
    # Files would be read, and the device looked for.
    drawn |= {"data": (), "validation": (), "image_validation": (), "device": "cpu"}
    try:
        settings = TuneSettings(**drawn)
    except ConfigError:
        return  # values that exclude each other
    phases = (Phase("first", settings), Phase("second", TuneSettings()))
    folder = tmp_path_factory.mktemp("runs") / "run"
    RunRecord.open(folder, phases)
    assert read_phases(folder) == phases


def test_a_folder_goes_on_with_its_own_settings_only(tmp_path: Path) -> None:
    phases = (Phase("first", TuneSettings()),)
    others = (Phase("first", TuneSettings(seed=1)),)
    # Failed before its first step, on a broken record, say: there is nothing to go on with.
    RunRecord.open(tmp_path / "run", others).begin_phase(others[0], (), tiny_config())
    begun = RunRecord.open(tmp_path / "run", phases)
    begun.begin_phase(phases[0], (), tiny_config())
    begun.log({"phase": "first", "step": 1, "loss": 1.0})
    RunRecord.open(tmp_path / "run", phases)
    with pytest.raises(ConfigError, match="holds a run with other settings; resume it"):
        RunRecord.open(tmp_path / "run", others)


def test_a_run_goes_on_after_settings_were_added_to_the_package(tmp_path: Path) -> None:
    phases = (Phase("first", TuneSettings(seed=3)),)
    RunRecord.open(tmp_path / "run", phases).begin_phase(phases[0], (), tiny_config())
    file = tmp_path / "run" / "run.json"
    document = json.loads(file.read_text("utf-8"))
    del document["phases"][0]["tf32"]
    file.write_text(json.dumps(document), "utf-8")
    RunRecord.open(tmp_path / "run", read_phases(tmp_path / "run"))


def test_the_data_of_all_phases_is_written_down_once(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    for path in (one, two):
        path.write_text("{}\n", "utf-8")
    first = Phase("first", TuneSettings(data=(str(one),), validation=(str(one),)))
    second = Phase("second", TuneSettings(data=(f"{two}:0.5",)))
    document = RunRecord.open(tmp_path / "run", (first, second)).document
    assert [entry["file"] for entry in document["data"]] == [str(one), str(two)]


def test_a_folder_that_holds_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no run; expected run\.json"):
        read_phases(tmp_path)
    (tmp_path / "run.json").write_text('{"phases": [{"name": "a", "sed": 1}]}', "utf-8")
    with pytest.raises(ConfigError, match="unknown setting 'sed'"):
        read_phases(tmp_path)
    (tmp_path / "run.json").write_text("{", "utf-8")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_phases(tmp_path)
