import torch

from fastvlm.engine.feature_cache import FeatureCache


def features(value: float) -> torch.Tensor:
    return torch.full((4,), float(value))  # 16 bytes


def test_least_recently_used_goes_first() -> None:
    cache = FeatureCache(max_bytes=32)
    cache.put("a", features(1))
    cache.put("b", features(2))
    assert cache.get("a") is not None
    cache.put("c", features(3))
    assert cache.get("b") is None
    assert cache.get("a") is not None
    assert cache.num_bytes == 32


def test_putting_again_replaces() -> None:
    cache = FeatureCache(max_bytes=32)
    cache.put("a", features(1))
    cache.put("a", features(2))
    assert cache.num_bytes == 16
    assert cache.get("a")[0] == 2


def test_features_beyond_the_budget_are_not_kept() -> None:
    cache = FeatureCache(max_bytes=8)
    cache.put("a", features(1))
    assert cache.get("a") is None
    assert cache.num_bytes == 0
