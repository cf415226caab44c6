import contextlib
import io

import pytest
from tiny_runs import rows, train_tiny

from trpo.config import Config, EnvConfig, RecordConfig, RunConfig
from trpo.record.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def config(*, progress=True):
    return Config(env=EnvConfig(id="Some-v0"), record=RecordConfig(progress=progress), run=RunConfig(total_steps=1000))


def row(env_steps, **more):
    return {"env_steps": env_steps, "trust_region/kl": 0.00987, "trust_region/max_kl": 0.01, **more}


def shown(config, *metrics, stream=Terminal):
    """What is on the screen after the last of these rows."""
    with contextlib.redirect_stderr(stream()) as screen, Progress(config) as progress:
        for row in metrics:
            progress.show(row)
        progress.bar.refresh()
        return screen.getvalue().split("\r")[-1]


def test_on_a_terminal_the_bar_shows_environment_steps_return_and_kl():
    line = shown(config(), row(250, **{"rollout/episode_return": 21.25}))
    for words in ("Some-v0", " 25%", "250/1000", "steps/s", "return 21.2, KL 0.0099 of 0.01"):
        assert words in line


def test_the_latest_return_stays_when_no_episode_ended():
    line = shown(config(), row(100, **{"rollout/episode_return": 7.0}), row(200))
    assert "200/1000" in line
    assert "return 7.0" in line


def test_before_the_first_episode_there_is_no_return():
    assert "return –, KL" in shown(config(), row(100))


def test_a_run_rounded_up_ends_at_its_own_end():
    assert "1000/1000" in shown(config(), row(1000))
    assert "1024/1024" in shown(config(), row(500), row(1024))


def test_the_bar_can_be_turned_off():
    assert shown(config(progress=False), row(250)) == ""


def test_where_nobody_watches_there_is_no_bar():
    assert shown(config(), row(250), stream=io.StringIO) == ""


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_a_run_shows_its_bar_to_a_terminal_only_and_is_the_same_run(stream, tmp_path):
    with contextlib.redirect_stderr(stream()) as screen:
        assert train_tiny(tmp_path / "watched") == 0
    assert ("96/96" in screen.getvalue()) == (stream is Terminal)
    train_tiny(tmp_path / "unwatched", "record.progress=false")
    watched, unwatched = rows(tmp_path / "watched"), rows(tmp_path / "unwatched")
    assert [row["fingerprint"] for row in watched] == [row["fingerprint"] for row in unwatched]
