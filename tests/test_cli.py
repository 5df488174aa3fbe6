"""The command line on a toy bundle: what the verbs write and print; bad input ends in one sentence."""

import hashlib
import json
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]
BEARD = "a person with a beard"


@pytest.fixture(autouse=True)
def toy_everywhere(toy_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every command of this file runs in an empty folder, on the toy bundle unless it names another."""
    monkeypatch.setenv("LIMNER_BUNDLE", str(toy_folder))
    monkeypatch.chdir(tmp_path)


def expect_refused(run: Run, tmp_path: Path, words: list[str], *arguments: object) -> None:
    """The command leaves with 2, says why in one line with all of `words`, and leaves no new file."""
    before = sorted(tmp_path.rglob("*"))
    ran = run(*arguments)
    assert ran.code == 2, ran
    assert ran.out == ""
    lines = [line for line in ran.err.splitlines() if not line.startswith("bundle toy ")]
    assert len(lines) == 1, ran.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in ran.err
    for word in words:
        assert word in lines[0]
    assert sorted(tmp_path.rglob("*")) == before


# --- what the verbs do ------------------------------------------------------------------------------------


def test_edit_writes_the_picture_the_sheet_and_json(limner: Run, portrait: Path, tmp_path: Path) -> None:
    ran = limner("edit", portrait, BEARD, "--beta", "0.01", "-o", "a.png", "--sheet", "s.png", "--json")
    assert ran.code == 0, ran.err
    data = json.loads(ran.out)
    assert data["output"] == "a.png"
    assert data["sheet"] == "s.png"
    assert data["recipe"]["prompts"][0]["text"] == BEARD
    assert data["provider"] == "cpu"
    assert data["timing_ms"]["total"] > 0
    assert Image.open(tmp_path / "a.png").size == (16, 16)
    assert Image.open(tmp_path / "s.png").width > 3 * 192


def test_edit_names_its_output_and_prints_it(limner: Run, portrait: Path, tmp_path: Path) -> None:
    ran = limner("edit", portrait, BEARD, "-m", "latent-optimization", "--set", "steps=3")
    assert ran.code == 0, ran.err
    assert ran.out == "portrait-edited.png\n"
    assert (tmp_path / "portrait-edited.png").is_file()
    assert "latent-optimization: step 3 of 3" in ran.err


def test_one_value_serves_all_texts(limner: Run) -> None:
    ran = limner("edit", "seed:7", "red hair", "a beard", "--neutral", "a face", "--beta", "0.01", "--json")
    prompts = json.loads(ran.out)["recipe"]["prompts"]
    assert [prompt["options"]["neutral"] for prompt in prompts] == ["a face", "a face"]


def test_dry_run_checks_and_runs_nothing(limner: Run, portrait: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    ran = limner("edit", portrait, BEARD, "--dry-run")
    data = json.loads(ran.out)
    assert ran.code == 0
    assert data["output"] == "portrait-edited.png"
    assert data["graphs"]
    assert sorted(tmp_path.rglob("*")) == before
    expect_refused(limner, tmp_path, ["source", "no file"], "edit", "gone.png", BEARD, "--dry-run")


def test_invert_then_edit_its_latents(limner: Run, portrait: Path, tmp_path: Path) -> None:
    ran = limner("invert", portrait, "--refine", "2", "--sheet", "i.png", "--json")
    assert ran.code == 0, ran.err
    assert "refine: step 2 of 2" in ran.err
    assert json.loads(ran.out)["steps"] <= 2
    latents = np.load(tmp_path / "portrait.npy")
    assert latents.shape == (6, 8)
    assert latents.dtype == np.float32
    assert limner("edit", "portrait.npy", BEARD, "--beta", "0.01").code == 0


def test_samples_are_a_grid(limner: Run, tmp_path: Path) -> None:
    ran = limner("sample", "--count", "10", "--seed", "3", "-o", "grid.png", "--json")
    assert json.loads(ran.out)["seeds"] == list(range(3, 13))
    assert Image.open(tmp_path / "grid.png").size == (8 * 16, 2 * 16)


def test_replay_gives_the_same_pixels(limner: Run, portrait: Path, tmp_path: Path) -> None:
    made = limner("edit", portrait, BEARD, "--beta", "0.01", "-o", "a.png", "--json")
    ran = limner("replay", "a.png", "-o", "b.png", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["same_pixels"] is True
    assert Image.open(tmp_path / "a.png").tobytes() == Image.open(tmp_path / "b.png").tobytes()
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(json.loads(made.out)["recipe"]))
    assert limner("replay", recipe, "-o", "c.png").code == 0
    assert Image.open(tmp_path / "a.png").tobytes() == Image.open(tmp_path / "c.png").tobytes()
    portrait.rename(tmp_path / "moved.png")
    expect_refused(limner, tmp_path, ["source", "no file"], "replay", "a.png")
    assert limner("replay", "a.png", "--source", "moved.png").code == 0


def test_models_lists_graphs_and_licences(limner: Run) -> None:
    bundle = json.loads(limner("models", "--json").out)["bundle"]
    assert bundle["name"] == "toy"
    assert len(bundle["graphs"]) == 12
    assert all(len(graph["sha256"]) == 64 for graph in bundle["graphs"])
    assert bundle["licences"][0]["licence"] == "CC0"
    assert "licence of all: CC0" in limner("models").out


def test_models_lists_checkpoints(limner: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from limner.runtime.bundle import shipped

    model = tmp_path / "checkpoints" / "avatars" / "judge"
    edits = tmp_path / "checkpoints" / "avatars" / "edits"
    for folder in (model, edits):
        folder.mkdir(parents=True)
    (model / "config.json").write_text('{"family": "judge", "config": {}}')
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Judge\n")
    (edits / "relevance.safetensors").write_bytes(b"tensors")
    monkeypatch.setattr(shipped, "checkpoints_folder", lambda: tmp_path / "checkpoints")
    found = json.loads(limner("models", "--json").out)["checkpoints"]
    assert [entry["name"] for entry in found] == ["avatars/edits/relevance", "avatars/judge"]
    assert [entry["family"] for entry in found] == ["tensors", "judge"]
    assert found[1]["licence"] == "apache-2.0"
    assert found[1]["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert "avatars/judge" in limner("models").out


def test_check_reports_machine_versions_and_providers(limner: Run, tmp_path: Path) -> None:
    ran = limner("check", "--json")
    data = json.loads(ran.out)
    assert ran.code == 0, data["problems"]
    assert data["machine"]["cores"] >= 1
    assert data["packages"]["numpy"] == np.__version__
    assert "cpu" in data["onnxruntime"]["providers"]
    assert data["bundle"]["verified"] is True
    ran = limner("check", "--bundle", tmp_path / "gone")
    assert ran.code == 1
    assert "problem" in ran.out


def test_check_sees_two_onnxruntime_wheels(limner: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from limner.runtime.graphs import providers

    wheels = {"onnxruntime": "1.0", "onnxruntime-gpu": "1.0"}
    monkeypatch.setattr(providers, "installed_wheels", lambda: wheels)
    ran = limner("check", "--json")
    assert ran.code == 1
    assert "share one import path" in json.loads(ran.out)["onnxruntime"]["conflict"]


def test_demo_draws_one_sheet(limner: Run, portrait: Path, tmp_path: Path) -> None:
    quick = {"text": BEARD, "caption": "beard", "beta": 0.01}
    slow = {"text": BEARD, "parameters": {"steps": 2}}
    rows = [
        {
            "picture": "portrait.png",
            "method": "global-directions",
            "edits": [quick, quick | {"strength": -3}],
        },
        {"picture": "portrait.png", "method": "latent-optimization", "edits": [slow]},
    ]
    path = tmp_path / "demo.json"
    path.write_text(json.dumps({"title": "Demo", "rows": rows}))
    assert len(json.loads(limner("demo", "--edits", path, "--dry-run").out)["edits"]) == 3
    assert not (tmp_path / "out").exists()
    ran = limner("demo", "--edits", path, "--json")
    assert ran.code == 0, ran.err
    assert len(json.loads(ran.out)["edits"]) == 3
    assert (tmp_path / "out" / "demo.png").is_file()
    rows[0]["edits"][0]["strenth"] = 1  # type: ignore[index]
    path.write_text(json.dumps({"rows": rows}))
    expect_refused(limner, tmp_path, ["strenth", "strength"], "demo", "--edits", path)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom limner.runtime.cli import main\nmain(['--help'])\n"
        "heavy = {'numpy', 'onnxruntime', 'torch', 'PIL', 'rich', 'tokenizers', 'ftfy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["method", "global-directions"], ["edit", "seed:1", BEARD, "--method", "global-direction"]),
        (["source", "no file"], ["edit", "gone.png", BEARD]),
        (["source", "whole number"], ["edit", "seed:x", BEARD]),
        (["source.seed"], ["edit", f"seed:{2**40}", BEARD]),
        (["truncation"], ["edit", "seed:1", BEARD, "--truncation", "3"]),
        (["prompts.text", "empty"], ["edit", "seed:1", ""]),
        (["prompts.text", "500 words"], ["edit", "seed:1", "word " * 500]),
        (["prompts.options.neutral"], ["edit", "seed:1", BEARD, "--neutral", f" {BEARD.upper()} "]),
        (["neutral", "2 values"], ["edit", "seed:1", BEARD, "--neutral", "a", "--neutral", "b"]),
        (["beta", "no channel", "at most"], ["edit", "seed:1", BEARD, "--beta", "0.999"]),
        (["prompts.strength"], ["edit", "seed:1", BEARD, "--strength", "90"]),
        (["prompts.strength"], ["edit", "seed:1", BEARD, "--strength", "nan"]),
        (["set", "NAME=VALUE"], ["edit", "seed:1", BEARD, "--set", "alpha"]),
        (["parameters.alfa", "alpha"], ["edit", "seed:1", BEARD, "--set", "alfa=3"]),
        (["parameters.alpha"], ["edit", "seed:1", BEARD, "--set", "alpha=big"]),
        (["refine: got 3", "a picture file"], ["edit", "seed:1", BEARD, "--refine", "3"]),
        (["provider", "available here"], ["edit", "seed:1", BEARD, "--provider", "cuda"]),
        (["provider", "cpu"], ["edit", "seed:1", BEARD, "--provider", "gpu"]),
        (["threads"], ["edit", "seed:1", BEARD, "--threads", "0"]),
        (["output", ".png"], ["edit", "seed:1", BEARD, "-o", "a.gif"]),
        (["output", "missing folder"], ["edit", "seed:1", BEARD, "-o", "no/a.png"]),
        (["sheet", ".png"], ["edit", "seed:1", BEARD, "--sheet", "sheet"]),
        (["bundle", "no folder"], ["edit", "seed:1", BEARD, "--bundle", "nowhere"]),
        (["count"], ["sample", "--count", "0"]),
        (["seed"], ["sample", "--seed", "-1"]),
        (["edits"], ["demo", "--edits", "gone.json"]),
        (["recipe"], ["replay", "gone.json"]),
        (["No such option"], ["edit", "seed:1", BEARD, "--colour"]),
        (["edit"], ["edti"]),
        (["TEXT"], ["edit", "seed:1"]),
    ],
)
def test_bad_values(limner: Run, tmp_path: Path, words: list[str], arguments: list[str]) -> None:
    expect_refused(limner, tmp_path, words, *arguments)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be this large and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("verb", [["edit", "x.png", BEARD], ["invert", "x.png"]])
@pytest.mark.parametrize(
    ("words", "content"),
    [
        (["empty"], b""),
        (["does not open"], b"not a picture at all"),
        (["megapixels", "at most 50"], png_header(20_000, 10_000)),
        (["does not decode"], png_header(64, 64)),
        (["4 x 4"], png_header(4, 4)),
    ],
)
def test_bad_pictures(limner: Run, tmp_path: Path, verb: list[str], words: list[str], content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    expect_refused(limner, tmp_path, ["source", *words], *verb)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16", "CMYK"])
def test_any_mode_and_size_of_picture_is_handled(limner: Run, tmp_path: Path, mode: str) -> None:
    name = "x.jpg" if mode == "CMYK" else "x.png"
    Image.new(mode, (37, 23)).save(tmp_path / name)
    ran = limner("edit", name, BEARD, "--beta", "0.01", "-o", "y.png")
    assert ran.code == 0, ran.err


def test_the_source_is_never_overwritten(limner: Run, portrait: Path, tmp_path: Path) -> None:
    for option in ("-o", "--sheet"):
        words = ["the source itself"]
        expect_refused(limner, tmp_path, words, "edit", portrait, BEARD, option, "portrait.png")


def altered(toy_folder: Path, target: Path, change: Callable[[Path], None]) -> Path:
    shutil.copytree(toy_folder, target)
    change(target)
    return target


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def drop_graph(path: Path) -> None:
    data = json.loads(path.read_text())
    del data["graphs"]["affine"]
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("words", "change"),
    [
        (["affine.onnx", "altered"], lambda folder: flip_a_byte(folder / "affine.onnx")),
        (["affine.onnx", "no such file"], lambda folder: (folder / "affine.onnx").unlink()),
        (["bundle.json", "not JSON"], lambda folder: (folder / "bundle.json").write_text("{")),
        (["graph", "'affine'"], lambda folder: drop_graph(folder / "bundle.json")),
        (["bundle.json"], lambda folder: (folder / "bundle.json").unlink()),
    ],
)
def test_bad_bundles(
    limner: Run, toy_folder: Path, tmp_path: Path, words: list[str], change: Callable[[Path], None]
) -> None:
    folder = altered(toy_folder, tmp_path / "bundle", change)
    expect_refused(limner, tmp_path, words, "edit", "seed:1", BEARD, "--bundle", folder)


def test_a_recipe_with_an_unknown_key_or_another_bundle_is_refused(limner: Run, tmp_path: Path) -> None:
    good = {
        "method": "global-directions",
        "source": {"kind": "seed", "seed": 1},
        "prompts": [{"text": BEARD}],
    }
    path = tmp_path / "recipe.json"
    for change, words in (
        ({"stength": 1}, ["stength"]),
        ({"bundle": "0" * 64}, ["bundle"]),
        ({"seed": -1}, ["seed"]),
    ):
        path.write_text(json.dumps(good | change))
        expect_refused(limner, tmp_path, words, "replay", path, "-o", "a.png")


def test_a_verb_whose_packages_are_missing_says_what_to_install(
    limner: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("limner.export", "limner.training"))]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("torch", "onnx"):
        monkeypatch.setitem(sys.modules, name, None)
    expect_refused(limner, tmp_path, ["torch", "limner[export]"], "export", "onnx")


def test_an_unexpected_error_is_one_sentence_too(limner: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from limner.runtime import editor

    def broken(*_: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(editor.Editor, "sample", broken)
    ran = limner("sample")
    assert ran.code == 1
    assert ran.err.splitlines()[-1].startswith("error: unexpected RuntimeError: two lines;")
    monkeypatch.setenv("LIMNER_DEBUG", "1")
    with pytest.raises(RuntimeError):
        limner("sample")
