"""The denoiser against PyTorch's decoder, and what its one memory vector means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nearfar.errors import ArgumentError
from nearfar.heads.decoders.denoiser import Denoiser

DIM, LENGTH = 12, 6
MASK = torch.tensor([[True] * 6, [True] * 4 + [False] * 2, [True] * 2 + [False] * 4])


def inputs(seed: int = 0) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(3, LENGTH, DIM, generator=drawn), torch.randn(3, DIM, generator=drawn)


def decoder_of_pytorch(denoiser: Denoiser, heads: int) -> nn.TransformerDecoder:
    """The release's decoder with the same weights; its queries and keys of cross attention stay random."""
    layer = nn.TransformerDecoderLayer(DIM, heads, dim_feedforward=20, batch_first=True)
    decoder = nn.TransformerDecoder(layer, len(denoiser.blocks))
    for theirs, ours in zip(decoder.layers, denoiser.blocks, strict=True):
        with torch.no_grad():
            theirs.multihead_attn.in_proj_weight.normal_()
            theirs.multihead_attn.in_proj_weight[2 * DIM :] = ours.memory_in.weight
            theirs.multihead_attn.in_proj_bias[2 * DIM :] = ours.memory_in.bias
            theirs.self_attn.in_proj_weight.copy_(ours.inward.weight)
            theirs.self_attn.in_proj_bias.copy_(ours.inward.bias)
        for name, part in {
            "self_attn.out_proj": ours.outward,
            "multihead_attn.out_proj": ours.memory_out,
            "linear1": ours.wide,
            "linear2": ours.narrow,
            "norm1": ours.norms[0],
            "norm2": ours.norms[1],
            "norm3": ours.norms[2],
        }.items():
            theirs.get_submodule(name).load_state_dict(part.state_dict())
    return decoder


def shaken(heads: int) -> Denoiser:
    torch.manual_seed(1)
    denoiser = Denoiser(DIM, layers=2, heads=heads, ffn=20)
    for parameter in denoiser.parameters():  # biases and norms begin where mistakes would not show
        nn.init.normal_(parameter, std=0.4)
    return denoiser


@pytest.mark.parametrize("heads", [1, 3])
def test_it_computes_what_pytorchs_decoder_does_with_any_queries_and_keys_of_the_memory(heads: int) -> None:
    denoiser = shaken(heads).eval()
    embedded, memory = inputs()
    decoder = decoder_of_pytorch(denoiser, heads).eval()
    theirs = decoder(embedded, memory.unsqueeze(1), tgt_key_padding_mask=~MASK)
    torch.testing.assert_close(denoiser(embedded, memory, MASK)[MASK], theirs[MASK], rtol=1e-4, atol=1e-5)


def test_every_position_sees_every_other_and_the_memory() -> None:
    denoiser = shaken(1).eval()
    embedded, memory = inputs()
    embedded.requires_grad_(), memory.requires_grad_()
    out = denoiser(embedded, memory, MASK)
    for place in range(LENGTH):
        by_input, by_memory = torch.autograd.grad(
            out[0, place].pow(3).sum(), (embedded, memory), retain_graph=True
        )
        assert bool((by_input[0].abs().sum(-1) > 0).all()), "no causal mask: what comes later counts"
        assert bool((by_memory[0] != 0).any())
        assert not by_input[1:].any()
        assert not by_memory[1:].any()


def test_padding_is_never_seen() -> None:
    denoiser = shaken(1).eval()
    embedded, memory = inputs()
    changed = torch.where(MASK.unsqueeze(-1), embedded, embedded + 5)
    usual = denoiser(embedded, memory, MASK)
    torch.testing.assert_close(denoiser(changed, memory, MASK)[MASK], usual[MASK])
    alone = denoiser(embedded[2:, :2], memory[2:], MASK[2:, :2])
    torch.testing.assert_close(alone[0], usual[2, :2])


def test_noise_strikes_single_entries_of_all_positions_and_only_in_training() -> None:
    denoiser = Denoiser(64, noise=0.825, layers=1)
    noised = denoiser.noise(torch.ones(40, 20, 64))
    assert float((noised == 0).float().mean()) == pytest.approx(0.825, abs=0.01)
    assert float(noised.max()) == pytest.approx(1 / 0.175)
    per_position = (noised == 0).float().mean(-1)
    assert float(per_position.min()) > 0.5, "no position is spared"
    assert float(per_position.max()) < 1, "and none is dropped as a whole"
    assert torch.equal(denoiser.eval().noise(torch.ones(3)), torch.ones(3))


def test_every_parameter_learns() -> None:
    denoiser = Denoiser(DIM, noise=0.5, layers=2, ffn=20)
    denoiser(*inputs(), MASK).pow(3).sum().backward()
    # A shift of all keys changes no weight: the third of the bias that belongs to them learns nothing.
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in denoiser.parameters())


def test_new_weights_are_those_of_the_release() -> None:
    torch.manual_seed(0)
    block = Denoiser(256, layers=1).blocks[0]
    for linear in (block.outward, block.memory_out, block.wide, block.narrow):
        assert float(linear.weight.std()) == pytest.approx(0.02, rel=0.03)
    theirs = nn.MultiheadAttention(256, 1).in_proj_weight
    for linear in (block.inward, block.memory_in):
        assert float(linear.weight.std()) == pytest.approx(float(theirs.std()), rel=0.03)
    assert not any(part.bias.any() for part in block.modules() if isinstance(part, nn.Linear))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"noise": 1.5}, "noise"),
        ({"layers": 0}, "layers"),
        ({"heads": 5}, "heads=5 does not divide the width 12"),
    ],
)
def test_sizes_are_checked(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Denoiser(DIM, **wrong)  # type: ignore[arg-type]
