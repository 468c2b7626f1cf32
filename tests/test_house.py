"""Rules of the house that no single module can break unnoticed."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from bundle_runner import BUNDLE, CONFIGS

SCRIPTS = BUNDLE / "scripts"
MODULES = sorted(SCRIPTS.rglob("*.py"))
LONGEST = 250


def method_modules() -> set[str]:
    """Modules of the methods that configurations name."""
    found = set()
    for path in (CONFIGS / "inference.json", *(CONFIGS / "methods").glob("*.json")):
        target = json.loads(path.read_text()).get("method", {}).get("_target_", "")
        found.add(target.rpartition(".")[0])
    return found - {""}


def imported(path: Path) -> set[str]:
    """Absolute names of what a module imports, functions' own imports included."""
    package = ["scripts", *path.relative_to(SCRIPTS).parts[:-1]]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def test_the_methods_are_found():
    assert {"scripts.methods.masked_bernoulli", "scripts.methods.denoising_autoencoder"} <= method_modules()
    assert "scripts.methods.contract" in imported(SCRIPTS / "methods" / "masked_bernoulli.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SCRIPTS)))
def test_one_idea_a_file(path: Path):
    assert len(path.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SCRIPTS)))
def test_nobody_imports_a_method(path: Path):
    """A configuration names it; whoever else did would have to be edited for the next one."""
    assert not imported(path) & method_modules()
