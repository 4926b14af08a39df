"""wav2vec 2.0: parity with transformers, and what must be true of masks, targets, negatives and schedules."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import nearfar
from samples import sounds, write_sounds
from test_encoders_audio import network
from test_methods_catalogue import total
from transformers import Wav2Vec2ForPreTraining

from nearfar.data.sound import Sound
from nearfar.data.table import Table
from nearfar.encoders.audio import TransformersAudio
from nearfar.errors import ArgumentError, TableError
from nearfar.method import Batch
from nearfar.methods.audio.wav2vec2 import Wav2Vec2
from nearfar.objectives import Pairing, info_nce
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train

SMALL: dict[str, Any] = {"codes": 6, "code_dim": 8, "dim": 10, "distractors": 7, "span": 4, "crop": 2.0}


def method(norm: str = "layer", **changed: Any) -> Wav2Vec2:
    torch.manual_seed(0)
    return Wav2Vec2(TransformersAudio(network(norm), 8000), **{**SMALL, **changed})


def batch_of(made: Wav2Vec2, cells: list[Sound] | None = None, seed: int = 0) -> Batch:
    return made.prepare({"audio": cells or sounds(4)}, torch.Generator().manual_seed(seed))


def spread(made: Wav2Vec2) -> Wav2Vec2:
    """Let hidden frames choose different codes: frames of a random network are much alike."""
    with torch.no_grad():
        made.quantiser.logits.weight.mul_(30)
    return made


# -- parity ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_the_loss_is_that_of_transformers(norm: str) -> None:
    """Same weights, hidden frames and distractors, evaluation mode; theirs is summed over hidden frames."""
    made = spread(method(norm)).eval()
    encoder, quantiser = made.encoder, made.quantiser
    config = copy.deepcopy(encoder.model.config)
    config.num_codevector_groups, config.num_codevectors_per_group = 2, 6
    config.codevector_dim, config.proj_codevector_dim, config.num_negatives = 8, 10, 7
    theirs = Wav2Vec2ForPreTraining(config).eval()
    theirs.wav2vec2.load_state_dict(encoder.model.state_dict())
    theirs.quantizer.weight_proj.load_state_dict(quantiser.logits.state_dict())
    theirs.quantizer.codevectors.data = quantiser.codebook.detach().reshape(1, 12, 4)
    theirs.project_hid.load_state_dict(made.state_head.state_dict())
    theirs.project_q.load_state_dict(made.code_head.state_dict())
    batch = batch_of(made, [sound for sound in sounds(6) if len(sound.samples) == 4000] + sounds(1, seed=3))
    hidden = batch["hidden"]
    torch.manual_seed(2)
    terms = made.loss(batch)
    torch.manual_seed(2)
    found = made.hidden_frames(batch)
    places = hidden.flatten().nonzero()[:, 0]
    negatives = torch.zeros(hidden.numel(), 7, dtype=torch.long)
    negatives[places] = places[found.drawn[:, 1:]]
    with torch.no_grad():
        said = theirs(
            batch["audio"]["samples"],
            mask_time_indices=hidden,
            sampled_negative_indices=negatives.view(*hidden.shape, 7),
        )
    assert len(found.chosen.codes.unique(dim=0)) > 4
    same = (found.chosen.codes[found.drawn[:, 1:]] == found.chosen.codes[:, None]).all(-1)
    assert bool(same.any()), "some distractors have the codes of the target, and are left out"
    torch.testing.assert_close(terms["contrast"] * len(places), said.contrastive_loss, rtol=1e-4, atol=1e-4)
    used = torch.nn.functional.one_hot(found.chosen.codes, 6).double().mean(dim=0)
    entropy = -(used * used.clamp(min=1e-12).log()).sum(dim=1)
    assert float(entropy.exp().sum()) == pytest.approx(float(said.codevector_perplexity), rel=1e-4)


def test_the_terms_are_weighted_as_released() -> None:
    made = method(diversity=0.1, penalty=10.0).eval()
    batch = batch_of(made)
    z, mask = made.encoder.frames(batch["audio"])
    terms = made.loss(batch)
    torch.testing.assert_close(terms["penalty"], 10 * z[mask].square().mean())
    p = made.hidden_frames(batch).chosen.probabilities.mean(dim=0)
    perplexity = torch.exp(-(p * p.clamp(min=1e-7).log()).sum(-1)).sum()
    torch.testing.assert_close(terms["diversity"], 0.1 * (12 - perplexity) / 12)


# -- what is hidden, and from whom -----------------------------------------------------------------


def test_states_do_not_see_hidden_frames_but_targets_do() -> None:
    made = spread(method()).eval()
    batch = batch_of(made)
    z, mask = made.encoder.frames(batch["audio"])
    hidden = batch["hidden"]
    changed = torch.where(hidden[..., None], torch.randn_like(z), z)
    states, normed = made.encoder.context(z, mask, hidden)
    others, others_normed = made.encoder.context(changed, mask, hidden)
    torch.testing.assert_close(others, states)
    one, two = (made.quantiser(frames[hidden]).codes for frames in (normed, others_normed))
    assert not torch.equal(one, two)
    visible = torch.where(hidden[..., None], z, torch.randn_like(z))
    assert not torch.allclose(made.encoder.context(visible, mask, hidden)[0], states)


def test_targets_are_codes_of_frames_not_of_the_transformer() -> None:
    made = method().eval()
    batch = batch_of(made)
    before = made.hidden_frames(batch).chosen.codes
    with torch.no_grad():
        for parameter in made.encoder.model.encoder.parameters():
            parameter.normal_()
        made.encoder.model.masked_spec_embed.normal_()
    assert torch.equal(made.hidden_frames(batch).chosen.codes, before)


def test_distractors_are_hidden_frames_of_the_same_recording() -> None:
    made = method()
    batch = batch_of(made)
    found = made.hidden_frames(batch)
    recording = batch["hidden"].nonzero()[:, 0]
    assert bool((recording[found.drawn] == recording[:, None]).all())
    assert found.drawn[:, 0].tolist() == list(range(len(recording)))
    assert not bool((found.drawn[:, 1:] == found.drawn[:, :1]).any())


def test_distractors_with_the_codes_of_the_target_are_left_out() -> None:
    """Otherwise the loss could not reach 0; a codebook of one code in use leaves nothing to tell apart."""
    made = method().eval()
    with torch.no_grad():
        made.quantiser.logits.weight.zero_()
    terms = made.loss(batch_of(made))
    assert float(terms["contrast"].detach()) == pytest.approx(0, abs=1e-6)


def test_the_loss_of_a_frame_is_the_cross_entropy_over_its_list() -> None:
    made = spread(method()).eval()
    batch = batch_of(made)
    found = made.hidden_frames(batch)
    c = torch.nn.functional.normalize(found.states, dim=1)
    q = torch.nn.functional.normalize(found.targets, dim=1)
    logits = (c[:, None] * q[found.drawn]).sum(-1) / 0.1
    same = (found.chosen.codes[found.drawn] == found.chosen.codes[:, None]).all(-1)
    same[:, 0] = False
    expected = torch.nn.functional.cross_entropy(
        logits.masked_fill(same, -torch.inf), torch.zeros(len(c), dtype=torch.long)
    )
    pairing = Pairing.sampled(found.drawn).ignoring(made._named(found.chosen.codes))
    got = info_nce(found.states, found.targets, pairing, temperature=0.1)
    torch.testing.assert_close(got, expected)
    drawn = replace(found, drawn=found.drawn[:, [0, 1, 1, 2]]).drawn
    twice = info_nce(found.states, found.targets, Pairing.sampled(drawn), temperature=0.1)
    listed = torch.nn.functional.cross_entropy(logits[:, [0, 1, 1, 2]], torch.zeros(len(c), dtype=torch.long))
    torch.testing.assert_close(twice, listed)


def test_different_choices_have_different_names() -> None:
    made = method()
    every = torch.cartesian_prod(torch.arange(6), torch.arange(6))
    assert len(made._named(every).unique()) == 36


def test_gradient_reaches_targets_and_states_and_all_parameters() -> None:
    made = spread(method()).train()
    total(made.loss(batch_of(made))).backward()
    idle = [name for name, p in made.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert idle == []


# -- padding and crops -----------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_padded_frames_enter_no_term(norm: str) -> None:
    made = method(norm).eval()
    cells = sounds(3)
    batch = batch_of(made, cells)
    assert len(set(batch["audio"]["lengths"].tolist())) == 3
    found = made.hidden_frames(batch)
    energies, frames, probabilities, states = [], [], [], []
    for at, sound in enumerate(cells):
        inputs = made.encoder.prepare([sound])
        n = int(made.encoder.frame_counts(inputs["lengths"]))
        alone = made.hidden_frames({"audio": inputs, "hidden": batch["hidden"][at : at + 1, :n]})
        energies.append(float(alone.energy.detach()))
        frames.append(n)
        probabilities.append(alone.chosen.probabilities)
        states.append(alone.states)
    assert float(found.energy.detach()) == pytest.approx(
        float(np.average(energies, weights=frames)), rel=1e-5
    )
    torch.testing.assert_close(found.chosen.probabilities, torch.cat(probabilities), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.states, torch.cat(states), rtol=1e-3, atol=1e-4)


def test_long_recordings_are_cropped_and_short_ones_left_whole() -> None:
    made = method(crop=0.52)
    batch = batch_of(made, sounds(3))
    assert batch["audio"]["lengths"].tolist() == [4000, 4160, 4160]
    again = batch_of(made, sounds(3), seed=1)
    assert not torch.equal(batch["audio"]["samples"][2], again["audio"]["samples"][2])


# -- schedules and gradients -----------------------------------------------------------------------


def test_the_gumbel_temperature_falls_to_its_end_and_is_kept_with_a_checkpoint() -> None:
    made = method(gumbel_start=2.0, gumbel_end=0.5, gumbel_decay=0.9)
    for step, expected in ((1, 1.8), (3, 2 * 0.9**3), (100, 0.5)):
        made.after_step({}, step, 100)
        assert float(made.gumbel_temperature) == pytest.approx(expected)
    again = method()
    again.load_state_dict(made.state_dict())
    assert float(again.gumbel_temperature) == 0.5


def test_the_temperature_matters_in_training_only() -> None:
    made = spread(method())
    batch = batch_of(made)

    def gradient(temperature: float) -> torch.Tensor:
        made.gumbel_temperature.fill_(temperature)
        made.zero_grad()
        torch.manual_seed(0)
        made.loss(batch)["contrast"].backward()
        assert made.quantiser.logits.weight.grad is not None
        return made.quantiser.logits.weight.grad.clone()

    made.train()
    assert not torch.allclose(gradient(0.5), gradient(2.0))
    made.eval()
    made.gumbel_temperature.fill_(0.5)
    torch.manual_seed(0)
    one = total(made.loss(batch))
    made.gumbel_temperature.fill_(2.0)
    torch.manual_seed(0)
    torch.testing.assert_close(total(made.loss(batch)), one)


def test_only_gradients_of_the_convolutions_are_scaled() -> None:
    def gradients(factor: float) -> dict[str, torch.Tensor]:
        made = method(conv_gradient=factor).eval()
        torch.manual_seed(0)
        total(made.loss(batch_of(made))).backward()
        return {name: p.grad for name, p in made.encoder.named_parameters() if p.grad is not None}

    whole, tenth = gradients(1.0), gradients(0.1)
    for name, gradient in whole.items():
        factor = 0.1 if "feature_extractor" in name else 1.0
        scale = float(gradient.abs().max())
        torch.testing.assert_close(tenth[name], factor * gradient, rtol=1e-3, atol=1e-5 * scale + 1e-8)


def test_without_diversity_and_with_it_the_codes_go_their_ways() -> None:
    """Trained on the diversity alone, a codebook whose use was narrow becomes even; without, it stays narrow."""
    table = Table.from_columns({"audio": sounds(8)})
    even = []
    for weight in (5.0, 0.0):
        made = method(diversity=weight, penalty=0.0)
        with torch.no_grad():
            made.quantiser.logits.bias[::6] = 4.0
        train(made, table, Settings(steps=60, batch_size=4, learning_rate=1e-2, warmup=0.0))
        even.append(float(made.quantiser.perplexity.sum()))
    assert even[0] > 1.3 * even[1]


# -- use -------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_base_model() -> None:
    defaults = {name: p.default for name, p in inspect.signature(Wav2Vec2.__init__).parameters.items()}
    assert (defaults["groups"], defaults["codes"], defaults["code_dim"], defaults["dim"]) == (
        2,
        320,
        256,
        256,
    )
    assert (defaults["temperature"], defaults["distractors"]) == (0.1, 100)
    assert (defaults["diversity"], defaults["penalty"], defaults["conv_gradient"]) == (0.1, 10.0, 0.1)
    assert (defaults["mask_share"], defaults["span"]) == (0.65, 10)
    assert defaults["crop"] == pytest.approx(250_000 / 16_000, abs=0.03)
    gumbel = [defaults[f"gumbel_{part}"] for part in ("start", "end", "decay")]
    assert gumbel == [2.0, 0.5, 0.999995]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("distractors", 0, "distractors must be between 1"),
        ("span", 1, "span must be between 2"),
        ("crop", 0.05, "crop must be between"),
        ("gumbel_end", 3.0, "gumbel_end must be between 0.001 and 2"),
        ("mask_share", 1.5, "mask_share must be between 0 and 1"),
        ("code_dim", 7, "multiple of groups"),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        method(**{name: value})


def test_a_sound_too_short_to_hide_a_span_is_named_before_training() -> None:
    made = method(span=10)
    cells = [*sounds(5), Sound(sounds(1)[0].samples[:1500], 8000)]
    table = Table.from_columns({"audio": cells}, name="calls.csv")
    with pytest.raises(
        TableError, match=r"calls\.csv, row 6, column 'audio': the sound lasts 0\.19 s; .* --span"
    ):
        train(made, table, Settings(steps=1, batch_size=2))


def test_what_the_codes_are_like_is_noted() -> None:
    made = method()
    train(made, Table.from_columns({"audio": sounds(4)}), Settings(steps=2, batch_size=4))
    assert made.notes()[0].startswith("codes chosen in the last 100 steps: group 1: perplexity")


def test_the_space_keeps_encoder_and_codes(tmp_path: Path) -> None:
    made = spread(method()).eval()
    space = made.space()
    space.save(tmp_path / "space")
    again = Space.load(tmp_path / "space")
    assert np.array_equal(again.encode(sounds(5)), space.encode(sounds(5)))
    frames = torch.randn(9, made.encoder.frame_dim)
    quantiser = again.parts["quantiser"]
    assert torch.equal(quantiser(frames).codes, made.quantiser(frames).codes)
    assert {name.split(".")[0] for name in again.parts} == {"quantiser"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sounds")
    for name, seed in (("low", 0), ("high", 5)):
        (place / name).mkdir()
        write_sounds(place / name, sounds(6, seed=seed))
    return place


def test_fit_measure_and_search_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    told = nearfar(
        *("fit", "wav2vec2", folder, "--out", tmp_path / "space", "--steps", 2, "--batch-size", 4),
        *("--codes", 8, "--distractors", 5, "--holdout-share", 0.34),
    ).stdout
    assert "codes chosen in the last 100 steps: group 1" in told
    measured = nearfar("measure", tmp_path / "space", folder).stdout
    assert "knn_accuracy" in measured
    query = folder / "low" / "sound-2.wav"
    found = nearfar("search", tmp_path / "space", folder, query, "-k", 2).stdout
    rows = sorted(path.relative_to(folder) for path in folder.rglob("*.wav"))
    assert f"1.000  row {rows.index(query.relative_to(folder)) + 1}  low" in found
    wrong = nearfar("search", tmp_path / "space", folder, folder / "none.wav", check=False)
    assert wrong.returncode
    assert "give the name of a sound file" in wrong.stderr
