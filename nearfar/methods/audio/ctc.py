"""CTC: an encoder of sounds learns to write down what is said."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearfar.data.checks import require_sounds
from nearfar.data.faults import shown
from nearfar.data.kinds import Audio, Text
from nearfar.encoders.audio import TransformersAudio
from nearfar.errors import ArgumentError, check_between
from nearfar.heads.ctc import CTCHead
from nearfar.measures.transcripts import RECOGNISER
from nearfar.method import Batch, Embed, Method, Stage
from nearfar.objectives import ctc_loss
from nearfar.objectives.ctc import fewest_frames
from nearfar.space import Space
from nearfar.views.span_masks import span_mask

if TYPE_CHECKING:
    from nearfar.data.sound import Sound
    from nearfar.data.table import Table


class CTC(Method):
    """The text of a recording is near its frames under any alignment. No contrast: supervised fine-tuning.

        loss = - sum_i log sum over paths that collapse to text_i of prod_t p_t / characters of the batch
        p_t = softmax(W dropout(c_t)) over the characters of the alphabet and a blank

    as wav2vec 2.0 fine-tunes its encoder: the convolutions are never trained; for the share `frozen` of the steps
    W alone learns, then the transformer too. Spans of frames are hidden and spans of channels set to 0 (the first
    as in pretraining). Texts are lowered. To fine-tune what `wav2vec2` trained, give its folder:
    `--encoder SPACE/audio`. Measures and `nearfar measure` tell the character and word error of greedy decoding.

    Baevski et al. "wav2vec 2.0", NeurIPS 2020, fine-tuned for 20,000 updates at a rate of 5e-5; the values here are
    of its released configuration for 10 hours of labels.

    Args:
        alphabet: the characters that texts may hold, each once, in lower case.
        frozen: share of the steps in which only W learns.
        dropout: of the states before W.
        mask_share: length of all hidden spans, before they overlap, as a share of the frames; 0 hides none.
        span: frames of a span.
        channel_share: the same for channels; 0 mutes none.
        channel_span: channels of a span.

    Graves, Fernandez, Gomez, Schmidhuber. "Connectionist Temporal Classification: Labelling Unsegmented Sequence
    Data with Recurrent Neural Networks." ICML 2006.
    """

    reads = {"audio": Audio, "text": Text}

    def __init__(
        self,
        encoder: TransformersAudio,
        alphabet: str = " 'abcdefghijklmnopqrstuvwxyz",
        frozen: float = 0.5,
        dropout: float = 0.1,
        mask_share: float = 0.65,
        span: int = 10,
        channel_share: float = 0.5,
        channel_span: int = 64,
    ) -> None:
        super().__init__()
        check_between(0, 1, frozen=frozen, mask_share=mask_share, channel_share=channel_share)
        check_between(1, math.inf, span=span)
        check_between(1, encoder.dim - 1, channel_span=channel_span)
        self.encoder = encoder
        encoder.model.feature_extractor.requires_grad_(False)
        self.recogniser = CTCHead(encoder.dim, alphabet=alphabet, dropout=dropout)
        self.frozen = frozen
        self.mask_share, self.span = mask_share, span
        self.channel_share, self.channel_span = channel_share, channel_span
        self.too_long: list[int] = []
        self._read = ""

    def negatives(self, batch_size: int) -> int:
        return 0

    def stages(self) -> list[Stage]:
        head = list(self.recogniser.parameters())
        found = [Stage("head", self.frozen, head), Stage("all", 1 - self.frozen)]
        return [stage for stage in found if stage.share > 0]

    def before_epoch(self, table: Table, embed: Embed) -> None:
        """Refuse characters out of the alphabet, and count texts too long for their sound, once for a table."""
        if self._read == table.fingerprint:
            return
        texts = table.column("text")
        self.too_long = []

        def problem(at: int, sound: Sound) -> str | None:
            try:
                characters = self.recogniser.characters(texts[at])
            except ArgumentError as foreign:
                return (
                    f"of its text {shown(texts[at])}, {foreign}: pass --alphabet with all characters, or spell "
                    "it otherwise"
                )
            samples = torch.tensor([int(sound.seconds * self.encoder.rate)])
            if fewest_frames(characters) > int(self.encoder.frame_counts(samples)):
                self.too_long += table.row_numbers([at])
            return None

        require_sounds(table, "audio", problem)
        self._read = table.fingerprint

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        inputs = self.encoder.prepare(rows["audio"])
        characters = [torch.tensor(self.recogniser.characters(text)) for text in rows["text"]]
        batch = {
            "audio": inputs,
            "characters": torch.nn.utils.rnn.pad_sequence(characters, batch_first=True),
            "lengths": torch.tensor([len(text) for text in characters]),
        }
        if self.mask_share:
            frames = self.encoder.frame_counts(inputs["lengths"])
            batch["hidden"] = span_mask(frames, generator, share=self.mask_share, span=self.span)
        if self.channel_share:
            widths = torch.full((len(characters),), self.encoder.dim)
            share, span = self.channel_share, self.channel_span
            batch["muted"] = span_mask(widths, generator, share=share, span=span, least=0)
        return batch

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        z, mask = self.encoder.frames(batch["audio"])
        states, _ = self.encoder.context(z, mask, batch.get("hidden"), batch.get("muted"))
        found = self.recogniser(states)
        return {"ctc": ctc_loss(found, mask.sum(dim=1), batch["characters"], batch["lengths"])}

    def notes(self) -> list[str]:
        if not self.too_long:
            return []
        first = ", ".join(map(str, self.too_long[:5]))
        return [
            f"{len(self.too_long)} texts have more characters than their sounds have frames and taught nothing "
            f"(rows {first}{', ...' if len(self.too_long) > 5 else ''})"
        ]

    def space(self) -> Space:
        return Space({"audio": self.encoder}, parts={RECOGNISER: self.recogniser})
