"""The tests of the CUDA backend find faults that are planted in its sources, one at a time."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import planted
import pytest
from device import emulated_extension
from library import run, tool

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    own = emulated_extension().__file__
    assert own is not None
    tree, folder = Path(own).parent.parent, tmp_path_factory.mktemp("planted")
    library = planted.build(folder, tree, tool("ninja"))
    path = os.pathsep.join(word for word in sys.path if word)
    printed = run(sys.executable, planted.__file__, library, PYTHONPATH=path)
    found: list[dict[str, Any]] = json.loads(printed.splitlines()[-1])
    return found


def test_sources_without_faults_pass(outcomes: list[dict[str, Any]]) -> None:
    assert not [outcome for outcome in outcomes if outcome["without"]]


@pytest.mark.parametrize("fault", planted.FAULTS, ids=lambda fault: fault.name)
def test_fault_is_found(outcomes: list[dict[str, Any]], fault: planted.Fault) -> None:
    (outcome,) = (outcome for outcome in outcomes if outcome["name"] == fault.name)
    assert outcome["with"], "no check found it"
