"""Sounds to features: wav2vec 2.0 of transformers, trained before or made from scratch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.data.kinds import Audio
from nearfar.data.sound import resampled
from nearfar.encoders.encoder import Encoder, Features
from nearfar.encoders.lengths import length_groups
from nearfar.encoders.pictures import PREPROCESSOR, read_preprocessor
from nearfar.encoders.pretrained import load_model, model_folder, refuse_code, save_model
from nearfar.encoders.settings import read_settings, write_settings
from nearfar.errors import ArgumentError
from nearfar.files import write_json
from nearfar.heads.pool import pool

MOST_SAMPLES = 1 << 21
"""Samples of one batch for inference: two minutes at 16 kHz, which the first convolution widens a hundredfold."""
FLAT = 1e-7
"""Added to the variance of a sound before it is divided by it, as in transformers."""


class TransformersAudio(Encoder):
    """A wav2vec 2.0 network: strided convolutions over the raw wave, then a transformer over their frames.

        x  the wave at `rate`, with mean 0 and variance 1 if `normalise`      [B, N]
        z  seven convolutions (512 channels, 25 ms wide, every 20 ms)         [B, T, c]
        c  transformer(P LayerNorm(z) + grouped convolution over frames)      [B, T, d]

    Padding changes nothing: padded frames are hidden from the transformer, and where the first convolution
    normalises over time (`feat_extract_norm` "group"), rows of unequal length pass the convolutions one by one.
    Attention grows with the square of the length: cut recordings of many minutes beforehand.

    Baevski, Zhou, Mohamed, Auli. "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech
    Representations." NeurIPS 2020.

    Args:
        model: a `transformers.Wav2Vec2Model` without adapter.
        rate: samples a second that it reads; sounds of other rates are resampled.
        normalise: whether each sound is shifted and scaled to mean 0 and variance 1.

    Raises:
        ArgumentError: another model.
    """

    kind = Audio

    def __init__(self, model: Any, rate: int = 16_000, normalise: bool = True) -> None:
        super().__init__()
        if type(model).__name__ != "Wav2Vec2Model" or model.adapter is not None:
            raise ArgumentError(
                f"{type(model).__name__} is no encoder of sounds that nearfar knows: it reads Wav2Vec2Model "
                "without adapter"
            )
        self.model, self.rate, self.normalise = model, rate, normalise
        self.dim = int(model.config.hidden_size)
        self.frame_dim = int(model.config.conv_dim[-1])
        """Width of the frames that come out of the convolutions."""
        if getattr(model, "masked_spec_embed", None) is None:
            model.masked_spec_embed = nn.Parameter(torch.rand(self.dim))

    @classmethod
    def tiny(
        cls, examples: Sequence[Any], channels: int = 128, dim: int = 128, layers: int = 4, heads: int = 4
    ) -> Self:
        """A small network from scratch for sounds like `examples`: at 8 kHz where none has a higher rate, else 16.

        Frames are 25 ms wide and come every 20 ms, as in the published networks. Layer norms in all convolutions,
        and before the blocks of the transformer, as in the large one.

        Args:
            examples: sounds, of which only the rate is read.
            channels: of the convolutions.
            dim: d, width of the transformer.
            layers: of the transformer.
            heads: of attention.
        """
        from transformers import Wav2Vec2Config, Wav2Vec2Model

        rates = Counter(sound.rate for sound in examples)
        narrow = bool(rates) and max(rates) <= 8_000
        threes = 3 if narrow else 4  # one more halving from 16 kHz
        strides, kernels = (5, *[2] * (threes + 2)), (10, *[3] * threes, 2, 2)
        config = Wav2Vec2Config(
            hidden_size=dim,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * dim,
            conv_dim=(channels,) * len(strides),
            conv_stride=strides,
            conv_kernel=kernels,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            num_conv_pos_embeddings=32,
            num_conv_pos_embedding_groups=4,
            layerdrop=0.05,
        )
        return cls(Wav2Vec2Model(config).eval(), 8_000 if narrow else 16_000)

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """Read a wav2vec 2.0 network of transformers from a folder or the hub.

        Raises:
            ArgumentError: nothing of that name can be found, or it is another network.
            ArtefactError: the folder needs pickle or its own code to be read, or is incomplete.
        """
        folder = model_folder(name)
        refuse_code(folder)
        said = read_preprocessor(folder)
        encoder = cls(
            load_model(folder), int(said.get("sampling_rate", 16_000)), bool(said.get("do_normalize", True))
        )
        return encoder.eval()

    # -- from sounds to frames -----------------------------------------------------------------------

    @property
    def field(self) -> int:
        """Samples that one frame sees."""
        seen, hop = 1, 1
        for kernel, stride in self._convolutions:
            seen, hop = seen + (kernel - 1) * hop, hop * stride
        return seen

    @property
    def hop(self) -> int:
        """Samples between two frames."""
        return int(np.prod([stride for _, stride in self._convolutions]))

    @property
    def _convolutions(self) -> list[tuple[int, int]]:
        config = self.model.config
        return list(zip(config.conv_kernel, config.conv_stride, strict=True))

    def frame_counts(self, lengths: Tensor) -> Tensor:
        """Frames of sounds of `lengths` [B] samples: int64 [B]."""
        for kernel, stride in self._convolutions:
            lengths = (lengths - kernel) // stride + 1
        return lengths.clamp(min=0)

    def prepare(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Resample B sounds, normalise each over its own samples, and pad them with zeros to the longest.

        Returns:
            "samples", float32 [B, N], and "lengths", int64 [B].

        Raises:
            ArgumentError: a row is no sound, or shorter than one frame.
        """
        _check_sounds(rows)
        waves = [torch.from_numpy(np.array(resampled(row, self.rate))) for row in rows]
        for at, (row, wave) in enumerate(zip(rows, waves, strict=True)):
            if len(wave) < self.field:
                raise ArgumentError(
                    f"sound {at + 1} of {len(rows)} lasts {1000 * row.seconds:.0f} ms; this encoder needs "
                    f"{1000 * self.field / self.rate:.0f} ms"
                )
            if self.normalise:
                wave -= wave.mean()
                wave /= (wave.square().mean() + FLAT).sqrt()
        return {
            "samples": nn.utils.rnn.pad_sequence(waves, batch_first=True),
            "lengths": torch.tensor([len(wave) for wave in waves]),
        }

    def batches(
        self, rows: Sequence[Any], batch_size: int
    ) -> Iterator[tuple[Sequence[int], dict[str, Tensor]]]:
        """Batches of similar length, longest first, of `MOST_SAMPLES` samples at most if they hold two rows."""
        _check_sounds(rows)
        for group in length_groups([round(row.seconds * self.rate) for row in rows], batch_size):
            while group:
                fitting = max(1, int(MOST_SAMPLES // (rows[group[0]].seconds * self.rate)))
                now, group = group[:fitting], group[fitting:]
                yield now, self.prepare([rows[i] for i in now])

    # -- from frames to features ---------------------------------------------------------------------

    def frames(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What the convolutions make of the waves, before any layer norm behind them.

        Returns:
            z [B, T, c], and True where a frame is valid, [B, T].
        """
        samples, lengths = inputs["samples"], inputs["lengths"]
        counts = self.frame_counts(lengths)
        over_time = self.model.config.feat_extract_norm == "group"
        if over_time and bool((lengths != lengths[0]).any()):
            alone = [self._convolved(samples[i : i + 1, :n])[0] for i, n in enumerate(lengths.tolist())]
            z = nn.utils.rnn.pad_sequence(alone, batch_first=True)
        else:
            z = self._convolved(samples)
        return z, torch.arange(z.shape[1], device=z.device) < counts[:, None]

    def _convolved(self, samples: Tensor) -> Tensor:
        states = samples[:, None]
        for layer in self.model.feature_extractor.conv_layers:
            states = layer(states)
        return states.transpose(1, 2)

    def context(
        self, z: Tensor, mask: Tensor, hidden: Tensor | None = None, muted: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The transformer over frames, some of which may be hidden from it.

        Args:
            z: of `frames`, [B, T, c].
            mask: True where a frame is valid, [B, T].
            hidden: True where a frame is replaced by one learned vector, [B, T].
            muted: True where a channel of the projected frames is set to 0, [B, d].

        Returns:
            The states c [B, T, d], and the layer-normalised frames [B, T, c], of which nothing is hidden.
        """
        states, normed = self.model.feature_projection(z)
        if hidden is not None:
            states = torch.where(hidden[..., None], self.model.masked_spec_embed.to(states.dtype), states)
        if muted is not None:
            states = states.masked_fill(muted[:, None], 0)
        whole = bool(mask.all())
        return self.model.encoder(states, attention_mask=None if whole else mask).last_hidden_state, normed

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """Encode what `prepare` returned; the mean of the valid frames is the pooled vector."""
        z, mask = self.frames(inputs)
        tokens, _ = self.context(z, mask)
        return Features(tokens, mask, pool(tokens, mask, "mean"))

    # -- files -----------------------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """The rate, and whether sounds are normalised."""
        return {"rate": self.rate, "normalise": self.normalise}

    def save(self, folder: Path) -> None:
        """Write a folder that transformers reads as well."""
        save_model(self.model, folder)
        said = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": self.rate}
        said |= {"do_normalize": self.normalise, "feature_size": 1, "padding_value": 0.0}
        write_json(folder / PREPROCESSOR, said)
        write_settings(folder, self)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ArtefactError: the folder is incomplete, of another encoder, or could run code.
        """
        read_settings(folder, expected=cls.__name__)
        return cls.from_pretrained(folder)


def _check_sounds(rows: Sequence[Any]) -> None:
    wrong = next((i for i, row in enumerate(rows) if not Audio.holds(row)), None)
    if wrong is not None:
        raise ArgumentError(
            f"sound {wrong + 1} of {len(rows)} is {type(rows[wrong]).__name__}, not nearfar.data.sound.Sound"
        )
