"""Latent mappers on a toy bundle: against float64, composed, replayed, by the command line, and bad input."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support.engines import stylegan2
from support.toy_bundle import NUM_WS, SIZE, STYLES, W_DIM, ToyWeights, build_toy_bundle, toy_fixture  # noqa: F401

from limner.runtime.bundle.loading import Bundle, load_bundle, write_manifest
from limner.runtime.bundle.mappers import MapperMeta
from limner.runtime.bundle.parts import GraphMeta, TensorMeta
from limner.runtime.editor import Editor
from limner.runtime.errors import BundleError, InputError
from limner.runtime.methods.registry import find_method, loaded
from limner.runtime.provenance import read_recipe, replay, write_edit
from limner.runtime.recipe import PromptEdit, Recipe, Source
from limner.runtime.schema import to_dict

Matrices = dict[str, NDArray[np.float32]]
GENERATOR = "a" * 64
METAS = {
    "beard": MapperMeta("a person with a beard", generator=GENERATOR),
    "glasses": MapperMeta("a person with glasses", strength=1.5),
    "hat": MapperMeta("a person with a hat", "style_channels"),
}
TOLERANCE = 1e-5  # fp32 against float64 over sums of 48 and 35 terms, through tanh


def toy_step(matrix: NDArray[np.float32], x: NDArray[Any]) -> NDArray[np.float64]:
    """tanh(x M) over all of x at once: a mapper that no row can be taken out of."""
    flat = x.reshape(len(x), -1).astype(np.float64) @ matrix.astype(np.float64)
    return np.asarray(np.tanh(flat).reshape(x.shape))


def write_mapper(root: Path, name: str, space: str, matrix: NDArray[np.float32]) -> GraphMeta:
    """The same as a graph."""
    shape: list[Any] = ["batch", NUM_WS, W_DIM] if space == "w_plus" else ["batch", STYLES]
    sizes = numpy_helper.from_array(np.array([-1, *shape[1:]], np.int64), "shape")
    flat = numpy_helper.from_array(np.array([-1, len(matrix)], np.int64), "flat")
    nodes = [
        helper.make_node("Reshape", [space, "flat"], ["x"]),
        helper.make_node("MatMul", ["x", "matrix"], ["y"]),
        helper.make_node("Tanh", ["y"], ["z"]),
        helper.make_node("Reshape", ["z", "shape"], ["step"]),
    ]
    values = [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key in (space, "step")]
    constants = [sizes, flat, numpy_helper.from_array(matrix, "matrix")]
    graph = helper.make_graph(nodes, name, values[:1], values[1:], constants)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), root / f"{name}.onnx"
    )
    tensors = [TensorMeta(key, "float32", tuple(shape)) for key in (space, "step")]
    return GraphMeta(f"{name}.onnx", tuple(tensors[:1]), tuple(tensors[1:]))


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, ToyWeights, Matrices]:
    """The toy bundle with three mappers, and their matrices."""
    bundle, weights = build_toy_bundle(tmp_path_factory.mktemp("mapped") / "bundle")
    random = np.random.RandomState(5)
    matrices, graphs = {}, dict(bundle.manifest.graphs)
    for name, meta in METAS.items():
        width = NUM_WS * W_DIM if meta.space == "w_plus" else STYLES
        matrices[name] = (random.randn(width, width) * width**-0.5).astype(np.float32)
        graphs[f"mapper_{name}"] = write_mapper(bundle.root, f"mapper_{name}", meta.space, matrices[name])
    assert bundle.manifest.generator is not None
    generator = replace(bundle.manifest.generator, weights=GENERATOR)
    manifest = replace(bundle.manifest, graphs=graphs, mappers=METAS, generator=generator)
    return write_manifest(bundle.root, manifest), weights, matrices


@pytest.fixture(scope="module")
def editor(mapped: tuple[Bundle, ToyWeights, Matrices]) -> Editor:
    return Editor(mapped[0], threads=1)


def recipe(*prompts: PromptEdit, **changes: Any) -> Recipe:
    return Recipe("latent-mapper", Source.from_seed(5), prompts, **changes)


def reference(mapped: tuple[Bundle, ToyWeights, Matrices], strengths: dict[str, float]) -> NDArray[np.float64]:
    """The picture [3,H,W] in float64: steps at the source, added in W+, then in S."""
    _, weights, matrices = mapped
    z = np.random.RandomState(5).randn(1, weights.mapping.shape[0])
    w = np.tile((weights.latent_avg + 0.7 * (z @ weights.mapping - weights.latent_avg))[:, None], (1, NUM_WS, 1))
    affine = weights.affine.astype(np.float64)
    moved = w + sum(k * toy_step(matrices[name], w) for name, k in strengths.items() if name != "hat")
    s = moved.reshape(1, -1) @ affine
    if "hat" in strengths:
        s = s + strengths["hat"] * toy_step(matrices["hat"], w.reshape(1, -1) @ affine)
    return np.asarray(np.tanh(s @ weights.synthesis.astype(np.float64)).reshape(3, SIZE, SIZE))


@pytest.mark.parametrize(
    "strengths",
    [{"beard": 1.0}, {"beard": 0.4, "glasses": 2.0}, {"hat": 1.2}, {"hat": 0.5, "beard": 1.0, "glasses": 0.25}],
)
def test_against_the_float64_reference(
    mapped: tuple[Bundle, ToyWeights, Matrices], editor: Editor, strengths: dict[str, float]
) -> None:
    outcome = []
    method = find_method("latent-mapper")
    given = recipe(*(PromptEdit(name, strength=k) for name, k in strengths.items()))
    w_plus = editor.sample(5).w_plus
    from limner.runtime.timing import Timer

    outcome = loaded(method.run)(stylegan2(editor).models, w_plus, [given], Timer(), None)
    image = outcome[0].render(outcome[0].recipe)[0]
    assert np.abs(image - reference(mapped, strengths)).max() < TOLERANCE


def test_an_edit_is_complete_and_its_strength_slides(editor: Editor) -> None:
    edit = editor.edit(recipe(PromptEdit("beard"), PromptEdit("a Person  with glasses")))
    assert [(one.text, one.strength) for one in edit.recipe.prompts] == [("beard", 1.0), ("glasses", 1.5)]
    assert to_dict(edit.recipe.parameters) == {}  # the mapper's strength decides
    assert {"clip_before", "clip_after", "identity", "pixel", "step_beard", "step_glasses"} == set(edit.scores)
    assert {"load", "source", "mapper", "synthesis", "scores", "total"} == set(edit.timing)
    assert np.array_equal(edit.at(0.0).image, edit.reconstruction)
    half = editor.edit(recipe(PromptEdit("beard", strength=0.5), PromptEdit("glasses", strength=0.75)))
    assert np.array_equal(edit.at(0.5).image, half.image)
    with pytest.raises(InputError, match=r"prompts\.strength"):
        edit.at(1.5)


def test_clip_scores_compare_with_the_mappers_texts(editor: Editor) -> None:
    edit = editor.edit(recipe(PromptEdit("beard")))
    features = stylegan2(editor).models.clip_image(stylegan2(editor).models.synthesis(editor.sample(5).w_plus))[0]
    expected = float(features @ stylegan2(editor).models.text_features("a person with a beard"))
    assert edit.scores["clip_before"] == pytest.approx(expected, abs=1e-5)


def test_the_order_of_mappers_does_not_matter(editor: Editor) -> None:
    names = ("beard", "glasses", "hat")
    first, second = (editor.edit(recipe(*(PromptEdit(n) for n in order))).image for order in (names, names[::-1]))
    assert np.abs(first.astype(int) - second).max() <= 1


def test_strengths_come_from_prompt_then_parameters_then_mapper(editor: Editor) -> None:
    prompts = (PromptEdit("beard", strength=0.3), PromptEdit("glasses"))
    found = [editor.edit(recipe(*prompts, parameters=given)).recipe.prompts for given in ({}, {"strength": 0.8})]
    assert [[p.strength for p in row] for row in found] == [[0.3, 1.5], [0.3, 0.8]]


def test_a_batch_of_recipes_gives_each_its_own(editor: Editor) -> None:
    recipes = [recipe(PromptEdit("beard")), recipe(PromptEdit("hat")), recipe(PromptEdit("beard", strength=0.0))]
    together = editor.edit_batch(recipes)
    for given, edit in zip(recipes, together, strict=True):
        assert np.abs(edit.image.astype(int) - editor.edit(given).image).max() <= 1
    assert np.array_equal(together[2].image, together[2].reconstruction)


def test_an_edit_replays_to_the_same_pixels(editor: Editor, tmp_path: Path) -> None:
    path = write_edit(tmp_path / "edit.png", editor.edit(recipe(PromptEdit("hat"), PromptEdit("beard", strength=0.7))))
    assert [p.text for p in read_recipe(path).prompts] == ["hat", "beard"]
    assert replay(path, editor).same_pixels is True


@pytest.mark.parametrize(
    ("prompts", "field", "words"),
    [
        ((PromptEdit("bread"),), "mapper", "beard, glasses, hat; did you mean 'beard'"),
        ((PromptEdit("beard"), PromptEdit("a person with a beard")), "mapper", "each mapper once"),
    ],
)
def test_mappers_that_do_not_go(editor: Editor, prompts: tuple[PromptEdit, ...], field: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        editor.edit(recipe(*prompts))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"strength": 2.5}, "prompts.strength"), ({"strength": -0.1}, "prompts.strength"),
     ({"options": {"beta": 0.1}}, "prompts.options.beta"),
     ({"options": {"neutral": "a person"}}, "prompts.options.neutral")],
)  # fmt: skip
def test_recipes_out_of_range_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        recipe(PromptEdit("beard", **changes))
    assert caught.value.field == field
    with pytest.raises(InputError, match=r"parameters\.strength"):
        recipe(PromptEdit("beard"), parameters={"strength": 3.0})


def test_a_bundle_without_mappers_says_so(toy: tuple[Bundle, ToyWeights]) -> None:
    with pytest.raises(BundleError, match="no latent mapper in the bundle 'toy'"):
        Editor(toy[0]).edit(recipe(PromptEdit("beard")))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mappers": {"beard": MapperMeta("x", generator="b" * 64)}}, "a mapper for the generator bbbbbbbbbbbb"),
        ({"mappers": {"moustache": MapperMeta("x")}}, "no graph 'mapper_moustache'"),
        ({"mappers": {"hat": MapperMeta("x")}}, r"graphs\.mapper_hat\.inputs: got style_channels"),
        ({"mappers": {"beard": MapperMeta("x", strength=0.0)}}, r"mappers\.beard\.strength"),
        ({"mappers": {"Beard!": MapperMeta("x")}}, "lower-case"),
    ],
)
def test_manifests_that_do_not_fit_are_refused(
    mapped: tuple[Bundle, ToyWeights, Matrices], change: dict[str, Any], words: str
) -> None:
    from limner.runtime.bundle.manifest import check_manifest

    check_manifest(mapped[0].manifest)
    with pytest.raises(BundleError, match=words):
        check_manifest(replace(mapped[0].manifest, **change))


def test_a_mapper_of_other_rows_is_refused_when_the_bundle_loads(
    mapped: tuple[Bundle, ToyWeights, Matrices], tmp_path: Path
) -> None:
    import shutil

    root = Path(shutil.copytree(mapped[0].root, tmp_path / "bundle"))
    manifest = json.loads((root / "bundle.json").read_text())
    manifest["graphs"]["mapper_beard"]["inputs"][0]["shape"][1] = NUM_WS + 2
    (root / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=rf"\[batch, {NUM_WS}, {W_DIM}\]"):
        load_bundle(root)


def test_command_line(
    mapped: tuple[Bundle, ToyWeights, Matrices], tmp_path: Path, portrait: Path, limner: Callable[..., Any]
) -> None:
    bundle, out = ("--bundle", mapped[0].root), tmp_path / "out.png"
    words = ("edit", portrait, "--method", "latent-mapper", "--mapper", "beard", "--mapper", "hat", "--strength", 1.5)
    ran = limner(*words, "-o", out, "--sheet", tmp_path / "sheet.png", "--json", *bundle)
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)["recipe"]
    assert [(p["text"], p["strength"]) for p in found["prompts"]] == [("beard", 1.5), ("hat", 1.5)]
    assert limner("replay", out, *bundle).code == 0
    ran = limner("edit", "seed:1", "--mapper", "beard", "--dry-run", *bundle)
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["graphs"] == ["synthesis_w", "mapper_beard"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--mapper", "bread"), "error: mapper: got 'bread'; allowed: beard, glasses, hat; did you mean 'beard'"),
        (("--mapper", "bread", "--dry-run"), "error: mapper: got 'bread'"),
        (("--mapper", "beard", "--strength", "2.1"), "error: prompts.strength: got 2.1"),
        (("--mapper", "beard", "--method", "global-directions"), "error: mapper: got 'beard' with the method"),
        (
            ("--mapper", "beard", "--beta", "0.1"),
            "error: beta: got --beta with the method 'latent-mapper'; allowed: --beta with global-directions",
        ),
        ((), "error: TEXT: got nothing"),
    ],
)
def test_bad_command_lines_leave_with_2_and_no_file(
    mapped: tuple[Bundle, ToyWeights, Matrices], tmp_path: Path, limner: Callable[..., Any], words: tuple[str, ...],
    message: str,
) -> None:  # fmt: skip
    ran = limner("edit", "seed:1", *words, "-o", tmp_path / "out.png", "--bundle", mapped[0].root)
    assert ran.code == 2
    assert ran.err.splitlines()[-1].startswith(message)
    assert list(tmp_path.iterdir()) == []
