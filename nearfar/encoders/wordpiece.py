"""A WordPiece tokenizer from the user's own texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def train_wordpiece(texts: Sequence[str], vocabulary: int, max_length: int) -> Any:
    """Train a lower-casing WordPiece tokenizer of BERT's form on `texts` and nothing else.

    Equal texts give an equal tokenizer.

    Args:
        texts: the training texts.
        vocabulary: most pieces that it may hold, special tokens included; every single character of
            the texts is kept even if there are more.
        max_length: tokens after which a text is to be cut, kept with the tokenizer.

    Returns:
        A fast tokenizer of transformers that writes [CLS] text [SEP].
    """
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = list(_SPECIAL.values())
    # The trainer numbers the pieces "##x" in the order of a hash table, which differs between runs,
    # and breaks ties by number. Named as special tokens they come in the order given here.
    characters = sorted(piece for piece in _trained(texts, 0, special).get_vocab() if piece.startswith("##"))
    vocab = _trained(texts, vocabulary, special + characters).get_vocab()
    tokenizer = _untrained(vocab)
    tokenizer.add_special_tokens(special)
    ends = [(token, vocab[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **_SPECIAL)


def _untrained(vocab: dict[str, int] | None = None) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.decoders import WordPiece as WordPieceDecoder
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    tokenizer = Tokenizer(WordPiece(vocab, unk_token=_SPECIAL["unk_token"]))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder(cleanup=False)
    return tokenizer


def _trained(texts: Sequence[str], vocabulary: int, first: list[str]) -> Any:
    from tokenizers.trainers import WordPieceTrainer

    tokenizer = _untrained()
    trainer = WordPieceTrainer(vocab_size=vocabulary, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
