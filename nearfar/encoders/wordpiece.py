"""A WordPiece tokenizer from the user's own texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def train_wordpiece(texts: Iterable[str], vocabulary: int, max_length: int) -> Any:
    """Train a lower-casing WordPiece tokenizer of BERT's form on `texts` and nothing else.

    Args:
        texts: the training texts.
        vocabulary: most pieces that it may hold, special tokens included.
        max_length: tokens after which a text is to be cut, kept with the tokenizer.

    Returns:
        A fast tokenizer of transformers that writes [CLS] text [SEP].
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from tokenizers.trainers import WordPieceTrainer
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordPiece(unk_token=_SPECIAL["unk_token"]))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.train_from_iterator(
        texts,
        WordPieceTrainer(vocab_size=vocabulary, special_tokens=list(_SPECIAL.values()), show_progress=False),
    )
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **_SPECIAL)
