"""What README.md and docs/ tell people to type, to follow and to run, they can."""

import ast
import contextlib
import dataclasses
import io
import re
import shlex

import custom_loop
import pytest
import torch
from pages import PAGES, README, ROOT, anchors, blocks, languages, links, prose, read, spans, table_rows
from tiny_runs import compose, refusal, rows, train_tiny
from typed import CHECKS, check_command

import trpo
from trpo.batch import info_figures
from trpo.commands.search import search
from trpo.commands.train import train
from trpo.config import Config
from trpo.keys import check_key

LONGEST_README = 180  # lines
SECTIONS = "|".join(field.name for field in dataclasses.fields(Config))

TOLD = info_figures({"is_success": (1.0, 1), "NAME": (1.0, 1)})  # what only some environments say

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run with everything in its directory that can be, but for the end: it was killed."""
    directory = tmp_path_factory.mktemp("documented") / "run"
    whole_episodes = ("run.total_steps=4608", "run.steps_per_iteration=512")  # twenty of them and more
    off_by_default = ("policy.final_std_scale=0.9", "trust_region.entropy=0.001")
    assert train_tiny(directory, *whole_episodes, *off_by_default, "record.dump_every=1", task="pendulum") == 0
    (directory / "summary.json").unlink()
    return directory


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory, in which nothing may start to run."""
    monkeypatch.chdir(tmp_path)
    yield
    assert {path.name for path in tmp_path.iterdir()} <= {"report"}


@pytest.mark.parametrize("block", blocks("sh"))
def test_every_line_to_be_typed_is_understood(block, run):
    for line in block.replace("\\\n", " ").splitlines():
        check_command(line, run)


@pytest.mark.parametrize("line", spans(f"({'|'.join(CHECKS)}) .+"))
def test_a_command_in_a_sentence_is_understood(line, run):
    check_command(line, run)


@pytest.mark.parametrize("block", blocks("console"))
def test_what_a_console_shows_is_what_is_printed(block):
    line, *printed = block.splitlines()
    prompt, program, *arguments = shlex.split(line)
    assert prompt == "$"
    assert [refusal({"trpo-train": train, "trpo-search": search}[program], *arguments)] == printed


@pages
def test_every_block_is_in_a_language_that_is_tested(page):
    tested_here, tested_with_the_rooms, only_looked_at = {"sh", "console", "python"}, {"mermaid"}, {""}
    assert languages(page) <= tested_here | tested_with_the_rooms | only_looked_at


@pytest.mark.parametrize("text", spans(rf"({SECTIONS})\.[a-z_]+(=\S+)?( \S+=\S+)*"))
def test_a_key_in_a_sentence_is_one_and_may_have_that_value(text):
    check_key(text.split("=")[0])
    if "=" in text:
        compose("task=hopper", *text.split())


@pytest.mark.parametrize("path", spans(r"(trpo|scripts|tests|docs|configs)/[\w/.-]*"))
def test_a_file_in_a_sentence_is_there(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("tag", spans(r"(rollout|evaluation|trust_region|policy|critic|time)/\w+"))
def test_a_tag_in_a_sentence_is_logged(tag, run):
    group, _, name = tag.partition("/")
    assert any(tag in row for row in rows(run)) or (name in TOLD and group in ("rollout", "evaluation"))


def test_the_table_of_tags_has_every_tag_of_the_trust_region(run):
    logged = {tag for row in rows(run) for tag in row if tag.startswith("trust_region/")}
    lines = [cells[0] for cells in table_rows(ROOT / "docs" / "curves.md")]
    assert {f"trust_region/{name.strip('`')}" for line in lines for name in line.split(", ")} == logged


def test_beside_every_name_of_others_stands_one_of_ours_that_is_there(run):
    logged, lines = {tag for row in rows(run) for tag in row}, list(table_rows(ROOT / "docs" / "tags.md"))
    assert len(lines) > 30
    for ours, *others in lines:
        names = re.findall("`([^`]+)`", ours)
        assert names, others
        for name in names:
            if name.startswith("trpo-"):
                check_command(name, run)
            elif name not in logged:
                check_key(name)


@pytest.mark.parametrize(("page", "target"), links())
def test_a_link_leads_somewhere(page, target):
    path, _, anchor = target.partition("#")
    there = page.parent / path if path else page
    assert there.exists()
    assert not anchor or anchor in anchors(there)


@pages
def test_every_page_has_a_way_to_it_from_the_readme(page):
    assert page == README or f"](docs/{page.name})" in prose(README)


@pytest.mark.parametrize("block", blocks("python"))
def test_python_compiles_and_its_imports_are_there(block):
    imports = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "<imports>", "exec"), {})


def test_the_step_in_a_loop_of_ones_own_is_one():
    settings = {"hidden_sizes": (8,), "activation": "tanh", "initial_log_std": 0.0, "min_log_std": -5.0}
    policy = trpo.GaussianPolicy(1, 1, generator=torch.Generator().manual_seed(0), **settings)
    names = {"policy": policy, "batch": custom_loop.sample_batch(policy, torch.Generator().manual_seed(1))[0]}
    (block,) = [parameters.values[0] for parameters in blocks("python") if parameters.id.startswith("own-loop:")]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block, names)
    outcome, spent, predicted, error = printed.getvalue().split()
    assert outcome == trpo.Outcome.ACCEPTED.value
    assert 0 < float(spent) <= 0.01
    assert float(error) == pytest.approx(1 - float(predicted) / float(spent))


def test_the_readme_is_no_manual():
    assert len(read(README).splitlines()) <= LONGEST_README


def test_the_small_tables_of_the_readme_say_what_the_whole_ones_say():
    whole = {cells[0]: cells for page in ("learning", "speed") for cells in table_rows(ROOT / "docs" / f"{page}.md")}
    small = list(table_rows(README))
    assert small
    for cells in small:
        assert {*cells} <= {*whole[cells[0]]}
