"""A byte-level BPE tokenizer from the user's own texts, for language models from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

END, PAD = "<|endoftext|>", "<|pad|>"


def train_byte_pairs(texts: Sequence[str], vocabulary: int, max_length: int) -> Any:
    """Train a tokenizer of GPT-2's form on `texts` and nothing else: every text can be written in it.

    Equal texts give an equal tokenizer.

    Args:
        texts: the training texts.
        vocabulary: most pieces that it may hold; the 256 bytes are always among them.
        max_length: tokens after which a text is to be cut, kept with the tokenizer.

    Returns:
        A fast tokenizer of transformers that adds nothing to a text. Its end token is not its padding.
    """
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_length, eos_token=END, bos_token=END, pad_token=PAD
    )
