"""DenoSent against each of its two losses alone, and what its denoiser does without the right vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nearfar.encoders.masked import MaskedText
from nearfar.encoders.prompted import PromptedText
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.methods.sentence.denosent import DenoSent
from nearfar.methods.sentence.simcse import SimCSE
from nearfar.recipes.sentences import (
    DEVIATIONS,
    caption_pairs,
    figures,
    fingerprints,
    fitted,
    sts_tests,
    trained,
)
from nearfar.recipes.tiny_mlm import captions, tiny_masked

PAIRS = 5_000
HELD_OUT = 256
LAYERS = 2
FFN = 512
VECTORS = ("own", "another's", "no")
RECOVERED = "words recovered with {} vector"
GAIN = "words recovered, own less another's vector"
ALONE = "a denoiser that needs no vector"


def experiment(data: DataFolder) -> Experiment:
    """5,000 pairs of captions, one epoch, from the tiny MLM encoder; tested on STS-B and SICK-R."""
    tests = sts_tests(data)
    pairs = caption_pairs(data, PAIRS)
    unseen = captions(data).tail(HELD_OUT)
    room = PromptedText.around(tiny_masked(data)).max_length  # of all arms, prompt or not

    def arm(make: type[DenoSent] = DenoSent, **weights: Any) -> Callable[[int], dict[str, float]]:
        def run(seed: int) -> dict[str, float]:
            encoder = tiny_masked(data)
            torch.manual_seed(seed)
            method = make(encoder, layers=LAYERS, ffn=FFN, **weights)
            found = figures(fitted(method, pairs, seed), tests)
            if make is ContrastAlone:  # its denoiser has learned nothing
                return found
            return found | recovery(method, list(unseen["caption1"]), list(unseen["caption2"]))

        return run

    def simcse(encoder: MaskedText) -> SimCSE:
        encoder.set_max_length(room)
        return SimCSE(encoder.plain(), pooling="cls")

    return Experiment(
        data={"training pairs": pairs.fingerprint, **fingerprints(tests)},
        arms={
            "simcse": trained(data, tests, pairs, simcse, base=tiny_masked),
            "contrast alone": arm(ContrastAlone),
            "denoising alone": arm(contrastive_weight=0.0),
            "denosent": arm(),
            ALONE: lambda seed: {GAIN: 0.0},
        },
        claims=(
            Claim("both losses beat contrast alone on STS-B", "denosent", "contrast alone", "sts-b"),
            Claim("both losses beat denoising alone on STS-B", "denosent", "denoising alone", "sts-b"),
            Claim(
                "DenoSent beats supervised SimCSE on the same pairs on STS-B", "denosent", "simcse", "sts-b"
            ),
            Claim(
                "the denoiser needs the sentence's own vector: with another's it recovers fewer words",
                "denosent",
                ALONE,
                GAIN,
            ),
            Claim("so it does when there is nothing but denoising", "denoising alone", ALONE, GAIN),
        ),
        examples=dict.fromkeys(("simcse", "contrast alone", "denoising alone", "denosent"), PAIRS),
        deviations=(
            *DEVIATIONS,
            "5,000 pairs of captions of one picture in place of 10^6 sentences and their back-translations, which "
            "stay untested",
            f"{LAYERS} layers of the denoiser, {FFN} wide inside, in place of 16 of 2,048; one epoch of 78 steps in "
            "place of 5,000",
            f"the encoder reads 32 positions, prompt included: texts are cut to {room} tokens in all arms",
            "recovered words are those of the captions, the prompt's left out, of 256 pairs that no arm is "
            "trained on (the base encoder's masked language modelling read them), under the noise of training; the "
            "vector is that of the other caption of the picture",
            "no probes of classification",
        ),
    )


class ContrastAlone(DenoSent):
    """The ablation: nothing is rebuilt."""

    def reconstruction_loss(self, inputs: dict[str, Tensor], embedded: Tensor, vectors: Tensor) -> Tensor:
        return vectors.new_zeros(len(vectors))


@torch.no_grad()
def recovery(method: DenoSent, texts: list[str], positives: list[str]) -> dict[str, float]:
    """Shares of the words of `positives` that are recovered from noise with the vectors of `texts`, or with others."""
    method.eval()
    method.denoiser.noise.train()
    encoder = method.encoder
    inputs = encoder.prepare(positives)
    own = method.head(encoder(encoder.prepare(texts)).pooled)
    embedded, mask = encoder(inputs, layers=True).layers[0], inputs["mask"]
    words = of_text(encoder, mask)[mask]
    found: dict[str, float] = {}
    for name, vectors in zip(VECTORS, (own, own.roll(1, 0), torch.zeros_like(own)), strict=True):
        torch.manual_seed(0)  # the same noise for all
        right = method.predicted(embedded, vectors, mask).argmax(-1) == inputs["ids"][mask]
        found[RECOVERED.format(name)] = float(right[words].float().mean())
    found[GAIN] = found[RECOVERED.format("own")] - found[RECOVERED.format("another's")]
    return found


def of_text(encoder: PromptedText, mask: Tensor) -> Tensor:
    """True where a token is one of the text, not of the prompt nor a special one [B, L]."""
    prompt, places = encoder.prompt, torch.arange(mask.shape[1])
    ends = mask.sum(dim=1, keepdim=True) - prompt.end - len(prompt.after)
    inside: Tensor = (places >= prompt.start + len(prompt.before)) & (places < ends)
    return inside
