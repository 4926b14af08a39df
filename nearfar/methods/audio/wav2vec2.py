"""wav2vec 2.0: hidden stretches of speech, recognised among other stretches of the same recording."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nearfar.batching.negatives import same_sequence
from nearfar.data.checks import require_sounds
from nearfar.data.kinds import Audio
from nearfar.encoders.audio import TransformersAudio
from nearfar.errors import check_between
from nearfar.heads.quantiser import GumbelQuantiser, Quantised
from nearfar.method import Batch, Embed, Method
from nearfar.objectives import Pairing, info_nce, unused_codes
from nearfar.space import Space
from nearfar.training.codebook_alarm import CodebookAlarm
from nearfar.views.span_masks import random_crop, span_mask

if TYPE_CHECKING:
    from nearfar.data.sound import Sound
    from nearfar.data.table import Table


@dataclass(frozen=True)
class HiddenFrames:
    """The M hidden frames of a batch, recording after recording.

    Attributes:
        states: c, what the transformer makes of each from what is around it, [M, dim].
        targets: q, what was there, quantised, [M, dim].
        chosen: the codes behind `targets`.
        drawn: of each frame its own number and those of its K distractors, [M, 1 + K].
        energy: mean of z^2 over all valid frames.
    """

    states: Tensor
    targets: Tensor
    chosen: Quantised
    drawn: Tensor
    energy: Tensor


class Wav2Vec2(Method):
    """The state of a hidden frame is near the code of what was there, far from codes of other hidden frames.

    The convolutions make frames z [B, T, c] of raw waves. Spans of the layer-normalised, projected frames are
    replaced by one learned vector before the transformer, whose states of the hidden frames are projected to
    c_t; the quantiser sees the same frames unhidden, layer-normalised, and its codes are projected to q_t:

        contrast_t = -log exp(cos(c_t, q_t) / k) / sum over q in {q_t, K distractors} of exp(cos(c_t, q) / k)
        diversity  = (G V - sum_g exp(H(pbar_g))) / (G V),   pbar_g: mean softmax of group g's logits
        loss = mean_t contrast_t + a diversity + b mean z^2                     t: all hidden frames of the batch

    Distractors are codes of other hidden frames of the same recording, drawn uniformly with replacement; one
    that chose the same codes as q_t is left out. Gradient flows into all q. z is taken before its layer norm,
    valid frames only; gradients of the convolutions are scaled. The Gumbel temperature of step n is
    max(start decay^n, end). Of a recording longer than `crop` a random piece is read.

    The quantiser stays with the space, so that its codes can be read; the two projections do not. `ctc` fine-tunes
    the encoder to write down speech.

    From the released code, not the paper: the form of the diversity, the mean of z^2, the scaled gradient, and
    how spans are counted and cut. AdamW's decays are the library's, not (0.9, 0.98).

    Args:
        groups: G, codebooks.
        codes: V, codes of each.
        code_dim: width of a chosen code, all groups together.
        dim: width in which states and codes are compared.
        temperature: k.
        distractors: K.
        diversity: a.
        penalty: b.
        mask_share: length of all spans, before they overlap, as a share of the frames.
        span: frames of a span.
        crop: seconds read at most.
        gumbel_start: temperature of the choice of codes at the start.
        gumbel_end: what it does not fall below.
        gumbel_decay: its factor at each step.
        conv_gradient: factor of the gradients of the convolutions.

    Baevski, Zhou, Mohamed, Auli. "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech
    Representations." NeurIPS 2020.
    """

    reads = {"audio": Audio}

    def __init__(
        self,
        encoder: TransformersAudio,
        groups: int = 2,
        codes: int = 320,
        code_dim: int = 256,
        dim: int = 256,
        temperature: float = 0.1,
        distractors: int = 100,
        diversity: float = 0.1,
        penalty: float = 10.0,
        mask_share: float = 0.65,
        span: int = 10,
        crop: float = 15.6,
        gumbel_start: float = 2.0,
        gumbel_end: float = 0.5,
        gumbel_decay: float = 0.999995,
        conv_gradient: float = 0.1,
    ) -> None:
        super().__init__()
        check_between(1, math.inf, distractors=distractors)
        check_between(0, math.inf, diversity=diversity, penalty=penalty)
        check_between(0, 1, mask_share=mask_share, gumbel_decay=gumbel_decay, conv_gradient=conv_gradient)
        check_between(2, math.inf, span=span)  # of a single hidden frame there is no other to be far from
        check_between(1e-3, gumbel_start, gumbel_end=gumbel_end)
        self.encoder = encoder
        shortest = encoder.field + span * encoder.hop  # samples of span + 1 frames
        check_between(shortest / encoder.rate, math.inf, crop=crop)
        self.quantiser = GumbelQuantiser(encoder.frame_dim, code_dim, groups=groups, codes=codes)
        self.state_head, self.code_head = nn.Linear(encoder.dim, dim), nn.Linear(code_dim, dim)
        self.temperature, self.distractors = temperature, distractors
        self.diversity, self.penalty, self.conv_gradient = diversity, penalty, conv_gradient
        self.mask_share, self.span, self.crop = mask_share, span, crop
        self.gumbel = (gumbel_start, gumbel_decay, gumbel_end)
        self.register_buffer("gumbel_temperature", torch.tensor(gumbel_start))
        self.alarm = CodebookAlarm()
        self._read = ""

    def negatives(self, batch_size: int) -> int:
        return 0  # the loss has two other terms

    def before_epoch(self, table: Table, embed: Embed) -> None:
        """Refuse recordings in which no span can be hidden, the first time that a table is seen."""
        if self._read == table.fingerprint:
            return
        shortest = (self.encoder.field + self.span * self.encoder.hop) / self.encoder.rate

        def problem(at: int, sound: Sound) -> str | None:
            if sound.seconds >= shortest:
                return None
            return (
                f"the sound lasts {sound.seconds:.2f} s; to hide spans of {self.span} frames it must last "
                f"{shortest:.2f} s: leave such rows out, or pass a smaller --span"
            )

        require_sounds(table, "audio", problem)
        self._read = table.fingerprint

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        inputs = self.encoder.prepare([random_crop(sound, self.crop, generator) for sound in rows["audio"]])
        frames = self.encoder.frame_counts(inputs["lengths"])
        return {
            "audio": inputs,
            "hidden": span_mask(frames, generator, share=self.mask_share, span=self.span),
        }

    def hidden_frames(self, batch: Batch) -> HiddenFrames:
        """States and targets of the hidden frames of a prepared batch."""
        z, mask = self.encoder.frames(batch["audio"])
        if z.requires_grad:
            z.register_hook(lambda gradient: self.conv_gradient * gradient)
        hidden = batch["hidden"]
        states, normed = self.encoder.context(z, mask, hidden)
        chosen = self.quantiser(normed[hidden], float(self.get_buffer("gumbel_temperature")))
        return HiddenFrames(
            self.state_head(states[hidden]),
            self.code_head(chosen.vectors),
            chosen,
            same_sequence(hidden.sum(dim=1), self.distractors),
            z[mask].float().square().mean(),
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        found = self.hidden_frames(batch)
        pairing = Pairing.sampled(found.drawn).ignoring(self._named(found.chosen.codes))
        contrast = info_nce(found.states, found.targets, pairing, temperature=self.temperature)
        return {
            "contrast": contrast,
            "diversity": self.diversity * unused_codes(found.chosen.probabilities),
            "penalty": self.penalty * found.energy,
        }

    def _named(self, codes: Tensor) -> Tensor:
        """One number for each choice of codes [M, G]: [M]."""
        places = self.quantiser.codes ** torch.arange(codes.shape[1], device=codes.device)
        return (codes * places).sum(dim=1)

    def after_step(self, z: dict[str, Tensor], step: int, steps: int) -> None:
        start, decay, end = self.gumbel
        self.get_buffer("gumbel_temperature").fill_(max(start * decay**step, end))
        self.alarm.look(self.quantiser, step)

    def notes(self) -> list[str]:
        return [self.quantiser.told(), *self.alarm.warnings]

    def space(self) -> Space:
        return Space({"audio": self.encoder}, parts={"quantiser": self.quantiser})
