"""The distribution: packages, directions of imports, bare names, README, Makefile, and the wheel."""

import ast
import hashlib
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
TOP = ("checkpoints", "export", "runtime", "training")
# What each package may import of the others. Training may use errors, schema and files of the runtime, and the format
# of samples.
ALLOWED = {
    "checkpoints": set[str](),
    "runtime": {"runtime", "checkpoints"},
    "training": {"training"},
    "export": {"export", "training", "runtime"},
}
SHARED_WITH_TRAINING = ("errors", "schema", "storage", "bundle", "pictures", "study")
NOT_IN_RUNTIME = {"torch", "pytorch_lightning", "transformers", "onnx", "onnxscript", "dicebear", "resvg_py"}
RUNS = ("bundle", "diffusion", "pictures", "demo.json")  # of checkpoints/avatars, what the runtime needs
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
SKIPPED = {".git", ".venv", ".venv-demo", "build", "dist", "out", "runs", "typings", "data"}


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def package_folders() -> dict[str, Path]:
    """Package name -> folder, for every folder with an __init__.py below the four top folders."""
    found = {}
    for top in TOP:
        for path in sorted((ROOT / top).rglob("__init__.py")):
            relative = path.parent.relative_to(ROOT)
            found[".".join(("limner", *relative.parts))] = path.parent
    return found


def imports(path: Path) -> Iterator[str]:
    """Yield the full names of all modules that a file imports, inside functions as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            yield node.module
            if node.module == "limner" or node.module.count(".") == 1:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


# --- packages ---------------------------------------------------------------------------------------------


def test_the_package_list_is_the_tree(pyproject: dict[str, Any]) -> None:
    setuptools = pyproject["tool"]["setuptools"]
    assert sorted(setuptools["packages"]) == sorted(package_folders())
    assert setuptools["package-dir"] == {f"limner.{top}": top for top in TOP}


def test_every_folder_with_code_is_a_package() -> None:
    packages = set(package_folders().values())
    for top in TOP:
        for path in (ROOT / top).rglob("*.py"):
            assert path.parent in packages, f"{path.parent} has no __init__.py"


def test_every_top_package_is_typed() -> None:
    for top in TOP:
        assert (ROOT / top / "py.typed").is_file()


@pytest.mark.parametrize("top", TOP)
def test_a_bare_folder_name_does_not_import(top: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {top}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"limner.{top}" in done.stderr.splitlines()[-1]


def test_entry_points_name_what_exists(pyproject: dict[str, Any]) -> None:
    groups = dict(pyproject["project"]["entry-points"]) | {"scripts": pyproject["project"]["scripts"]}
    for entries in groups.values():
        for value in entries.values():
            module, _, name = value.partition(":")
            parts = module.split(".")[1:]
            path = ROOT.joinpath(*parts)
            path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            tree = ast.parse(path.read_text())
            functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assigned = {
                target.id
                for node in tree.body
                if isinstance(node, ast.Assign)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            assert not name or name in functions | assigned, value  # a module as a whole has no name behind it


def test_lightning_excludes_the_malicious_releases(pyproject: dict[str, Any]) -> None:
    lightning = [line for line in pyproject["project"]["optional-dependencies"]["train"] if "lightning" in line]
    assert len(lightning) == 1
    assert {"!=2.6.2", "!=2.6.3"} <= set(re.split(r"[,\s]|pytorch-lightning", lightning[0]))


def test_the_runtime_needs_no_torch(pyproject: dict[str, Any]) -> None:
    extras = pyproject["project"]["optional-dependencies"]
    for line in [*pyproject["project"]["dependencies"], *extras["cpu"], *extras["gpu"]]:
        assert not re.match(r"torch|transformers|pytorch", line)


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("name", ["runtime.txt", "train.txt"])
def test_constraints_are_exact(name: str, python: str) -> None:
    lines = [line for line in (ROOT / "constraints" / python / name).read_text().splitlines() if line[:1] != "#"]
    assert len(lines) > 10
    for line in lines:
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9][^+;]*", line), line
    names = {line.split("==")[0] for line in lines}
    assert {"numpy", "onnxruntime", "pillow", "tokenizers"} <= names and ("torch" in names) == (name == "train.txt")


# --- directions of imports --------------------------------------------------------------------------------


@pytest.mark.parametrize("top", TOP)
def test_imports_point_one_way(top: str) -> None:
    for path in (ROOT / top).rglob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            assert parts[0] not in TOP, f"{path} imports the bare name {name}"
            if parts[0] != "limner" or len(parts) < 2:
                continue
            shared = top == "training" and parts[1] == "runtime"
            if shared:
                allowed = any(name.startswith(f"limner.runtime.{room}") for room in SHARED_WITH_TRAINING)
                assert len(parts) == 2 or allowed, f"{path} imports {name}"
            else:
                assert parts[1] in ALLOWED[top], f"{path} imports {name}"


# From the ground up: a file of the runtime imports from its own level and from those below it. A module is of the
# level that names it, or its nearest package.
LEVELS = (
    (
        "errors",
        "arrays",
        "timing",
        "grammar",
        "trajectory",
        "attention_maps",
        "schema",
        "settings",
        "storage",
        "versions",
        "machine",
        "listening",
    ),
    ("pictures", "faces"),
    ("methods", "recipe"),
    ("bundle",),
    ("graphs",),
    ("text",),
    ("critics", "outcome", "edit", "notices"),
    ("diffusion", "stylegan2"),
    ("guidance",),
    ("attention",),
    ("completing", "declarations", "wording"),
    ("editor",),
    ("photograph",),
    ("marking",),
    ("provenance", "study"),
    ("client", "server"),
    ("page",),
    ("cli",),
)


def modules(*tops: str) -> dict[str, Path]:
    """Full name -> file, of every module below the top folders; packages by their own name."""
    found = {}
    for top in tops:
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(("limner", *(part for part in parts if part != "__init__")))] = path
    return found


def module_imports(known: dict[str, Path]) -> dict[str, set[str]]:
    """Module -> modules that it names in an import, those inside functions and for type checkers too."""
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        named = set(imports(path))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                named |= {f"{node.module}.{alias.name}" for alias in node.names}
        found[name] = (named & known.keys()) - {name}
    return found


def level_of(module: str) -> int:
    parts = module.split(".")[2:]
    for level, rooms in enumerate(LEVELS):
        if parts and parts[0] in rooms:
            return level
    return len(LEVELS)  # the package itself, which names all, and __main__


def test_arrows_in_the_runtime_point_down() -> None:
    known = modules("runtime")
    rooms = {name.split(".")[2] for name in known if name.count(".") >= 2}
    assert rooms - {"__main__"} == {room for level in LEVELS for room in level}
    for module, named in module_imports(known).items():
        for other in named:
            assert level_of(other) <= level_of(module), f"{known[module]} imports {other}, which lies above it"


def test_no_circle() -> None:
    """Imports inside functions count, and those for type checkers alone."""
    arrows = module_imports(modules("runtime", "export", "training"))
    settled: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"a circle: {' -> '.join((*way[way.index(module) :], module))}"
        if module not in settled:
            for other in sorted(arrows[module]):
                if not module.startswith(f"{other}."):  # the package that a module lies in
                    walk(other, (*way, module))
            settled.add(module)

    for module in arrows:
        walk(module, ())


def test_what_a_module_says_it_has_is_what_others_take() -> None:
    """`__all__` names what is there, and everything that another module imports."""
    import importlib

    known = modules("runtime", "export", "training")
    taken: dict[str, set[str]] = {}
    for path in known.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in known:
                taken.setdefault(node.module, set()).update(alias.name for alias in node.names)
    for name, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not any(isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__" for node in tree.body):
            continue
        module = importlib.import_module(name)
        listed = set(module.__all__)
        assert len(listed) == len(module.__all__)
        assert all(hasattr(module, one) for one in listed), name
        here = {one for one in taken.get(name, ()) if f"{name}.{one}" not in known}
        hidden = {one for one in here - listed if callable(getattr(module, one)) or one.isupper()}
        assert not hidden, f"{path} has no {', '.join(sorted(hidden))} in __all__"


def test_the_runtime_names_nothing_heavy() -> None:
    for path in (ROOT / "runtime").rglob("*.py"):
        found = {name.split(".")[0] for name in imports(path)} & NOT_IN_RUNTIME
        assert not found, f"{path} imports {found}"


def test_the_runtime_imports_with_torch_absent() -> None:
    """Every module of the runtime, with torch and what belongs to it made impossible to import."""
    names = []
    for path in sorted((ROOT / "runtime").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__main__":
            names.append(".".join(("limner", *(part for part in parts if part != "__init__"))))
    code = (
        "import importlib, sys\n"
        f"for name in {sorted(NOT_IN_RUNTIME)!r}: sys.modules[name] = None\n"
        "sys.modules['limner.training'] = sys.modules['limner.export'] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "import limner.runtime as runtime\n"
        "for name in runtime.__all__: getattr(runtime, name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- README and Makefile ----------------------------------------------------------------------------------


def shell_lines() -> list[str]:
    """The commands in the README's sh blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    joined = [block.replace("\\\n", "") for block in blocks]
    lines = [line.split("  #")[0].strip() for block in joined for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-zA-Z%_-]*):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("line", shell_lines())
def test_readme_commands_parse(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        known = targets()
        goal = re.sub(r"^train-avatars-[a-z0-9]+$", "train-avatars-%", words[1])
        assert words[1] in known or goal in known
    elif words[0] == "limner":
        parse(words[1:])
    else:
        assert words[:2] == ["pip", "install"], line


def parse(words: list[str]) -> None:
    """Parse a command line without running it, verbs of verbs too; the contexts are all that is made."""
    import typer

    from limner.runtime.cli.app import app

    command: Any = typer.main.get_command(app)
    parent: Any = command.make_context("limner", words[:1])
    while hasattr(command, "commands") and words:
        name, words = words[0], words[1:]
        command = command.commands[name]
        nested = hasattr(command, "commands")
        parent = command.make_context(name, words[:1] if nested else words, parent=parent)


FAMILIES = ("judge", "identity", "clip", "encoder", "autoencoder", "diffusion", "stylegan2", "relevance", "mappers")


@pytest.mark.parametrize("target", [*(f"train-avatars-{name}" for name in FAMILIES), "demo", "export", "precision",
                                    "export-diffusion", "train-gpu-adopt"])  # fmt: skip
def test_the_commands_of_make_parse(target: str) -> None:
    """What a target would run is a command line that the program takes."""
    made = subprocess.run(["make", "--no-print-directory", "-n", target, "MAKEFLAGS="], cwd=ROOT, capture_output=True,
                          text=True, check=True)  # fmt: skip
    text = made.stdout.replace("\\\n", " ")
    lines = [line.partition("/limner ")[2].partition(";")[0] for line in text.splitlines() if "/limner " in line]
    assert lines
    for line in lines:
        parse(shlex.split(line.replace("$kind", "fp16")))


def test_the_root_holds_the_door_alone() -> None:
    """What a visitor sees first: figures, documentation and code have folders of their own."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    files = {name for name in tracked if "/" not in name and not name.startswith(".")}
    if files:  # not in a copy without its history
        assert files == {"CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "pyproject.toml"}


def test_readme_opens_with_a_picture_and_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.index("![") < text.index("make demo") < text.index("make test") < 2000


def test_what_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    assert links
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_readme_python_runs_up_to_its_names() -> None:
    """The names that the README's Python takes from limner exist."""
    import importlib

    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), node.module


def test_make_help_lists_every_target_with_words() -> None:
    done = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = {line.split()[0] for line in done.stdout.splitlines()}
    assert targets() - {"typings"} == listed


# --- the wheel --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a copy, so that no left-over build folder of the tree gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns(*SKIPPED, "*.egg-info", "__pycache__", ".*_cache", ".venv*")
    shutil.copytree(ROOT, folder / "tree", ignore=skip)
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(folder / "tree")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


@pytest.mark.wheel
def test_the_wheel_holds_every_file_of_every_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for top in TOP:
        for path in (ROOT / top).rglob("*"):
            relative = path.relative_to(ROOT)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
            if path.is_file() and not hidden and path.suffix not in (".pyc", ".part"):
                trains = relative.parts[:2] == ("checkpoints", "avatars") and relative.parts[2] not in RUNS
                assert (f"limner/{relative.as_posix()}" in names) != trains, relative
    assert not [name for name in names if name.split("/")[0] in (*TOP, "tests", "typings")]


@pytest.mark.wheel
def test_the_wheel_holds_each_weight_once(wheel: Path) -> None:
    """No two large files of one content, and no more of them than the README says."""
    archive = zipfile.ZipFile(wheel)
    large = [entry for entry in archive.infolist() if entry.file_size > 100_000]
    digests = [hashlib.sha256(archive.read(entry)).hexdigest() for entry in large]
    assert len(set(digests)) == len(digests)
    megabytes = wheel.stat().st_size / 1e6
    said = re.search(r"The wheel has (\d+) MB", (ROOT / "README.md").read_text())
    assert said is not None and abs(int(said[1]) - megabytes) <= 1, megabytes


@pytest.mark.wheel
def test_the_wheel_runs_in_a_clean_environment_without_torch(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    command: list[str | Path] = [python, "-m", "pip", "install", "--quiet", f"{wheel}[cpu]"]
    command += ["--constraint", ROOT / "constraints" / PYTHON / "runtime.txt"]
    subprocess.run(command, check=True, cwd=tmp_path)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        program = tmp_path / "venv" / "bin" / "limner"
        return subprocess.run([program, *words], cwd=tmp_path, capture_output=True, text=True)

    assert run("--help").returncode == 0
    assert '"torch": null' in run("check", "--json").stdout
    refused = run("export", "onnx")
    assert refused.returncode == 2
    assert "limner[export]" in refused.stderr
    if (ROOT / "checkpoints" / "avatars" / "bundle" / "bundle.json").is_file():
        assert run("check").returncode == 0
        assert run("sample", "-o", "sample.png").returncode == 0
        edited = run("edit", "seed:1", "a person with a beard", "-o", "edited.png")
        assert edited.returncode == 0, edited.stderr
        replayed = run("replay", "edited.png")
        assert replayed.returncode == 0, replayed.stderr
