"""Consistency of the repository: one version, valid links, examples that run."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import gossamer
import pytest
from library import ROOT

pytestmark = pytest.mark.once

README = (ROOT / "README.md").read_text()
FRAMEWORKS = {"torch", "jax", "cupy", "scipy", "cupyx", "ml_dtypes"}
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
MODULES = sorted((ROOT / "python/gossamer").rglob("*.py"))


def tree() -> Iterator[Path]:
    """Yield the files of the repository that are text."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("needs a git checkout")
    for name in listed.stdout.split("\0"):
        path = ROOT / name
        if path.is_file() and path.suffix not in {".png", ".npz"}:
            yield path


def test_version_is_the_one_in_cmakelists() -> None:
    written = re.search(
        r"project\(gossamer VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text()
    )
    assert written is not None
    assert gossamer.__version__ == written[1]
    try:
        installed = importlib.metadata.version("gossamer")
    except importlib.metadata.PackageNotFoundError:
        return
    assert installed == written[1]


def test_changelog_knows_the_version() -> None:
    assert f"## [{gossamer.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


def test_no_path_of_a_machine() -> None:
    pattern = re.compile(r"(?<![\w.}])/(work|farm|home|root|opt)/[\w.]")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tree()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found


def test_faults_are_held_by_tests_that_exist() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "tests/faults.md").read_text())
    assert len(named) > 100
    sources = {file: (ROOT / "tests" / file).read_text() for file, _ in named}
    assert not [name for file, name in named if f"def {name}(" not in sources[file]]


def test_bindings_release_the_interpreter_lock_by_gil_release_only() -> None:
    for path in (ROOT / "python/src").rglob("*.[hc]*"):
        assert "gil_scoped_release" not in path.read_text(), path
        assert path.stem == "gil" or "PyEval_SaveThread" not in path.read_text(), path


#: Public C++ functions of arrays or matrices that look at no number in them.
NO_FLOATS = {
    "check_score",
    "convert_indices",
    "dtype_of",
    "flatten",
    "is_contiguous",
    "shape_string",
}


def test_public_functions_set_the_floating_point_environment() -> None:
    headers = (ROOT / "cpp/include/gossamer").glob("**/*.h")
    text = "\n".join(path.read_text() for path in headers if path.parent.name != "detail")
    argument = r"\([^(){};]*\b(?:TensorView|Score|Csr|Bsr|Packed)\b(?:[^(){};]|\{\})*\)"
    public = set(re.findall(rf"^(?!  )[^/\n]* (\w+){argument}(?: noexcept)?;", text, re.MULTILINE))
    assert {"spmm", "topk_mask", "csr_count", "evaluate"} <= public
    sources = [path for path in (ROOT / "cpp/src").rglob("*.cpp") if path.parent.name != "kernels"]
    without = set()
    for path in sources:
        source = re.sub(
            r"^namespace \{.*?^\}  // namespace$", "", path.read_text(), flags=re.M | re.S
        )
        definition = rf"^\S[^\n]*? (\w+){argument}(?: noexcept)? \{{\n(.*?)^\}}"
        for name, body in re.findall(definition, source, re.MULTILINE | re.DOTALL):
            if name in public - NO_FLOATS and not body.startswith("  const FloatEnvironment "):
                without.add(name)
    assert not without


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text())
    missing = [
        link for link in links if "://" not in link and not (document.parent / link).exists()
    ]
    assert not missing


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_readme_example_runs(framework: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    chosen = [b for b in blocks if re.search(rf"^import {framework}\b", b, re.MULTILINE)]
    assert len(chosen) == 1
    assert len(chosen[0].splitlines()) <= 16
    pytest.importorskip(framework)
    exec(compile(chosen[0], f"README.md, {framework}", "exec"), {"__name__": "example"})


def test_import_brings_no_framework() -> None:
    code = f"import sys, gossamer; print(sorted({FRAMEWORKS!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def imported(module: Path) -> set[str]:
    """Return the top-level names of all modules that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


PACKAGE = ROOT / "python/gossamer"


def is_leaf(module: Path) -> bool:
    return module.relative_to(PACKAGE).parts[0] in ("torch", "jax")


def test_leaves_are_imported_by_nothing() -> None:
    for path in MODULES:
        names = {
            getattr(node, "module", None) or alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        }
        leaves = {name for name in names if re.match(r"gossamer\.(torch|jax)\b", name)}
        assert not leaves or is_leaf(path), path


def test_only_interop_and_the_bench_name_a_framework() -> None:
    leaves = {"_interop.py", *(str(p.relative_to(PACKAGE)) for p in MODULES if is_leaf(p))}
    naming = {
        str(path.relative_to(ROOT / "python/gossamer"))
        for path in MODULES
        if imported(path) & FRAMEWORKS and not str(path.relative_to(ROOT)).count("bench")
    }
    assert naming <= leaves


def public(module: types.ModuleType, prefix: str = "") -> dict[str, Callable[..., object]]:
    """Return the public functions and methods by the name that a user writes."""
    found: dict[str, Callable[..., object]] = {}
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.ismodule(thing):
            found |= public(thing, f"{prefix}{name}.")
        elif inspect.isclass(thing):
            found |= {
                f"{prefix}{name}.{key}": getattr(thing, key)
                for key in vars(thing)
                if not key.startswith("_") and callable(getattr(thing, key))
            }
        elif callable(thing):
            found[prefix + name] = thing
    return found


PUBLIC = public(gossamer)
#: The functions that take arrays: all but those that ask or set something of the library.
OPERATIONS = [
    name
    for name, function in PUBLIC.items()
    if name[0].islower() and function.__module__ != "gossamer._runtime"
]


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_is_a_sentence_and_names_each_parameter(name: str) -> None:
    doc = inspect.getdoc(PUBLIC[name])
    assert doc, "has a docstring"
    first = doc.splitlines()[0]
    assert first.endswith("."), first
    assert len(doc.splitlines()) <= 40
    parameters = [p for p in inspect.signature(PUBLIC[name]).parameters if p not in {"self", "cls"}]
    unnamed = [p for p in parameters if not re.search(rf"\b{p}\b", doc)]
    assert not unnamed


@pytest.mark.parametrize("name", OPERATIONS)
def test_docstring_of_an_operation_has_its_parts(name: str) -> None:
    doc = inspect.getdoc(PUBLIC[name]) or ""
    parts = ["Parameters", "Returns", "Raises", "Examples"]
    missing = [part for part in parts if f"\n{part}\n{'-' * len(part)}\n" not in doc]
    assert not missing


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_docstring_examples_run(module: Path) -> None:
    name = ".".join(module.relative_to(ROOT / "python").with_suffix("").parts)
    if name.endswith("__main__"):
        return
    loaded = importlib.import_module(name.removesuffix(".__init__"))
    assert doctest.testmod(loaded).failed == 0
