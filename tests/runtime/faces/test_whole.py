"""Photographs through the Editor and the command line: EXIF, transparency, grey, replay; bad input in one sentence."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.ffhq_twin import five_at, some_picture
from support.landmark_finders import FIVE, installed  # noqa: F401 - a fixture
from support.toy_diffusion import build_toy_diffusion_bundle

from limner.runtime import Editor, Face, InputError, PromptEdit, Recipe, Source, read_recipe, replay, write_edit
from limner.runtime.bundle.shipped import checkpoints_folder, shipped_bundle
from limner.runtime.edit import Edit
from limner.runtime.faces.alignment import align_face, face_quad, sampled_quad
from limner.runtime.faces.face import Framing
from limner.runtime.photograph import whole_picture

Run = Callable[..., Any]
WORDS = "a person with a beard"
POINTS = five_at((120, 85), 22, 15)
FACE = Face(POINTS.tolist(), threshold=0.02)


@pytest.fixture(autouse=True)
def in_an_empty_folder(toy_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIMNER_BUNDLE", str(toy_folder))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def editor(toy_folder: Path) -> Editor:
    return Editor(toy_folder)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photograph, 240 x 180, and where its face is, in face.json."""
    (tmp_path / "face.json").write_text(json.dumps(POINTS.tolist()))
    Image.fromarray(some_picture()).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def bearded(path: Path | None, face: Face | None = FACE) -> Recipe:
    source = Source("image", path=None if path is None else str(path), face=face)
    return Recipe("global-directions", source, (PromptEdit(WORDS, options={"beta": 0.01}),))


def far(points: np.ndarray = POINTS, shape: tuple[int, ...] = (180, 240)) -> np.ndarray:
    """The pixels outside the circle around the square of the face, [H,W]."""
    quad = face_quad(points.tolist())
    y, x = np.mgrid[: shape[0], : shape[1]]
    centre = quad.mean(axis=0)
    return np.hypot(x - centre[0], y - centre[1]) > np.hypot(*(quad[0] - centre)) + 1


# --- the editor -------------------------------------------------------------------------------------------


def test_a_face_is_edited_and_the_rest_keeps_its_bits(editor: Editor, photo: Path) -> None:
    edit = editor.edit(bearded(photo))
    picture = some_picture()
    assert np.array_equal(edit.source, align_face(picture, FACE.landmarks, 16).image_u8)
    whole = whole_picture(edit)
    assert whole.shape == picture.shape
    assert np.array_equal(whole[far()], picture[far()])
    assert (whole[~far()] != picture[~far()]).any()
    assert np.array_equal(whole_picture(edit.at(0.0)), picture)  # no strength, no change
    assert (whole_picture(edit.at(0.5)) != whole).any()


def test_an_array_takes_the_place_of_a_file(editor: Editor, photo: Path) -> None:
    picture = some_picture()
    one, other = editor.edit(bearded(photo)), editor.edit(bearded(None), given=picture)
    assert np.array_equal(one.image, other.image)
    assert np.array_equal(whole_picture(one), whole_picture(other, picture))
    with pytest.raises(InputError, match=r"source\.path"):
        whole_picture(other)
    with pytest.raises(InputError, match="with a face"):
        editor.edit(bearded(None), given=picture[:, :, 0])


def test_without_a_face_the_whole_is_the_edit(editor: Editor, photo: Path) -> None:
    edit = editor.edit(bearded(photo, None))
    assert whole_picture(edit) is edit.image


def test_the_same_picture_without_its_face_is_inverted_anew(editor: Editor, photo: Path) -> None:
    sources = [editor.edit(bearded(photo, face)).source for face in (None, FACE, replace(FACE, framing=Framing(1.5)))]
    assert len({source.tobytes() for source in sources}) == 3


def test_a_recipe_carries_its_face() -> None:
    recipe = bearded(Path("a.png"), replace(FACE, paste="difference", framing=Framing(1.3, 0.1)))
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.to_dict()["source"]["face"]["landmarks"] == POINTS.tolist()
    data = recipe.to_dict()
    data["source"]["face"]["landmarks"][0] = [1.0]
    with pytest.raises(InputError, match=r"landmarks\[0\]"):
        Recipe.from_dict(data)
    with pytest.raises(InputError, match="a face of a source of kind 'seed'"):
        Source("seed", seed=1, face=FACE)


def test_photograph_and_face_replay(editor: Editor, photo: Path) -> None:
    edit = editor.edit(bearded(photo))
    write_edit("whole.png", edit)
    write_edit("face.png", edit, image=edit.image)
    assert Image.open("whole.png").size == (240, 180)
    assert Image.open("face.png").size == (16, 16)
    assert read_recipe("whole.png").source.face == FACE
    for file in ("whole.png", "face.png"):
        assert replay(file, editor).same_pixels is True
    Image.fromarray(255 - some_picture()).save(photo)
    with pytest.raises(InputError, match="altered"):
        replay("whole.png", editor)
    with pytest.raises(InputError, match=r"source\.sha256"):
        whole_picture(edit)


# --- files of all kinds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_that_of_the_display(editor: Editor, photo: Path, orientation: int) -> None:
    """The stored pixels are turned, the landmarks are those of the upright picture, and upright comes out."""
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    undo |= {6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}
    upright = Image.open(photo)
    stored = upright.transpose(Image.Transpose[undo[orientation]]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save("turned.png", exif=exif)
    whole = whole_picture(editor.edit(bearded(Path("turned.png"))))
    assert np.array_equal(whole, whole_picture(editor.edit(bearded(photo))))


def test_transparency_stays_as_it_is(editor: Editor) -> None:
    picture = some_picture()
    alpha = np.random.RandomState(1).randint(0, 256, picture.shape[:2]).astype(np.uint8)
    Image.fromarray(np.dstack([picture, alpha])).save("clear.png")
    edit = editor.edit(bearded(Path("clear.png")))
    whole = whole_picture(edit)
    assert whole.shape == (180, 240, 4)
    assert np.array_equal(whole[:, :, 3], alpha)
    assert np.array_equal(whole[far()][:, :3], picture[far()])
    weight = alpha[:, :, None] / 255
    on_white = np.rint(picture * weight + 255 * (1 - weight)).astype(np.uint8)
    seen = align_face(on_white, FACE.landmarks, 16).image_u8  # the model sees it on white
    assert np.abs(edit.source.astype(int) - seen).max() <= 1
    write_edit("out.png", edit)
    assert Image.open("out.png").mode == "RGBA"
    assert replay("out.png", editor).same_pixels is True


def test_grey_becomes_colour(editor: Editor) -> None:
    grey = some_picture()[:, :, 0]
    Image.fromarray(grey).save("grey.png")
    whole = whole_picture(editor.edit(bearded(Path("grey.png"))))
    assert whole.shape == (180, 240, 3)
    assert np.array_equal(whole[far()], np.repeat(grey[far()][:, None], 3, axis=1))


def test_a_jpeg_and_a_face_over_the_border(editor: Editor) -> None:
    points = five_at((14, 20), 20, -10)
    Image.fromarray(some_picture()).save("photo.jpg", quality=95)
    whole = whole_picture(editor.edit(bearded(Path("photo.jpg"), Face(points.tolist(), threshold=0.0))))
    decoded = np.array(Image.open("photo.jpg"))
    assert np.array_equal(whole[far(points)], decoded[far(points)])
    assert (whole[~far(points)] != decoded[~far(points)]).any()


# --- diffusion, and the bundle that ships -----------------------------------------------------------------


@pytest.mark.parametrize("method", ["sega", "prompt-to-prompt"])
def test_methods_on_diffusion_take_the_same_door(method: str, photo: Path, tmp_path: Path) -> None:
    editor = Editor(build_toy_diffusion_bundle(tmp_path / "bundle", {method: {"steps": 6}}))
    text = PromptEdit("red", options={"warmup": 1}) if method == "sega" else PromptEdit("b cat")
    source = Source("image", path=str(photo), prompt="a cat", face=FACE)
    edit = editor.edit(Recipe(method, source, (text,)))
    picture = some_picture()
    assert np.array_equal(edit.source, align_face(picture, FACE.landmarks, 32).image_u8)
    whole = whole_picture(edit)
    assert np.array_equal(whole[far()], picture[far()])
    assert (whole[~far()] != picture[~far()]).any()
    given = editor.edit(replace(edit.recipe, source=Source("image", prompt="a cat", face=FACE)), given=picture)
    assert np.array_equal(given.image, edit.image)


@pytest.mark.parametrize("method", ["sega", "prompt-to-prompt"])
def test_two_faces_of_one_picture_share_no_inversion(method: str, photo: Path, tmp_path: Path) -> None:
    editor = Editor(build_toy_diffusion_bundle(tmp_path / "bundle", {method: {"steps": 4}}))
    text = PromptEdit("red", options={"warmup": 1}) if method == "sega" else PromptEdit("b cat")
    faces = (FACE, Face(five_at((80, 60), 22).tolist()))
    recipes = [Recipe(method, Source("image", path=str(photo), prompt="a cat", face=face), (text,)) for face in faces]
    for one, recipe in zip(editor.edit_batch(recipes), recipes, strict=True):
        alone = editor.edit(recipe)
        assert np.array_equal(one.source, alone.source)
        assert np.abs(one.image.astype(int) - alone.image).max() <= 2


def avatar_photo(angle: float, scale: float, centre: tuple[float, float]) -> tuple[np.ndarray, Face]:
    """A held-out avatar on a larger picture, turned and scaled, and its face."""
    avatar = Image.open(checkpoints_folder() / "avatars" / "pictures" / "test-0091.png").convert("RGB")
    turn = np.exp(1j * np.deg2rad(angle)) * scale
    step, start = 1 / turn, 64 + 64j - complex(*centre) / turn
    matrix = (step.real, -step.imag, start.real, step.imag, step.real, start.imag)
    size = (500, 400)
    picture = Image.fromarray(some_picture(*size))
    drawn = avatar.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    inside = Image.new("L", avatar.size, 255).transform(size, Image.Transform.AFFINE, matrix)
    picture.paste(drawn, (0, 0), inside)
    eyes_and_mouth = np.array([51.8 + 51j, 76.5 + 51j, 64 + 60.5j, 58.5 + 71.5j, 69.5 + 71.5j])  # of any avatar
    points = (eyes_and_mouth - 64 - 64j) * turn + complex(*centre) - (0.5 + 0.5j)
    landmarks = tuple((point.real, point.imag) for point in points)
    return np.array(picture), Face(landmarks, Framing(1.296, 0.111))


def test_the_shipped_bundle_edits_a_face_in_a_photograph() -> None:
    picture, face = avatar_photo(-12, 1.7, (190, 210))
    Image.fromarray(picture).save("photo.png")
    editor = Editor(shipped_bundle(), threads=1)
    source = Source("image", path="photo.png", face=face)
    edit: Edit = editor.edit(
        Recipe("global-directions", source, (PromptEdit(WORDS, strength=7.0, options={"beta": 0.22}),))
    )
    own = np.asarray(Image.open(checkpoints_folder() / "avatars" / "pictures" / "test-0091.png").convert("RGB"))
    assert np.abs(edit.source[4:-4, 4:-4].astype(int) - own[4:-4, 4:-4]).mean() < 4  # the avatar, upright again
    assert edit.scores["clip_after"] > edit.scores["clip_before"] + 0.1
    whole = whole_picture(edit)
    changed = (whole != picture).any(axis=2)
    chin = np.array(face.landmarks)[3:].mean(axis=0).round().astype(int)
    assert changed[chin[1] + 10, chin[0]]
    where = np.array(sampled_quad((500, 400), face.landmarks, 128, face.framing))
    y, x = np.mgrid[:400, :500]
    centre = where.mean(axis=0)
    assert not changed[np.hypot(x - centre[0], y - centre[1]) > np.hypot(*(where[0] - centre)) + 1].any()
    assert 0.01 < changed.mean() < 0.3


# --- the command line -------------------------------------------------------------------------------------


def test_align_writes_the_face(limner: Run, photo: Path) -> None:
    ran = limner("align", photo, "--landmarks", "face.json", "--out", "crop.png", "--size", "64", "--json")
    assert ran.code == 0, ran.err
    data = json.loads(ran.out)
    assert data["output"] == "crop.png" and data["size"] == 64
    assert np.allclose(data["quad"], face_quad(POINTS.tolist()), atol=1e-3)
    expected = align_face(some_picture(), FACE.landmarks, 64).image_u8
    assert np.array_equal(np.array(Image.open("crop.png")), expected)
    assert limner("align", photo, "--landmarks", "face.json").out == "photo-face.png\n"
    assert Image.open("photo-face.png").size == (16, 16)  # the bundle's


def test_edit_writes_photograph_face_and_sheet_and_replays(limner: Run, photo: Path) -> None:
    options = ("--landmarks", "face.json", "--paste", "difference:threshold=0.02", "--beta", "0.01")
    files = ("--out", "edited.png", "--crop", "c.png", "--sheet", "s.png")
    ran = limner("edit", photo, WORDS, *options, *files, "--json")
    assert ran.code == 0, ran.err
    data = json.loads(ran.out)
    assert data["crop"] == "c.png"
    assert data["recipe"]["source"]["face"]["paste"] == "difference"
    assert Image.open("edited.png").size == (240, 180)
    assert Image.open("c.png").size == (16, 16)
    assert Image.open("s.png").height > 2 * 192
    for file in ("edited.png", "c.png"):
        again = limner("replay", file, "--json")
        assert again.code == 0, again.err
        assert json.loads(again.out)["same_pixels"] is True
    assert limner("replay", "edited.png", "-o", "again.png").code == 0
    assert np.array_equal(np.array(Image.open("again.png")), np.array(Image.open("edited.png")))


@pytest.mark.usefixtures("installed")
def test_a_finder_takes_the_place_of_a_file(limner: Run, photo: Path) -> None:
    ran = limner("edit", photo, WORDS, "--beta", "0.01", "--landmark-finder", "two", "--face", "0", "--json")
    assert ran.code == 0, ran.err
    carried = json.loads(ran.out)["recipe"]["source"]["face"]["landmarks"]
    assert np.allclose(carried, FIVE, atol=1e-4)
    assert limner("replay", "photo-edited.png").code == 0  # with no finder
    ran = limner("edit", photo, WORDS, "--landmark-finder", "two")
    assert ran.code == 2 and "2 faces" in ran.err and "--face 0 to 1" in ran.err


GIVEN = ("--landmarks", "face.json")


@pytest.mark.parametrize(
    ("words", "arguments", "points"),
    [
        (["4 points"], GIVEN, POINTS[:4].tolist()),
        (["NaN"], GIVEN, [[float("nan"), 1.0], *POINTS[1:].tolist()]),
        (["outside the picture", "240 x 180"], GIVEN, (POINTS + 400).tolist()),
        (["both eyes"], GIVEN, [POINTS[0].tolist()] * 5),
        (["at least 16 pixels"], GIVEN, five_at((120, 85), 2).tolist()),
        (["at most 1 MB"], GIVEN, [[0.123456789, 0.123456789]] * 50_000),
        (["2 faces"], GIVEN, {"faces": [POINTS.tolist(), POINTS.tolist()]}),
        (["face", "0 to 1"], (*GIVEN, "--face", "2"), {"faces": [POINTS.tolist(), POINTS.tolist()]}),
        (["landmarks", "no file at"], ("--landmarks", "gone.json"), None),
        (["landmark-finder", "'dlib'"], ("--landmark-finder", "dlib"), None),
        (["either"], (*GIVEN, "--landmark-finder", "dlib"), None),
        (["face", "--landmarks FILE"], ("--face", "0"), None),
        (["paste", "--landmarks FILE"], ("--paste", "replace"), None),
        (["framing", "--landmarks FILE"], ("--framing", "scale=2"), None),
        (["crop", "--landmarks FILE"], ("--crop", "c.png"), None),
        (["paste", "'swap'", "replace or difference"], (*GIVEN, "--paste", "swap"), None),
        (["paste", "'treshold=1' at character 9", "did you mean"], (*GIVEN, "--paste", "replace:treshold=1"), None),
        (["paste.threshold", "0 to 1"], (*GIVEN, "--paste", "replace:threshold=2"), None),
        (["framing.scale"], (*GIVEN, "--framing", "scale=9"), None),
        (["crop", ".png"], (*GIVEN, "--crop", "c.gif"), None),
    ],
)
def test_refuses(
    limner: Run, photo: Path, tmp_path: Path, words: list[str], arguments: tuple[Any, ...], points: Any
) -> None:
    if points is not None:
        Path("face.json").write_text(json.dumps(points))
    before = sorted(tmp_path.rglob("*"))
    runs = [limner("edit", photo, WORDS, *arguments), limner("edit", photo, WORDS, *arguments, "--dry-run")]
    if not {"--paste", "--crop"} & set(arguments):
        runs.append(limner("align", photo, *arguments))
    for ran in runs:
        assert ran.code == 2, ran
        assert ran.out == ""
        errors = [line for line in ran.err.splitlines() if not line.startswith("bundle toy ")]
        assert len(errors) == 1 and errors[0].startswith("error: ")
        for word in words:
            assert word in errors[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_refuses_a_face_of_what_is_no_picture(limner: Run, photo: Path) -> None:
    for source in ("seed:7", "latents.npy"):
        ran = limner("edit", source, WORDS, *GIVEN)
        assert ran.code == 2 and "a picture file as the source" in ran.err
    ran = limner("align", photo)
    assert ran.code == 2 and "--landmark-finder NAME" in ran.err
