import pytest

from fastvlm.checkpoint.catalogue import KNOWN_MODELS, find_entry, require_entry
from fastvlm.errors import CheckpointError


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("nano", "nano"),
        ("0.5b", "apple/FastVLM-0.5B"),
        ("7B", "apple/FastVLM-7B"),
        ("Apple/fastvlm-1.5b", "apple/FastVLM-1.5B"),
        ("kamilamila/FastVLM-7B", "KamilaMila/FastVLM-7B"),
        ("llava-fastvithd_7b_stage2", "llava-fastvithd_7b_stage2"),
        ("someone/fine-tuned_v1.2", "someone/fine-tuned_v1.2"),
    ],
)
def test_names_and_aliases_in_any_case(name: str, full: str) -> None:
    assert require_entry(name).name == full


@pytest.mark.parametrize(
    "name", ["", "x", "a/b/c", "../b", "a/..", "a/b--c", "a/b..c", "https://x/y", "a b/c", "a/b\n"]
)
def test_other_names_are_unknown(name: str) -> None:
    assert find_entry(name) is None


def test_near_misses_are_suggested() -> None:
    with pytest.raises(CheckpointError, match=r"did you mean .*apple/FastVLM-0\.5B"):
        require_entry("FastVLM-0.5B")
    with pytest.raises(CheckpointError, match="`fastvlm models list` shows the names"):
        require_entry("zzzz")


def test_every_entry_has_its_own_folder_and_a_licence() -> None:
    assert len({entry.folder_name.lower() for entry in KNOWN_MODELS}) == len(KNOWN_MODELS) == 13
    for entry in KNOWN_MODELS:
        assert entry.licence is not None
        assert ("research only" in entry.licence) == (entry.name != "nano")
