"""The documentation's generated pages are what the code says; its Python runs; its tables are made of declarations."""

import ast
import importlib
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md"))


def test_generated_pages_are_what_the_code_says() -> None:
    done = subprocess.run([sys.executable, "docs/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_variable_is_in_the_table() -> None:
    table = (ROOT / "docs" / "reference" / "environment.md").read_text()
    named = {name for top in ("runtime", "training", "export") for path in (ROOT / top).rglob("*.py")
             for name in re.findall(r"\"(LIMNER_[A-Z_]+)\"", path.read_text())}  # fmt: skip
    assert named == set(re.findall(r"`(LIMNER_[A-Z_]+)`", table))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT / "docs").as_posix())
def test_python_of_a_page_names_what_exists(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), node.module
    for name in re.findall(r"^::: (\S+)", page.read_text(), re.M):
        owner, _, last = name.rpartition(".")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(owner), last), name


def test_the_method_of_the_page_is_the_one_that_is_tested() -> None:
    block = re.search(r"^```python\n(.*?)^```", (ROOT / "docs" / "writing-a-method.md").read_text(), re.M | re.S)
    assert block is not None
    fading = types.ModuleType("fading")
    sys.modules["fading"] = fading  # dataclasses look their module up
    exec(compile(block[1], "writing-a-method.md", "exec"), vars(fading))
    from limner.runtime.declarations import setting_rows

    assert [row.name for row in setting_rows(fading.method.parameters)] == ["amount"]
