"""The example in the docstring of every public name, run as it stands."""

import doctest

import pytest

import trpo

FLAGS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


@pytest.mark.parametrize("name", trpo.__all__)
def test_a_public_name_has_an_example_that_gives_what_it_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = doctest.DocTestParser().get_doctest(getattr(trpo, name).__doc__, {}, name, None, None)
    assert examples.examples, "there is none"
    lines = []
    assert doctest.DocTestRunner(optionflags=FLAGS).run(examples, out=lines.append).failed == 0, "".join(lines)
