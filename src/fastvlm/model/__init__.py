"""The network as plain `nn.Module`s: no files, tokenizer, sampling or loss in here."""

from fastvlm.model.fastvithd import FastViTHD
from fastvlm.model.fastvlm import FastVLM
from fastvlm.model.kv_cache import GrowingCache, StaticCache
from fastvlm.model.projector import Projector
from fastvlm.model.qwen2 import Qwen2
from fastvlm.model.reparam import deep_fuse, fuse

__all__ = [
    "FastVLM",
    "FastViTHD",
    "GrowingCache",
    "Projector",
    "Qwen2",
    "StaticCache",
    "deep_fuse",
    "fuse",
]
