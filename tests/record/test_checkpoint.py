import os

import pytest
import torch
from tiny_runs import agent_of, checkpoints, fingerprints, rows, same_tensors, summary, train_tiny

from trpo.commands.compose import load_config
from trpo.config import UserError
from trpo.numerics.params import fingerprint
from trpo.record import checkpoint
from trpo.record.files import write_atomically

STATE = {"weights": torch.arange(3.0), "env_steps": 7, "nested": {"name": "x"}}


def test_what_is_saved_is_what_is_loaded(tmp_path):
    checkpoint.save(tmp_path / "new" / "one.pt", STATE)
    loaded = checkpoint.load(tmp_path / "new" / "one.pt")
    assert torch.equal(loaded["weights"], STATE["weights"])
    assert (loaded["env_steps"], loaded["nested"]) == (7, {"name": "x"})
    assert loaded["format_version"] == checkpoint.FORMAT_VERSION


def test_nothing_but_the_checkpoint_is_left_in_the_directory(tmp_path):
    checkpoint.save(tmp_path / "one.pt", STATE)
    assert list(tmp_path.iterdir()) == [tmp_path / "one.pt"]


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "one.md").symlink_to(tmp_path / "elsewhere" / "real.md")
    for data in (b"first", b"second"):
        write_atomically(tmp_path / "one.md", data)
        assert (tmp_path / "one.md").is_symlink()
        assert (tmp_path / "elsewhere" / "real.md").read_bytes() == data
    assert [file.name for file in (tmp_path / "elsewhere").iterdir()] == ["real.md"]


def crash_halfway(state, file):
    file.write(b"PK half a checkpoint")
    raise OSError("no space left on device")


def crash(*arguments):
    raise OSError("the power went")


@pytest.mark.parametrize(("module", "name", "crash"), [(torch, "save", crash_halfway), (os, "replace", crash)])
def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch, module, name, crash):
    checkpoint.save(tmp_path / "one.pt", STATE)
    before = (tmp_path / "one.pt").read_bytes()
    monkeypatch.setattr(module, name, crash)
    with pytest.raises(OSError, match=r"no space|power"):
        checkpoint.save(tmp_path / "one.pt", {"env_steps": 8})
    assert (tmp_path / "one.pt").read_bytes() == before


def test_a_crash_of_the_first_checkpoint_leaves_none_that_could_be_taken_for_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "save", crash_halfway)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(tmp_path / "checkpoints" / checkpoint.numbered_name(7), STATE)
    assert checkpoint.newest_readable(tmp_path / "checkpoints") is None


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path):
    torch.save({"format_version": 1, "agent": Payload(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"evil\.pt"):
        checkpoint.load(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)  # so the payload works
    assert (tmp_path / "ran").exists()


def test_a_later_format_is_refused_by_its_number(tmp_path):
    torch.save({"format_version": checkpoint.FORMAT_VERSION + 1}, tmp_path / "later.pt")
    with pytest.raises(UserError, match=rf"later\.pt has format {checkpoint.FORMAT_VERSION + 1}.*up to"):
        checkpoint.load(tmp_path / "later.pt")


@pytest.mark.parametrize("foreign", [{"weights": torch.ones(2)}, [1, 2], torch.ones(2), {"format_version": "one"}])
def test_a_file_of_torch_that_is_no_checkpoint_is_refused(tmp_path, foreign):
    torch.save(foreign, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match=r"foreign\.pt"):
        checkpoint.load(tmp_path / "foreign.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04", b"\x80\x02."])
def test_a_damaged_file_is_refused_by_name_in_one_line(tmp_path, content):
    (tmp_path / "damaged.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"damaged\.pt") as refused:
        checkpoint.load(tmp_path / "damaged.pt")
    assert "\n" not in str(refused.value)


def test_a_checkpoint_cut_short_is_refused_by_name(tmp_path):
    checkpoint.save(tmp_path / "whole.pt", STATE)
    content = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cut\.pt"):
        checkpoint.load(tmp_path / "cut.pt")


def test_a_missing_file_and_a_directory_are_refused_by_name(tmp_path):
    for path in (tmp_path / "missing.pt", tmp_path):
        with pytest.raises(UserError, match=path.name):
            checkpoint.load(path)


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_newest_are_kept_in_order_of_their_steps(tmp_path, keep):
    for steps in (9, 80, 700, 1_000_000_000):
        checkpoint.save(tmp_path / checkpoint.numbered_name(steps), {"env_steps": steps})
        checkpoint.remove_oldest(tmp_path, keep=keep)
    kept = [checkpoint.load(file)["env_steps"] for file in checkpoint.numbered(tmp_path)]
    assert kept == [9, 80, 700, 1_000_000_000][-keep:]
    assert checkpoint.newest_readable(tmp_path)[1]["env_steps"] == 1_000_000_000


def test_the_best_is_never_removed_and_never_taken_for_the_newest(tmp_path):
    checkpoint.save(tmp_path / checkpoint.BEST, {"env_steps": 1})
    for steps in (1, 2, 3):
        checkpoint.save(tmp_path / checkpoint.numbered_name(steps), {"env_steps": steps})
        checkpoint.remove_oldest(tmp_path, keep=1)
    assert checkpoint.load(tmp_path / checkpoint.BEST)["env_steps"] == 1
    assert checkpoint.newest_readable(tmp_path)[1]["env_steps"] == 3


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoints") / "run"
    train_tiny(
        directory,
        "run.total_steps=352",
        "run.evaluate_every=32",
        "run.evaluation_episodes=3",
        "run.checkpoint_every=32",
        "run.keep_checkpoints=99",
        "trust_region.max_kl=0.1",
        "seed=1",
    )
    return directory


def test_every_checkpoint_holds_the_policy_of_its_iteration(run):
    config = load_config(run / "config.yaml")
    assert [fingerprint(agent_of(config, file).policy) for file in checkpoints(run)] == fingerprints(run)


def test_a_loaded_agent_acts_bit_for_bit_alike(run):
    agents = [agent_of(load_config(run / "config.yaml"), checkpoints(run)[0]) for _ in range(2)]
    observations = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    noise = agents[0].policy.distribution.noise(50, torch.Generator().manual_seed(1))
    drawn = [agent.actor()(observations, noise) for agent in agents]
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], agents[0].actor()(observations, None))
    assert same_tensors(agents[0].state_dict(), checkpoint.load(checkpoints(run)[0])["agent"])


def test_best_is_the_checkpoint_of_the_latest_best_evaluation(run):
    evaluations = [(row["evaluation/return_mean"], row["env_steps"]) for row in rows(run)]
    mean, steps = max(evaluations)
    assert mean > max(evaluations[0][0], evaluations[-1][0])  # or the test could not fail
    assert checkpoint.load(run / "checkpoints" / checkpoint.BEST)["env_steps"] == steps
    best = summary(run)["best_evaluation"]
    assert (best["return_mean"], best["env_steps"]) == (mean, steps)
