"""What networks make of pictures, grids and parts, against the same by hand."""

import dataclasses

import pytest
import torch
from torch import nn

from trpo.config import Config, CriticConfig, EnvConfig, NormalizeConfig, PolicyConfig, UserError
from trpo.models.agent import make_agent
from trpo.models.distributions import Categorical, DiagonalGaussian
from trpo.models.encoders import NATURE, OF_GRIDS, SMALL, Encoder, as_asked, layers_for, planes
from trpo.models.footprint import step_bytes
from trpo.models.mlp import unwrapped
from trpo.models.normalizer import some
from trpo.models.observations import ALONE, MASK, Kind, Leaf, blank, tree
from trpo.update.statistics import take_in

PICTURE, GRID = Leaf(Kind.IMAGE, (40, 44, 3), 1, flat=False), Leaf(Kind.GRID, (5, 6, 2), 1, flat=False)
PARTS = {"picture": PICTURE, "speed": Leaf(Kind.VECTOR, (2,)), "where": Leaf(Kind.ONE_HOT, (4,)), "grid": GRID}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def bytes_like(leaf, rows=3, top=256):
    return torch.randint(0, top, (rows, *leaf.shape), dtype=torch.uint8, generator=generator(1))


def observations(rows=3):
    leaves = {
        "picture": bytes_like(PICTURE, rows),
        "speed": torch.randn(rows, 2, generator=generator(2)),
        "where": torch.eye(4)[torch.arange(rows) % 4],
        "grid": bytes_like(GRID, rows, top=11),
    }
    return tree(leaves, (rows,))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((40, 44), (1, 40, 44)),
        ((4, 40, 44), (4, 40, 44)),
        ((40, 44, 3), (3, 40, 44)),
        ((2, 40, 44, 3), (6, 40, 44)),
        ((5, 5, 5), (5, 5, 5)),
    ],
)
def test_channels_come_first_wherever_they_were(shape, expected):
    leaf = torch.randn(7, *shape, generator=generator())
    found = planes(leaf)
    assert found.shape == (7, *expected)
    if len(shape) == 3 and shape[2] < shape[0]:
        torch.testing.assert_close(found[:, 1], leaf[..., 1], rtol=0, atol=0)
    if len(shape) == 4:
        torch.testing.assert_close(found[:, 3 * 1 + 2], leaf[:, 1, ..., 2], rtol=0, atol=0)
    if len(shape) == 3 and shape[2] >= shape[0]:
        assert torch.equal(found, leaf)


@pytest.mark.parametrize(
    ("kind", "side", "layers"), [("grid", 99, OF_GRIDS), ("image", 63, SMALL), ("image", 84, NATURE)]
)
def test_small_and_large_pictures_and_grids_have_convolutions_of_their_own(kind, side, layers):
    assert layers_for(Kind(kind), side) is layers


def convolved(parameters, name, pixels, layers):
    for index, (_, _, stride) in enumerate(layers):
        weight, bias = (parameters[f"{name}.{2 * index}.{which}"] for which in ("weight", "bias"))
        pixels = nn.functional.conv2d(pixels, weight, bias, stride).relu()
    return pixels.flatten(1)


def test_an_encoder_is_that_of_its_parts_by_hand_side_by_side():
    encoder, seen = Encoder(PARTS, generator=generator()), observations()
    parameters = dict(encoder.named_parameters())
    picture = seen["picture"].permute(0, 3, 1, 2).float() / 255
    grid = seen["grid"].permute(0, 3, 1, 2).float()
    expected = [
        convolved(parameters, "parts.0.network", picture, SMALL),
        seen["speed"],
        seen["where"],
        convolved(parameters, "parts.3.network", grid, OF_GRIDS),
    ]
    torch.testing.assert_close(encoder(seen), torch.cat(expected, dim=1))
    assert encoder.size == encoder(seen).shape[1]


def test_an_agent_of_parts_equals_the_same_networks_fed_by_hand():
    config = Config(env=EnvConfig(id="x"))
    agent, seen = make_agent(config, PARTS, DiagonalGaussian(2)), observations()
    agent.normalizer.learning(seen)[0][0].shift.copy_(torch.tensor([0.5, -0.5]))
    normal = agent.normalize(seen)
    torch.testing.assert_close(normal["speed"], seen["speed"] - torch.tensor([0.5, -0.5]))
    torch.testing.assert_close(normal["where"], 2 * seen["where"])  # √4
    assert torch.equal(normal["picture"], seen["picture"])
    assert normal["picture"].dtype == torch.uint8
    for network, out in (
        (agent.policy, agent.policy(normal)[:, :2]),
        (agent.critic, agent.critic(normal).unsqueeze(1)),
    ):
        torch.testing.assert_close(network.network(network.encoder(normal)), out)
    acted = agent.actor()(seen, None)
    torch.testing.assert_close(acted, agent.policy(normal)[:, :2], rtol=1e-5, atol=1e-6)
    assert not acted.requires_grad


def test_one_picture_is_an_observation_too():
    agent = make_agent(Config(env=EnvConfig(id="x")), PICTURE, Categorical((3,)))
    seen = bytes_like(PICTURE)
    assert torch.equal(agent.normalize(seen), seen)
    parameters = dict(agent.policy.encoder.named_parameters())
    ((part, rows),) = agent.normalizer.learning(seen)
    assert (rows.shape, rows.dtype) == ((3, PICTURE.size), torch.float32)
    assert agent.has_statistics
    part.shift.fill_(100.0)  # of every pixel, before the planes are told apart
    part.scale.fill_(0.02)
    features = convolved(parameters, "parts.0.network", (seen.permute(0, 3, 1, 2).float() - 100) / 50, SMALL)
    torch.testing.assert_close(agent.policy(seen), agent.policy.network(features))
    assert agent.critic.encoder.parts[0].normalizer is part


def test_a_picture_without_statistics_is_divided_by_255():
    settings = NormalizeConfig(observations=False)
    agent, seen = (
        make_agent(Config(env=EnvConfig(id="x"), normalize=settings), PICTURE, Categorical((3,))),
        bytes_like(PICTURE),
    )
    parameters = dict(agent.policy.encoder.named_parameters())
    features = convolved(parameters, "parts.0.network", seen.permute(0, 3, 1, 2) / 255, SMALL)
    torch.testing.assert_close(agent.policy(seen), agent.policy.network(features))


def test_the_statistics_of_pictures_are_those_of_a_few_of_them_pixel_by_pixel():
    agent = make_agent(Config(env=EnvConfig(id="x")), PICTURE, Categorical((3,)))
    seen = torch.randint(0, 256, (1_000, *PICTURE.shape), dtype=torch.uint8, generator=generator())
    seen[:, 0] = 7
    take_in(agent.normalizer, seen)
    (part,) = agent.normalizer.of_pictures
    few = some(seen).flatten(1).double()
    torch.testing.assert_close(part.shift, few.mean(0).float())
    varied = few.std(0) > 0
    torch.testing.assert_close(part.scale[varied], (1 / few.std(0, correction=0))[varied].float())
    assert (part.scale[~varied] == 1).all()
    assert part.moments.count == 256


@pytest.mark.parametrize("envs", [3, 8, 16, 64])
def test_the_pictures_for_the_statistics_are_of_all_environments(envs):
    """A rollout of environments each of which shows its own number."""
    shown = some(torch.arange(envs).repeat(128)).bincount(minlength=envs)
    assert shown.sum() == 256
    assert shown.max() - shown.min() <= 1
    assert len(some(torch.arange(200))) == 200


def test_a_picture_can_be_flattened_and_then_has_statistics():
    config = Config(env=EnvConfig(id="x"), policy=PolicyConfig(vectors=(ALONE,)))
    agent, seen = make_agent(config, GRID, Categorical((3,))), bytes_like(GRID, top=11)
    (part, rows), *others = agent.normalizer.learning(seen)
    assert (rows.shape, rows.dtype, others) == ((3, 60), torch.float32, [])
    assert agent.has_statistics
    part.shift.fill_(1.0)
    torch.testing.assert_close(agent.policy(agent.normalize(seen)), agent.policy.network(seen.flatten(1).float() - 1))
    raw = make_agent(
        dataclasses.replace(config, normalize=NormalizeConfig(observations=False)), GRID, Categorical((3,))
    )
    torch.testing.assert_close(raw.policy(seen), raw.policy.network(seen.flatten(1).float()))


def test_a_vector_with_rows_and_columns_can_be_taken_as_a_grid():
    spec = Leaf(Kind.VECTOR, (4, 5))
    agent = make_agent(Config(env=EnvConfig(id="x"), policy=PolicyConfig(grids=(ALONE,))), spec, Categorical((3,)))
    seen = torch.randn(6, 20, generator=generator())
    parameters = dict(agent.policy.encoder.named_parameters())
    features = convolved(parameters, "parts.0.network", seen.view(6, 1, 4, 5), OF_GRIDS)
    torch.testing.assert_close(agent.policy(agent.normalize(seen)), agent.policy.network(features))


def test_policy_and_critic_see_the_parts_that_are_named():
    config = Config(
        env=EnvConfig(id="x"),
        policy=PolicyConfig(observations=("speed",)),
        critic=CriticConfig(observations=("speed", "where")),
    )
    agent, seen = make_agent(config, PARTS, DiagonalGaussian(2)), observations()
    other = seen.clone()
    other["where"] = torch.flip(seen["where"], (1,))
    other["grid"] = 10 - seen["grid"]
    assert torch.equal(agent.policy(seen), agent.policy(other))
    assert not torch.allclose(agent.critic(seen), agent.critic(other))
    other["speed"] = seen["speed"] + 1
    assert not torch.allclose(agent.policy(seen), agent.policy(other))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (PolicyConfig(observations=("speeed",)), r"no observation speeed; .* picture, speed, where, grid"),
        (PolicyConfig(images=("speeed",)), "no observation speeed"),
        (PolicyConfig(images=("speed",)), r"speed cannot be taken as image: its shape is \(2,\)"),
        (PolicyConfig(images=("grid",)), "at least 10"),
        (PolicyConfig(grids=("where",)), "where cannot be taken as grid"),
        (PolicyConfig(observations=(MASK,)), "no observation action_mask"),
    ],
)
def test_a_part_that_is_not_there_or_cannot_be_taken_so_is_named(config, said):
    with pytest.raises(UserError, match=said):
        make_agent(
            Config(env=EnvConfig(id="x"), policy=config), {**PARTS, MASK: Leaf(Kind.MASK, (3,), 1)}, Categorical((3,))
        )


def test_kinds_are_changed_by_name_only():
    assert as_asked(PARTS, Config(policy=PolicyConfig(grids=("picture",)))) == {
        **PARTS,
        "picture": PICTURE._replace(kind=Kind.GRID),
    }
    assert as_asked(PICTURE, Config(policy=PolicyConfig(vectors=(ALONE,)))).kind is Kind.VECTOR


def test_a_part_that_no_network_sees_is_not_there():
    named = Config(policy=PolicyConfig(observations=("speed",)), critic=CriticConfig(observations=("where",)))
    assert list(as_asked({**PARTS, MASK: Leaf(Kind.MASK, (3,), 1)}, named)) == ["speed", "where", MASK]
    one = Config(policy=PolicyConfig(observations=("speed",)))  # a critic that names none sees all
    assert as_asked(PARTS, one) == PARTS


def test_a_masked_policy_gives_invalid_actions_nothing():
    spec = {"speed": Leaf(Kind.VECTOR, (2,)), MASK: Leaf(Kind.MASK, (5,), 1)}
    agent = make_agent(Config(env=EnvConfig(id="x")), spec, Categorical((3, 2)))
    rows = 400
    mask = torch.rand(rows, 5, generator=generator(1)) < 0.5
    mask[:, 1] = mask[:, 3] = True  # something is valid in each dimension
    seen = tree({"speed": torch.randn(rows, 2, generator=generator(2)), MASK: mask}, (rows,))
    logits = agent.policy(agent.normalize(seen))
    assert torch.equal(logits[mask], agent.policy.network(seen["speed"])[mask])
    assert (logits[~mask] == -1e8).all()
    distribution = agent.policy.distribution
    for noise in (None, distribution.noise(rows, generator(3))):
        actions = agent.actor()(seen, noise)
        assert mask.gather(1, actions.long() + torch.tensor([0, 3])).all()
    uniform = make_agent(Config(env=EnvConfig(id="x")), spec, Categorical((5,))).policy
    nn.init.zeros_(uniform.network[-1].weight)
    entropy = uniform.distribution.entropy(uniform(seen))
    torch.testing.assert_close(entropy, mask.sum(1).float().log(), rtol=1e-5, atol=1e-6)


def test_the_memory_of_a_step_counts_what_every_layer_gives():
    policy = make_agent(
        Config(env=EnvConfig(id="x"), policy=PolicyConfig(hidden_sizes=(8,))), GRID, Categorical((3,))
    ).policy
    layers = 16 * 3 * 4  # of the convolution, and again of its ReLU and its flattening
    assert step_bytes(policy, GRID, rows=10) == 4 * 10 * (3 * layers + 8 + 8 + 3) * 4
    assert blank(PARTS).batch_size == (1,)


def test_a_network_behind_an_encoder_still_acts_without_its_modules():
    agent = make_agent(Config(env=EnvConfig(id="x")), {"speed": Leaf(Kind.VECTOR, (2,))}, Categorical((3,)))
    seen = tree({"speed": torch.randn(5, 2, generator=generator())}, (5,))
    torch.testing.assert_close(agent.policy.snapshot()(seen), unwrapped(agent.policy.network)(seen["speed"]))
