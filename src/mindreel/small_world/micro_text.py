"""Captions of the small world as tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mindreel.small_world import drawing

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, PreTrainedTokenizerBase

TOKENS = 16  # caption length, start and end tokens included; the longest captions, of a triangle, are cut


def vocabulary() -> list[str]:
    """Every word of every caption, sorted."""
    scenes = (drawing.Scene(*kind) for kind in drawing.KINDS)
    return sorted({word for scene in scenes for word in scene.caption.split()})


def clip_tokenizer() -> CLIPTokenizer:
    """Make CLIP's tokenizer for the words of the small world: most are one token; other words are spelled."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    tokens, merges = letters + [f"{c}</w>" for c in letters], []
    for word in vocabulary():
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            tokens.append(parts[0])
    tokens = list(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=list(dict.fromkeys(merges)), model_max_length=TOKENS
    )


def tokenize(tokenizer: PreTrainedTokenizerBase, captions: list[str]) -> torch.Tensor:
    """Tokenize N captions: (N, TOKENS) int64."""
    return tokenizer(captions, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt").input_ids
