"""TACO: what must be true of its loss, its windows and its space."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pictures
from torch import Tensor, nn

from nearfar.data.splits import holdout
from nearfar.data.table import Table
from nearfar.encoders.image import ConvNet
from nearfar.errors import ArgumentError, TableError
from nearfar.method import Batch
from nearfar.methods.control.taco import TACO
from nearfar.recipes.taco import Curl, WithoutActions
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.building import together_of
from nearfar.verbs.fit import fit
from nearfar.verbs.measure import measure

EPISODES, LENGTH, SIDE = 6, 12, 16


def picture(episode: int, step: int) -> Any:
    """Red tells the episode and green the step, where a dot of blue stands still."""
    pixels = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = 30 * episode + 20, 8 * step
    pixels[4:7, 5:9, 2] = 255
    return Pictures.fromarray(pixels)


def table(lengths: list[int] | None = None) -> Table:
    steps = [(e, t) for e, length in enumerate(lengths or [LENGTH] * EPISODES) for t in range(length)]
    drawn = np.random.default_rng(0)
    return Table.from_columns(
        {
            "image": [picture(e, t) for e, t in steps],
            "action": drawn.uniform(-1, 1, (len(steps), 2)).astype(np.float32),
            "reward": [float(100 * e + t) for e, t in steps],
            "episode": [e for e, _ in steps],
        },
        kinds=TACO.reads,  # type: ignore[arg-type]
    )


def method(kind: type[TACO] = TACO, **given: Any) -> TACO:
    torch.manual_seed(0)
    made = kind(ConvNet(SIDE, 4, 3), **{"dim": 6, "hidden": 16, "pad": 2, **given})
    made.begin(table())
    return made


def batch(made: TACO, rows: list[int], seed: int = 0) -> Batch:
    cells = made.examples(table(), np.array(rows))
    return made.prepare(cells, torch.Generator().manual_seed(seed))


def parts(made: TACO) -> tuple[Any, nn.Module]:
    assert made.dynamics is not None
    assert made.reward is not None
    return made.dynamics, made.reward


# -- the loss --------------------------------------------------------------------------------------


def test_the_terms_are_the_released_formula_on_fixed_numbers() -> None:
    made = method()
    dynamics, reward = parts(made)
    given = batch(made, [0, 15, 30, 45, 60])
    z = {name: value.detach() for name, value in made.embed(given).items()}
    # Written out from the card: one code of the whole sequence, W between, the row's largest logit taken off.
    linear, norm, _ = dynamics.sequence.map
    U = torch.tanh(norm(linear(torch.cat([z["codes"][:, i] for i in range(3)], dim=1))))
    joined = torch.cat([z["now"], U], dim=1)
    first, _, second = dynamics.next.map
    ahead = second(torch.relu(first(joined)))
    W, diagonal = dynamics.score.weight, torch.arange(5)
    terms = {}
    for name, queries, keys in (("taco", ahead, z["future"]), ("curl", z["now"], z["again"])):
        logits = queries @ W @ keys.T
        logits = logits - logits.max(dim=1, keepdim=True).values
        terms[name] = nn.functional.cross_entropy(logits, diagonal)
    terms["reward"] = (reward(joined)[:, 0] - given["reward"]).square().mean()
    found = made.contrast(z, given)
    assert list(found) == list(terms)
    for name, value in terms.items():
        torch.testing.assert_close(found[name], value)
    torch.testing.assert_close(made.total(found), torch.stack(list(terms.values())).sum())


def test_codes_are_of_the_published_widths() -> None:
    for width, code in ((1, 2), (2, 3), (4, 6), (6, 8), (21, 27)):
        rows = table().rows(range(5))
        made = TACO(ConvNet(SIDE, 4, 2), dim=6, hidden=8)
        made.begin(
            Table.from_columns({**rows, "action": np.zeros((5, width))}, kinds=TACO.reads)  # type: ignore[arg-type]
        )
        dynamics, _ = parts(made)
        assert dynamics.code(torch.zeros(1, width)).shape[1] == code == int(1.25 * width) + 1
        assert dynamics.sequence.dims == (3 * code, 3 * code)


def test_with_no_score_every_row_is_as_likely() -> None:
    made = method()
    with torch.no_grad():
        parts(made)[0].score.weight.zero_()
    terms = made.loss(batch(made, [0, 15, 30, 45]))
    for name in ("taco", "curl"):
        torch.testing.assert_close(terms[name], torch.tensor(4.0).log())


def test_without_actions_and_at_the_same_time_it_is_curl() -> None:
    """The future replaced by another view of now, and the MLP by its first argument."""
    made = method(horizon=1)
    dynamics, _ = parts(made)
    dynamics.next = nn.Module()  # type: ignore[assignment]
    dynamics.next.forward = lambda joined: joined[:, : made.dim]  # type: ignore[method-assign]
    given = batch(made, [0, 15, 30, 45])
    terms = made.loss({**given, "future": given["again"]})
    torch.testing.assert_close(terms["taco"], terms["curl"])
    assert not torch.allclose(made.loss(given)["taco"], terms["curl"])


def test_targets_are_the_networks_own_and_carry_no_gradient() -> None:
    made = method(pad=0)
    given = batch(made, [0, 15, 30, 45])
    z = made.embed(given)
    assert torch.equal(z["now"], z["again"]), "no momentum encoder: the same picture is the same vector"
    assert z["now"].requires_grad
    assert not z["again"].requires_grad
    assert not z["future"].requires_grad
    names = [name for name, _ in made.named_parameters()]
    assert len([name for name in names if "network.0.weight" in name]) == 1, "one encoder"


def gradients(made: TACO, term: str) -> dict[str, bool]:
    made.zero_grad(set_to_none=True)
    made.loss(batch(made, [0, 15, 30, 45]))[term].backward()
    return {
        name: parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        for name, parameter in made.named_parameters()
    }


def test_each_term_teaches_what_it_should() -> None:
    made = method()
    taught = {term: gradients(made, term) for term in ("taco", "curl", "reward")}
    score = "dynamics.score.weight"
    assert taught["taco"][score] is taught["curl"][score] is True, "one W for both"
    assert not taught["reward"][score]
    for term, heads in {
        "taco": ("dynamics.code", "dynamics.next"),
        "reward": ("dynamics.code", "reward.map"),
    }.items():
        for head in heads:
            assert all(
                hit for name, hit in taught[term].items() if name.startswith(head) and "weight" in name
            )
    assert not any(hit for name, hit in taught["curl"].items() if "dynamics.code" in name or "next" in name)
    assert all(taught[term]["encoder.network.0.weight"] for term in taught)


def test_the_views_are_shifted_independently() -> None:
    made = method(dim=4)
    rows = {**made.examples(table(), np.arange(0, 8))}
    rows["future"] = rows["image"]
    given = made.prepare(rows, torch.Generator().manual_seed(0))
    views = [given[name]["pixels"] for name in ("now", "again", "future")]
    for i, one in enumerate(views):
        for two in views[i + 1 :]:
            same = [torch.equal(a, b) for a, b in zip(one, two, strict=True)]
            assert sum(same) < 4, "a target that shares the anchor's shift gives its place away"
    unmoved = method(pad=0).prepare(rows, torch.Generator())
    assert torch.equal(unmoved["now"]["pixels"], unmoved["future"]["pixels"])


def test_the_two_halves_are_cut_so_that_a_batch_can_be_cached() -> None:
    losses = []
    for chunk in (None, 4):
        made = method()
        settings = Settings(steps=2, batch_size=12, cache_chunk=chunk, learning_rate=1e-3, on_collapse="warn")
        losses.append(train(made, table(), settings).losses)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


# -- which rows ------------------------------------------------------------------------------------


def test_no_window_leaves_its_episode() -> None:
    lengths = [5, 12, 3, 9, 30]
    rows = table(lengths)
    made = TACO(ConvNet(SIDE, 4, 2), dim=6, hidden=8)
    made.begin(rows)
    assert len(made.starts) == sum(max(0, length - 3) for length in lengths)
    order = made.order(len(rows), 8, seed=0, epoch=0)
    assert set(order) == set(made.starts)
    cells = made.examples(rows, order)
    for now, later in zip(cells["image"], cells["future"], strict=True):
        (red, green, _), (red_later, green_later, _) = now.getpixel((0, 0)), later.getpixel((0, 0))
        assert red == red_later
        assert green_later - green == 8 * 3


def test_the_window_is_as_long_as_the_furthest_thing_in_it() -> None:
    for horizon, returns, reach in ((3, 3, 3), (1, 5, 4), (5, 1, 5), (1, 1, 1)):
        assert method(horizon=horizon, returns=returns).reach == reach


def test_rows_between_which_one_is_missing_are_not_joined() -> None:
    rows = table().select([i for i in range(EPISODES * LENGTH) if i != 5])
    made = method()
    made.begin(rows)
    assert len(made.starts) == EPISODES * (LENGTH - 3) - 4
    assert not {2, 3, 4} & set(made.starts)


def test_the_reward_target_is_the_discounted_sum_of_n_steps() -> None:
    made = method(returns=4, discount=0.5)
    cells = made.examples(table(), np.array([2, 14, 40]))
    rewards = np.array(table().column("reward"))
    sums = [sum(0.5**i * rewards[t + i] for i in range(4)) for t in range(len(rewards) - 3)]
    inside = [t for t in range(len(sums)) if t // LENGTH == (t + 3) // LENGTH]
    mean, spread = np.mean([sums[t] for t in inside]), np.std([sums[t] for t in inside])
    np.testing.assert_allclose(cells["reward"], [(sums[t] - mean) / spread for t in (2, 14, 40)])
    actions = np.stack(table().column("action"))
    np.testing.assert_array_equal(np.stack(cells["action"]), [actions[t : t + 3] for t in (2, 14, 40)])


def test_rewards_that_never_change_are_no_reason_to_stop() -> None:
    rows = table().rows(range(24))
    made = method()
    made.begin(Table.from_columns({**rows, "reward": [1.0] * 24}, kinds=TACO.reads))  # type: ignore[arg-type]
    assert made.examples(table(), np.array([0]))["reward"] != [float("nan")]
    assert made.spread_of_returns == 1


def test_episodes_stay_on_one_side_when_rows_are_held_out() -> None:
    rows = table()
    kept, measured = holdout(rows, 0.2, seed=0, together=together_of(["simcse", "taco"]))
    episodes = np.array(rows.column("episode"))
    assert not set(episodes[kept]) & set(episodes[measured])
    assert len(set(episodes[measured])) == 1
    kept, measured = holdout(rows, 0.2, seed=0)
    assert set(episodes[kept]) & set(episodes[measured]), "which rows drawn one by one do not"


def test_rows_out_of_order_and_batches_too_large_are_named() -> None:
    rows = table()
    with pytest.raises(TableError, match=r"column 'episode': no row has 3 more of its episode right after"):
        method().begin(rows.select(np.argsort(np.arange(len(rows)) % LENGTH, kind="stable")))
    with pytest.raises(TableError, match="smaller horizon"):
        TACO(ConvNet(SIDE, 4, 2), horizon=12).begin(rows)
    with pytest.raises(ArgumentError, match="--batch-size 54 or less"):
        train(method(), rows, Settings(steps=1, batch_size=60))
    with pytest.raises(ArgumentError, match="call begin"):
        TACO(ConvNet(SIDE, 4, 2)).embed(batch(method(), [0, 15]))


@pytest.mark.parametrize(
    "wrong", [{"horizon": 0}, {"returns": 0}, {"discount": 1.5}, {"dim": 0}, {"pad": -1}]
)
def test_hyperparameters_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        TACO(ConvNet(SIDE, 4, 2), **wrong)


# -- baselines, training, space --------------------------------------------------------------------


def test_the_baselines_differ_from_it_in_one_thing() -> None:
    given = batch(method(), [0, 15, 30, 45])
    whole = method().loss(given)
    curl = method(Curl).loss(given)
    assert list(curl) == ["curl"]
    torch.testing.assert_close(curl["curl"], whole["curl"])
    without = method(WithoutActions)
    other = {**given, "action": -given["action"]}
    torch.testing.assert_close(without.loss(given), without.loss(other))
    assert not torch.allclose(method().loss(other)["taco"], whole["taco"])
    torch.testing.assert_close(without.loss(given)["curl"], whole["curl"])


def test_training_begins_alike_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "batch_size": 8,
        "learning_rate": 1e-3,
        "on_collapse": "warn",
        "checkpoint_every": 2,
    }

    def untrained() -> TACO:
        torch.manual_seed(3)
        return TACO(ConvNet(SIDE, 4, 3), dim=6, hidden=16, pad=2)

    whole, again = untrained(), untrained()
    losses = train(whole, table(), Settings(steps=4, **settings)).losses

    class StoppedError(Exception):
        pass

    def stop(z: dict[str, Tensor], step: int, steps: int) -> None:
        if step == 3:
            raise StoppedError

    again.after_step = stop  # type: ignore[method-assign]
    with pytest.raises(StoppedError):
        train(again, table(), Settings(steps=4, **settings), folder=tmp_path)
    torch.manual_seed(9)
    resumed = untrained()
    assert (
        train(resumed, table(), Settings(steps=4, **settings), folder=tmp_path, resume=True).losses == losses
    )
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_what_is_made_for_the_table_is_trained_and_made_alike_for_a_seed() -> None:
    begun: list[Tensor] = []

    class Watched(TACO):
        def begin(self, table: Table) -> None:
            super().begin(table)
            assert self.dynamics is not None
            begun.append(self.dynamics.score.weight.detach().clone())

    settings = Settings(steps=1, batch_size=8, learning_rate=1e-2, warmup=0.0, on_collapse="warn")
    for drawn in (1, 2):
        made = Watched(ConvNet(SIDE, 4, 2), dim=6, hidden=8)
        torch.manual_seed(drawn)
        train(made, table(), settings)
        assert not torch.equal(parts(made)[0].score.weight, begun[-1])
    assert torch.equal(*begun)


def test_the_space_keeps_its_head_and_its_dynamics(tmp_path: Path) -> None:
    made = method()
    rows = table().column("image")[:9]
    space = made.space()
    space.save(tmp_path / "space")
    again = Space.load(tmp_path / "space")
    z = space.encode(rows, normalize=False)
    assert np.array_equal(again.encode(rows, normalize=False), z)
    assert z.shape == (9, 6)
    assert np.abs(z).max() <= 1
    actions, states = torch.rand(9, 3, 2), torch.from_numpy(z)
    queries = space.parts["dynamics"](states, actions)
    assert torch.equal(again.parts["dynamics"](states, actions), queries)
    dynamics, _ = parts(made)
    joined = dynamics.joined(states, dynamics.code(actions))
    torch.testing.assert_close(queries @ states.T, dynamics.next(joined) @ dynamics.score.weight @ states.T)
    assert measure(space, table())["effective_rank"].value > 1
    assert (again.score(z, z).argmax(axis=1) == np.arange(9)).all()


def test_the_space_sees_where_things_are() -> None:
    """The mean of the grid would not tell two places from each other but at the border."""
    encoder = ConvNet(SIDE, 4, 3)
    mean = encoder.dim
    made = TACO(encoder)
    assert made.head.dims[0] == encoder.dim == 16 * mean
    features = encoder(encoder.prepare(table().column("image")[:2]))
    assert torch.equal(features.pooled, features.tokens.flatten(1))
    assert TACO(encoder).head.dims[0] == encoder.dim, "once"


def as_file(rows: Table, path: Path, **columns: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def encoded(image: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return buffer.getvalue()

    content = {
        "frame": [encoded(image) for image in rows.column("image")],
        "action": [cell.tolist() for cell in rows.column("action")],
        "reward": [int(cell) for cell in rows.column("reward")],
        "episode": [f"run {cell}" for cell in rows.column("episode")],
        **columns,
    }
    pq.write_table(pa.table({name: cells for name, cells in content.items() if cells is not None}), path)
    return path


def test_a_users_own_log_is_fitted_with_its_episodes_held_out_whole(tmp_path: Path) -> None:
    path = as_file(table(), tmp_path / "log.parquet")
    small = {"hidden": 16, "dim": 6}
    space = fit(
        "taco",
        path,
        tmp_path / "space",
        steps=2,
        batch_size=8,
        on_collapse="warn",
        hyperparameters=small,
    )
    assert space.card["columns"]["image"] == "frame"
    assert any("45 rows have 3 more of their episode" in note for note in space.card["notes"])
    assert space.card["data"]["measured_rows"] == LENGTH, "five episodes of twelve, one held out"
    cells = table().column("image")
    assert np.array_equal(Space.load(tmp_path / "space").encode(cells), space.encode(cells))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"action": None}, "--column action="),
        ({"reward": None}, "--column reward="),
        ({"frame": None}, "--column image="),
        ({"action": [3] * EPISODES * LENGTH}, "row 1 holds 3, but action must be vector"),
        ({"episode": [str(row) for row in range(EPISODES * LENGTH)]}, "no row has 3 more of its episode"),
    ],
)
def test_a_log_that_lacks_something_is_told_what(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    path = as_file(table(), tmp_path / "log.parquet", **columns)
    with pytest.raises(TableError, match=re.escape(message)):
        fit("taco", path, tmp_path / "space", steps=2, batch_size=8)
