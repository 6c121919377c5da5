"""Imported, has each tokenizer read from its files once; ComfyUI reads it anew for each CLIP."""

from __future__ import annotations

from functools import cache

from transformers import CLIPTokenizer, Qwen2Tokenizer, T5TokenizerFast

for kind in (CLIPTokenizer, Qwen2Tokenizer, T5TokenizerFast):
    kind.from_pretrained = staticmethod(cache(kind.from_pretrained))
