"""The encoder of sounds: padding, rates, parity with transformers, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import sounds
from torch import Tensor, nn
from transformers import AutoFeatureExtractor, Wav2Vec2Config, Wav2Vec2ForCTC, Wav2Vec2Model

from nearfar.data.kinds import Audio, Text
from nearfar.data.sound import Sound
from nearfar.encoders import load_encoder, make_encoder
from nearfar.encoders.audio import MOST_SAMPLES, TransformersAudio
from nearfar.errors import ArgumentError, ArtefactError
from nearfar.space import Space


def network(norm: str = "layer", **changed: Any) -> Wav2Vec2Model:
    config = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": (12, 12, 12),
        "conv_stride": (5, 8, 4),
        "conv_kernel": (10, 9, 5),
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        "feat_extract_norm": norm,
        "do_stable_layer_norm": norm == "layer",
        **changed,
    }
    torch.manual_seed(0)
    return Wav2Vec2Model(Wav2Vec2Config(**config)).eval()


def small(norm: str = "layer") -> TransformersAudio:
    return TransformersAudio(network(norm), 8000)


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_padding_changes_nothing(norm: str) -> None:
    """With group norm over time, statistics over padded samples would differ."""
    encoder, made = small(norm), sounds(4)
    together = encoder(encoder.prepare(made))
    assert len(set(together.mask.sum(dim=1).tolist())) > 1
    for at, sound in enumerate(made):
        alone = encoder(encoder.prepare([sound]))
        n = alone.tokens.shape[1]
        assert int(together.mask[at].sum()) == n
        assert bool(alone.mask.all())
        torch.testing.assert_close(together.tokens[at, :n], alone.tokens[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.pooled[at], alone.tokens[0].mean(dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_states_are_those_of_transformers(norm: str) -> None:
    encoder = small(norm)
    inputs = encoder.prepare([sounds(1)[0]] * 2)
    expected = encoder.model(inputs["samples"])
    features = encoder(inputs)
    torch.testing.assert_close(features.tokens, expected.last_hidden_state)
    z, mask = encoder.frames(inputs)
    torch.testing.assert_close(encoder.context(z, mask)[1], expected.extract_features)
    hidden = torch.zeros(2, z.shape[1], dtype=torch.bool)
    hidden[0, 3:7] = hidden[1, 5:9] = True
    encoder.model.config.mask_time_prob = 0.5
    masked = encoder.model(inputs["samples"], mask_time_indices=hidden).last_hidden_state
    torch.testing.assert_close(encoder.context(z, mask, hidden)[0], masked)
    assert not torch.allclose(masked, features.tokens)


@pytest.mark.parametrize("narrow", [True, False])
def test_frames_are_25_ms_wide_and_come_every_20(narrow: bool) -> None:
    rate = 8000 if narrow else 16_000
    encoder = TransformersAudio.tiny(sounds(2, rate=8000 if narrow else 22_050), 8, 16, 1, 2)
    assert (encoder.rate, encoder.field, encoder.hop) == (rate, rate // 40, rate // 50)
    lengths = torch.tensor(
        [encoder.field, encoder.field + encoder.hop - 1, encoder.field + encoder.hop, 4321]
    )
    counts = [1, 1, 2, (4321 - encoder.field) // encoder.hop + 1]
    assert encoder.frame_counts(lengths).tolist() == counts
    assert encoder.frame_counts(torch.tensor([encoder.field - 1])).tolist() == [0]
    for n, count in zip(lengths.tolist(), counts, strict=True):
        z, _ = encoder.frames({"samples": torch.randn(1, n), "lengths": torch.tensor([n])})
        assert z.shape == (1, count, encoder.frame_dim)


def test_a_frame_sees_its_25_ms_and_no_more() -> None:
    encoder = TransformersAudio.tiny([Sound(np.zeros(1, np.float32), 8000)], 8, 16, 1, 2)
    wave = torch.randn(1, 2000, requires_grad=True)
    z, _ = encoder.frames({"samples": wave, "lengths": torch.tensor([2000])})
    [gradient] = torch.autograd.grad(z[0, 4].sum(), wave)
    seen = gradient[0].nonzero()[:, 0]
    assert (int(seen.min()), int(seen.max())) == (4 * 160, 4 * 160 + 199)


def test_each_sound_is_normalised_over_its_own_samples() -> None:
    encoder = small()
    loud = [Sound(3 * s.samples + 0.5, s.rate) for s in sounds(3)]
    inputs, same = encoder.prepare(loud), encoder.prepare(sounds(3))
    torch.testing.assert_close(inputs["samples"], same["samples"], rtol=1e-3, atol=1e-3)
    for wave, n in zip(inputs["samples"], inputs["lengths"].tolist(), strict=True):
        assert float(wave[:n].mean()) == pytest.approx(0, abs=1e-5)
        assert float(wave[:n].square().mean()) == pytest.approx(1, abs=1e-3)
        assert not wave[n:].any()
    untouched = TransformersAudio(network(), 8000, normalise=False).prepare(loud)
    torch.testing.assert_close(untouched["samples"][0, :4000], torch.from_numpy(loud[0].samples[:4000]))
    silence = encoder(encoder.prepare([Sound(np.zeros(4000, np.float32), 8000)]))
    assert bool(silence.pooled.isfinite().all())


def test_sounds_of_other_rates_are_resampled() -> None:
    encoder, time = small(), np.arange(32_000) / 32_000
    tone = np.sin(2 * np.pi * 300 * time).astype(np.float32)
    fast, slow = encoder.prepare([Sound(tone, 32_000)]), encoder.prepare([Sound(tone[::4].copy(), 8000)])
    assert fast["samples"].shape == slow["samples"].shape
    torch.testing.assert_close(fast["samples"][:, 100:-100], slow["samples"][:, 100:-100], atol=0.02, rtol=0)


def test_what_is_no_sound_or_too_short_is_refused() -> None:
    encoder = small()
    short = Sound(np.ones(100, np.float32), 8000)
    with pytest.raises(ArgumentError, match="sound 2 of 2 lasts 12 ms; this encoder needs"):
        encoder.prepare([sounds(1)[0], short])
    with pytest.raises(ArgumentError, match="sound 1 of 1 is str"):
        Space({"audio": encoder}).encode(["a file.wav"])


def test_batches_for_inference_hold_every_row_once_and_no_more_than_memory_may() -> None:
    encoder = small()
    made = [*sounds(5), Sound(np.zeros(MOST_SAMPLES, np.float32), 8000)] * 2
    found = [list(positions) for positions, _ in encoder.batches(made, 4)]
    assert sorted(at for group in found for at in group) == list(range(12))
    assert [11] in found
    assert [5] in found
    assert max(map(len, found)) <= 4


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_it_loads_bit_equal_and_transformers_reads_its_folder(norm: str, tmp_path: Path) -> None:
    encoder, made = small(norm), sounds(3)
    encoder.save(tmp_path)
    again = load_encoder(tmp_path)
    assert isinstance(again, TransformersAudio)
    assert not any(part.training for part in again.modules())
    assert (again.rate, again.settings()) == (8000, encoder.settings())
    assert torch.equal(again(again.prepare(made)).pooled, encoder(encoder.prepare(made)).pooled)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    theirs = extractor(made[0].samples, sampling_rate=8000, return_tensors="pt")["input_values"]
    torch.testing.assert_close(theirs, encoder.prepare(made[:1])["samples"], rtol=1e-4, atol=1e-4)
    states = Wav2Vec2Model.from_pretrained(tmp_path).eval()(theirs).last_hidden_state
    torch.testing.assert_close(states, encoder(encoder.prepare(made[:1])).tokens, rtol=1e-3, atol=1e-4)


def test_a_folder_of_transformers_is_read(tmp_path: Path) -> None:
    """One fine-tuned for recognition, which has neither the vector of hidden frames nor nearfar's settings."""
    config = network().config
    model = Wav2Vec2ForCTC(config)
    del model.wav2vec2.masked_spec_embed
    model.save_pretrained(tmp_path)
    with pytest.raises(ArtefactError, match=r"preprocessor_config\.json"):
        make_encoder(str(tmp_path), Audio, [])
    (tmp_path / "preprocessor_config.json").write_text('{"sampling_rate": 11025, "do_normalize": false}')
    encoder = make_encoder(str(tmp_path), Audio, [])
    assert isinstance(encoder, TransformersAudio)
    assert (encoder.rate, encoder.normalise, encoder.pretrained) == (11_025, False, True)
    weight = model.wav2vec2.feature_projection.projection.weight
    assert torch.equal(encoder.model.feature_projection.projection.weight, weight)
    assert encoder.model.masked_spec_embed.shape == (16,)


def test_other_models_are_refused() -> None:
    with pytest.raises(ArgumentError, match="Linear is no encoder of sounds"):
        TransformersAudio(nn.Linear(2, 2))
    with pytest.raises(ArgumentError, match="without adapter"):
        TransformersAudio(network(add_adapter=True))
    with pytest.raises(ArgumentError, match="reads texts"):
        make_encoder("minilm", Audio, [])


def test_tiny_depends_on_its_seed_and_all_of_it_gets_gradient(tmp_path: Path) -> None:
    one, same, other = (make_encoder(None, Audio, sounds(2), seed=seed) for seed in (1, 1, 2))
    inputs = one.prepare(sounds(2))
    assert torch.equal(one(inputs).pooled, same(inputs).pooled)
    assert not torch.allclose(one(inputs).pooled, other(inputs).pooled)
    one(inputs).pooled.square().sum().backward()
    idle = [name for name, p in one.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert idle == ["model.masked_spec_embed"], "only the vector of hidden frames, of which there are none"
    one.save(tmp_path)
    with pytest.raises(ArgumentError, match="reads audio, not text"):
        make_encoder(str(tmp_path), Text, [])


def test_muted_channels_are_zero_behind_the_projection() -> None:
    encoder = small()
    z, mask = encoder.frames(encoder.prepare([sounds(1)[0]]))
    seen: list[Tensor] = []
    encoder.model.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()))
    muted = torch.zeros(1, 16, dtype=torch.bool)
    muted[0, 4:9] = True
    encoder.context(z, mask, muted=muted)
    encoder.context(z, mask)
    assert not seen[0][..., 4:9].any()
    assert torch.equal(seen[0][..., 9:], seen[1][..., 9:])
