"""Observations of one part and of several: the same verbs, plain data to save, no larger than they need be."""

import torch

from trpo.models.observations import (
    ALONE,
    Kind,
    Leaf,
    are_finite,
    from_plain,
    is_tree,
    leaves_of,
    like,
    plain,
    row_bytes,
    same_rows,
    tree,
)


def some(rows=4):
    picture = torch.arange(rows * 12, dtype=torch.uint8).view(rows, 2, 2, 3)
    return tree({"picture": picture, "speed": torch.arange(rows * 2.0).view(rows, 2)}, (rows,))


def test_a_tree_has_the_verbs_of_a_tensor_over_its_rows():
    rows = some()
    stacked = torch.stack([rows, rows])
    assert (len(rows), stacked.shape, stacked.flatten(0, 1).shape) == (4, (2, 4), (8,))
    assert stacked["picture"].shape == (2, 4, 2, 2, 3)
    again = torch.cat([part for part in rows.split(3)])
    assert same_rows(again, rows).all()
    chosen = rows[torch.tensor([True, False, True, False])]
    assert chosen["speed"].tolist() == [[0, 1], [4, 5]]
    written = stacked.clone()
    written[torch.tensor([[False] * 4, [True, False, False, False]])] = rows[3:]
    assert written["speed"][1, 0].tolist() == [6, 7]
    assert stacked["speed"][1, 0].tolist() == [0, 1]


def test_plain_data_is_saved_and_comes_back_with_its_types_and_rows(tmp_path):
    rows = torch.stack([some(), some()])
    torch.save(plain(rows), tmp_path / "saved.pt")
    back = from_plain(torch.load(tmp_path / "saved.pt", weights_only=True))
    assert back.shape == rows.shape
    for name, leaf in leaves_of(rows).items():
        assert leaves_of(back)[name].dtype == leaf.dtype
        assert torch.equal(leaves_of(back)[name], leaf)
    alone = torch.ones(2, 3)
    assert from_plain(plain(alone)) is alone


def test_saving_copies_nothing():
    rows = some()
    assert plain(rows)["leaves"]["picture"].data_ptr() == rows["picture"].data_ptr()


def test_rows_are_the_same_if_every_part_is():
    one, other = some(), some().clone()
    other["picture"][2, 1, 1, 1] += 1
    other["speed"][0, 0] += 1e-6
    assert same_rows(one, other).tolist() == [False, True, False, True]
    assert same_rows(torch.ones(2, 3), torch.tensor([[1, 1, 1], [1, 1, 2]])).tolist() == [True, False]


def test_one_tensor_is_a_tree_of_one_part():
    alone = torch.ones(2, 3)
    assert leaves_of(alone) == {ALONE: alone}
    assert like(alone, {ALONE: alone}) is alone
    assert is_tree(like(some(), leaves_of(some())))


def test_only_numbers_with_a_point_can_be_infinite():
    rows = some()
    assert are_finite(rows)
    rows["speed"][1, 1] = torch.nan
    assert not are_finite(rows)


def test_a_rollout_of_2048_stacks_of_four_frames_takes_58_mb():
    leaf = Leaf(Kind.IMAGE, (4, 84, 84), 1, flat=False)
    assert round(2048 * row_bytes(leaf) / 1e6) == 58
    assert row_bytes({"a": leaf, "b": Leaf(Kind.VECTOR, (3,))}) == 4 * 84 * 84 + 12
