"""Each way of breaking mailq is noticed by a test."""

from __future__ import annotations

import pytest
from breaking import ROOT, is_caught, passes
from mutations import MUTANTS, Mutant

EACH = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))


@EACH
def test_a_mutant_still_fits_the_source(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.new != mutant.old
    for test in mutant.tests:
        if test.startswith("tests/"):
            assert (ROOT / test.partition("::")[0]).exists()


def test_there_is_one_mutant_of_a_name() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.slow
@pytest.mark.timeout(900)
@EACH
def test_a_mutant_is_caught(mutant: Mutant) -> None:
    assert passes(mutant)
    assert is_caught(mutant)
