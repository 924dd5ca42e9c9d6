"""Names of systems, and what is taken from the moments of an answer."""

from __future__ import annotations

import pytest

from fastvlm.bench.protocol import Moment, Sample, System, parse_system
from fastvlm.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fastvlm", ("fastvlm", "auto", None)),
        ("fastvlm:float32", ("fastvlm", "float32", None)),
        ("fastvlm@hf", ("fastvlm", "auto", "hf")),
        ("fastvlm:bfloat16@apple", ("fastvlm", "bfloat16", "apple")),
        ("transformers", ("transformers", "auto", "hf")),
        ("transformers:float32", ("transformers", "float32", "hf")),
    ],
)
def test_system_names_are_read(name: str, expected: tuple[str, str, str | None]) -> None:
    peer, dtype, layout = expected
    assert parse_system(name) == System(name=name, peer=peer, dtype=dtype, layout=layout)


def test_systems_without_a_dtype_take_the_one_given() -> None:
    assert parse_system("fastvlm", dtype="float16").dtype == "float16"
    assert parse_system("fastvlm:float32", dtype="float16").dtype == "float32"


@pytest.mark.parametrize(
    "name", ["llama", "fastvlm@onnx", "transformers@apple", "fastvlm:int3", "", "fastvlm float32"]
)
def test_unknown_systems_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="not known; expected"):
        parse_system(name)


def test_sample_is_made_of_differences() -> None:
    sample = Sample.from_moments(
        received=Moment(10.0, 1.0),
        prepared=Moment(10.5, 1.25),
        encoded=Moment(12.5, 4.0),
        tokens=[Moment(13.0, 5.0), Moment(13.25, 5.25), Moment(13.5, 5.75)],
        num_prompt_tokens=280,
    )
    assert sample == Sample(
        num_prompt_tokens=280,
        preprocess_s=0.5,
        vision_s=2.0,
        prefill_s=0.5,
        ttft_s=3.0,
        ttft_cpu_s=4.0,
        decode_s=0.5,
        decode_cpu_s=0.75,
        num_decoded=2,
    )
