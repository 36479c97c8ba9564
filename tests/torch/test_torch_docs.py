"""The programs of docs/frameworks.md, and the docstrings of gossamer.torch and gossamer.jax."""

from __future__ import annotations

import importlib
import inspect
import re

import pytest
from library import ROOT

pytestmark = pytest.mark.once

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/frameworks.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_program_runs(number: int) -> None:
    pytest.importorskip("jax" if "import jax" in BLOCKS[number] else "torch")
    exec(compile(BLOCKS[number], f"frameworks.md, {number}", "exec"), {"__name__": "example"})


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_docstrings_have_their_parts(framework: str) -> None:
    pytest.importorskip(framework)
    module = importlib.import_module(f"gossamer.{framework}")
    for name in module.__all__:
        doc = inspect.getdoc(getattr(module, name)) or ""
        assert doc.splitlines()[0].endswith("."), name
        parts = ["Parameters", "Raises", "Examples"]
        missing = [part for part in parts if f"\n{part}\n{'-' * len(part)}\n" not in doc]
        assert not missing, name
        if inspect.isfunction(getattr(module, name)):
            named = inspect.signature(getattr(module, name)).parameters
            assert not [p for p in named if not re.search(rf"\b{p}\b", doc)], name
