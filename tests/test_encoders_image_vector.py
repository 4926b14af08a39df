"""Picture and vector encoders: sizes, scaling, backbones of transformers, saving."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from nearfar.data.kinds import Image, Label, Vector
from nearfar.encoders import load_encoder, make_encoder
from nearfar.encoders.image import ConvNet, TransformersImage
from nearfar.encoders.pictures import pixels, plan_of
from nearfar.encoders.vector import MLPVector
from nearfar.errors import ArgumentError, ArtefactError


def pictures(n: int, width: int, height: int | None = None) -> list[PIL.Image.Image]:
    rng = np.random.default_rng(0)
    return [
        PIL.Image.fromarray(rng.integers(0, 256, (height or width, width, 3), dtype=np.uint8))
        for _ in range(n)
    ]


@pytest.mark.parametrize("size", [8, 32])
def test_convnet_ends_on_a_grid_of_four(size: int) -> None:
    encoder = ConvNet(size, width=8)
    inputs = encoder.prepare(pictures(3, size))
    assert inputs["pixels"].shape == (3, 3, size, size)
    features = encoder(inputs)
    assert features.tokens.shape == (3, 16, encoder.dim)
    assert features.mask.all()
    torch.testing.assert_close(features.pooled, features.tokens.mean(1))
    features.pooled.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_pixels_are_brightness_and_scaling_happens_inside() -> None:
    white, black = PIL.Image.new("L", (20, 20), 255), PIL.Image.new("RGB", (8, 8))
    encoder = ConvNet(8, width=8, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    inputs = encoder.prepare([white, black])
    assert inputs["pixels"][0].eq(1).all()
    assert inputs["pixels"][1].eq(0).all()
    assert encoder.standardised(inputs)[:, :, 0, 0].tolist() == [[1.0, 3.0, 0.5], [-1.0, -1.0, 0.0]]


def test_group_norm_leaks_nothing_between_rows() -> None:
    x = {"pixels": torch.rand(4, 3, 8, 8)}
    first = {"pixels": x["pixels"][:1]}
    for norm, alone_is_the_same in (("group", True), ("batch", False)):
        torch.manual_seed(0)
        encoder = ConvNet(8, width=8, norm=norm).train()  # type: ignore[arg-type]
        assert torch.allclose(encoder(x).pooled[0], encoder(first).pooled[0], atol=1e-5) == alone_is_the_same


def test_convnet_can_keep_where_things_are(tmp_path: Path) -> None:
    mean, flat = (ConvNet(8, width=8, blocks=2) for _ in range(2))
    assert "pooling" not in mean.settings(), (
        "spaces that were saved before there was a choice keep their fingerprint"
    )
    flat.load_state_dict(mean.state_dict())
    assert flat.keep_grid().keep_grid() is flat
    assert flat.dim == mean.dim * 16
    picture = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    picture[0, 2, 2], picture[1, 5, 5] = 255, 255
    inputs = mean.prepare([PIL.Image.fromarray(one) for one in picture])
    features = flat(inputs)
    assert torch.equal(features.pooled, mean(inputs).tokens.flatten(1))
    assert torch.equal(features.tokens.mean(dim=1), mean(inputs).pooled)
    flat.save(tmp_path)
    again = ConvNet.load(tmp_path)
    assert torch.equal(again(inputs).pooled, features.pooled)
    assert again.dim == flat.dim
    with pytest.raises(ArgumentError, match="choose mean or places"):
        ConvNet(8, pooling="max")  # type: ignore[arg-type]


def test_convnet_is_fitted_to_the_pictures() -> None:
    examples = pictures(20, 28)
    encoder = make_encoder("tiny", Image, examples)
    assert isinstance(encoder, ConvNet)
    inputs = encoder.prepare(examples)
    assert inputs["pixels"].shape == (20, 3, 28, 28)
    scaled = encoder.standardised(inputs)
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    assert make_encoder(None, Image, pictures(2, 64, 48)).prepare(pictures(1, 64))["pixels"].shape[-1] == 32


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_convnet_loads_bit_equal(tmp_path: Path, norm: str) -> None:
    encoder = ConvNet(8, width=8, norm=norm, mean=(0.1, 0.2, 0.3))  # type: ignore[arg-type]
    inputs = encoder.prepare(pictures(4, 8))
    encoder(inputs)
    encoder.eval().save(tmp_path)
    again = load_encoder(tmp_path)
    assert torch.equal(again(inputs).pooled, encoder(inputs).pooled)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ArtefactError, match="does not fit ConvNet"):
        load_encoder(tmp_path)


def vit() -> TransformersImage:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
    )
    said = {"size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return TransformersImage(ViTModel(config).eval(), said)


def resnet() -> TransformersImage:
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    said = {"size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": 32}
    return TransformersImage(ResNetModel(config).eval(), said)


@pytest.mark.parametrize(("make", "tokens", "dim"), [(vit, 5, 16), (resnet, 16, 12)])
def test_backbones_of_transformers(make, tokens: int, dim: int, tmp_path: Path) -> None:
    encoder = make()
    inputs = encoder.prepare(pictures(3, 50, 40))
    assert 0 <= inputs["pixels"].min() <= inputs["pixels"].max() <= 1
    features = encoder(inputs)
    assert features.tokens.shape == (3, tokens, dim)
    assert (encoder.dim, features.pooled.shape) == (dim, (3, dim))
    wanted = features.tokens[:, 0] if make is vit else features.tokens.mean(1)
    torch.testing.assert_close(features.pooled, wanted)
    encoder.save(tmp_path)
    again = load_encoder(tmp_path)
    assert not any(part.training for part in again.modules())
    again_inputs = again.prepare(pictures(3, 50, 40))
    assert torch.equal(again(again_inputs).pooled, features.pooled)
    assert isinstance(make_encoder(str(tmp_path), Image, []), TransformersImage)


def test_a_preprocessor_is_followed() -> None:
    plan, mean, std = plan_of({"size": {"shortest_edge": 10}, "do_center_crop": True, "crop_size": 6})
    assert (plan.shortest, plan.height, plan.width) == (10, 6, 6)
    wide = PIL.Image.new("RGB", (40, 10))
    wide.paste((255, 0, 0), (18, 0, 22, 10))
    seen = pixels(wide, plan)
    assert seen.shape == (3, 6, 6)
    assert seen[0].tolist() == [[0, 1, 1, 1, 1, 0]] * 6
    assert plan_of({"size": 12})[0].shortest is None
    _, mean, std = plan_of({"size": 12, "do_normalize": False})
    assert (tuple(mean), tuple(std)) == ((0, 0, 0), (1, 1, 1))
    for wrong in ({}, {"size": {"longest_edge": 5}}, {"size": 4, "rescale_factor": 1 / 127.5}):
        with pytest.raises(ArtefactError, match=r"preprocessor_config\.json"):
            plan_of(wrong)


def test_vectors_are_standardised_and_saved(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = list(rng.normal([5, -3, 7], [10, 0.01, 0], (50, 3)).astype(np.float32))
    encoder = make_encoder(None, Vector, rows).eval()
    assert isinstance(encoder, MLPVector)
    values = encoder.prepare(rows)["values"]
    scaled = (values - encoder.mean) / encoder.std
    torch.testing.assert_close(scaled.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-3, rtol=0)
    features = encoder({"values": values})
    assert features.tokens.shape == (50, 1, encoder.dim)
    assert torch.equal(features.tokens[:, 0], features.pooled)
    moved = [row * np.float32(1000) + np.float32(5) for row in rows]
    other = make_encoder("tiny", Vector, moved).eval()
    same = other(other.prepare(moved)).pooled
    torch.testing.assert_close(same, features.pooled, atol=1e-3, rtol=1e-3)
    encoder.save(tmp_path)
    again = load_encoder(tmp_path)
    assert torch.equal(again(again.prepare(rows)).pooled, features.pooled)


def test_errors_name_the_row_and_the_argument(tmp_path: Path) -> None:
    encoder = MLPVector(3)
    with pytest.raises(ArgumentError, match="row 2 of 2 has 4 numbers"):
        encoder.prepare([np.zeros(3, np.float32), np.zeros(4, np.float32)])
    with pytest.raises(ArgumentError, match="picture 1 of 1 is str"):
        ConvNet(8).prepare(["cat.png"])
    with pytest.raises(ArgumentError, match="multiple of 4"):
        ConvNet(8, width=6)
    with pytest.raises(ArgumentError, match="no encoder for label"):
        make_encoder("tiny", Label, [1])
    with pytest.raises(ArgumentError, match="minilm"):
        make_encoder("minilm", Image, [])
    encoder.save(tmp_path)
    with pytest.raises(ArgumentError, match="reads vector, not image"):
        make_encoder(str(tmp_path), Image, [])
    (tmp_path / "encoder.json").write_text(json.dumps({"class": "ConvNet", "settings": {}}))
    with pytest.raises(ArtefactError, match="does not fit ConvNet"):
        load_encoder(tmp_path)


def test_lines_of_writing_keep_their_places(tmp_path: Path) -> None:
    lines = pictures(3, 96, 16)
    encoder = ConvNet.fitted(lines)
    assert encoder.settings()["size"] == [16, 128]
    assert encoder.dim == 32 * 4 * 32
    features = encoder(encoder.prepare(lines))
    assert torch.equal(features.pooled, features.tokens.flatten(1))
    encoder.save(tmp_path)
    again = load_encoder(tmp_path)
    assert torch.equal(again(encoder.prepare(lines)).pooled, features.pooled)
    assert again.settings() == encoder.settings()
    assert "pooling" not in ConvNet.fitted(pictures(3, 16)).settings(), "older spaces keep their fingerprints"
    with pytest.raises(ArgumentError, match="choose mean or places"):
        ConvNet(8, pooling="sum")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="size must be at least 4"):
        ConvNet((2, 64))
