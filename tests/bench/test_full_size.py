"""Full size beside transformers: the promises of speed and memory, on whatever machine this runs.

Ratios are of CPU time where there is a choice, which other jobs on the machine disturb less than wall time.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest

from fastvlm.bench.latency import LatencyPlan, measure_latency
from fastvlm.bench.protocol import DEFAULT_SYSTEMS, parse_system
from fastvlm.device import has_native_bfloat16, resolve_device

pytestmark = [pytest.mark.slow, pytest.mark.oracle, pytest.mark.timeout(1800)]

PARAMETERS_05B = 622.7e6
"""Output layer tied to the embedding."""


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    for name in ("transformers", "timm", "torchvision"):
        pytest.importorskip(name)
    systems = tuple(map(parse_system, (*DEFAULT_SYSTEMS, "fastvlm@hf")))
    return measure_latency(
        LatencyPlan(model="0.5b", systems=systems, repeats=1, num_new_tokens=17, device="cpu")
    )


def test_all_systems_answer_the_same_photo(result: dict[str, Any]) -> None:
    for system in result["systems"].values():
        assert 256 + 24 <= system["num_prompt_tokens"] <= 256 + 30
        assert system["rounds"][0]["samples"][0]["num_decoded"] == 16


def test_float32_gives_the_tokens_of_transformers(result: dict[str, Any]) -> None:
    agreement = result["agreement"]
    assert agreement["is_equal"]
    assert {"fastvlm:float32", "transformers:float32"} <= set(agreement["systems"])
    assert agreement["num_distinct_tokens"] > 4


def test_first_token_comes_sooner_than_from_transformers(result: dict[str, Any]) -> None:
    if not has_native_bfloat16(resolve_device("cpu")):
        pytest.skip("this processor does not multiply bfloat16, so the default is float32")
    ratios = result["ratios"]["fastvlm"]
    assert ratios["transformers:bfloat16"]["ttft_cpu_ms"] <= 0.85
    assert ratios["transformers:float32"]["ttft_cpu_ms"] <= 0.50


def test_memory_is_less_than_that_of_transformers(result: dict[str, Any]) -> None:
    ratios = result["ratios"]
    assert ratios["fastvlm:float32"]["transformers:float32"]["peak_rss_mib"] <= 1
    if result["systems"]["fastvlm"]["dtype"] == "bfloat16":
        assert ratios["fastvlm"]["transformers:bfloat16"]["peak_rss_mib"] <= 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs the memory before loading")
@pytest.mark.parametrize("name", ["fastvlm", "fastvlm@hf", "fastvlm:float32"])
def test_loading_peaks_at_the_size_of_the_model(result: dict[str, Any], name: str) -> None:
    system = result["systems"][name]
    item_size = {"bfloat16": 2, "float32": 4}[system["dtype"]]
    model_mib = PARAMETERS_05B * item_size / 2**20
    assert system["peak_rss_loading_mib"] - system["rss_imported_mib"] <= 1.15 * model_mib
