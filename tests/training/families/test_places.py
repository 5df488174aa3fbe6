"""Words that look where their thing is: regions of drawings, places of nouns, the divergence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limner.export.diffusion.layers import choose_layers
from limner.training.avatars.attributes import STYLES, sample_in_split
from limner.training.avatars.captions import BACKGROUND, CLOTHES_COLOR, EYEWEAR, FACIAL_HAIR, GARMENTS, SKIN
from limner.training.avatars.regions import NOUNS, regions
from limner.training.avatars.render import render
from limner.training.avatars.tokens import CaptionTokenizer
from limner.training.families.diffusion.places import (
    MapAttention,
    keep_maps,
    noun_ids,
    noun_places,
    places_loss,
)
from limner.training.models.diffusion import DenoiserConfig, build_denoiser

STYLE = STYLES["avataaars"]


def drawing(clothes: tuple[int, int, int], background: tuple[int, int, int]) -> torch.Tensor:
    """32 x 32: background, clothes in the lowest quarter between columns 8 and 24, and a hat of their colour."""
    image = torch.tensor(background, dtype=torch.uint8)[:, None, None].repeat(1, 32, 32)
    for rows in (slice(0, 4), slice(24, 32)):
        image[:, rows, 8:24] = torch.tensor(clothes, dtype=torch.uint8)[:, None, None]
    return image[None]


def options_of(**values: str) -> np.ndarray:
    row = [option.values.index(values.get(option.name, option.values[0])) for option in STYLE.options]
    return np.array([row])


def region(name: str) -> int:
    return list(NOUNS).index(name)


def test_regions_are_the_places_of_their_colours_and_a_hat_is_no_clothes() -> None:
    image = drawing((0xFF, 0x5C, 0x5C), (0xA5, 0xD6, 0xA7))
    found = regions(STYLE, image, options_of(clothes_color="ff5c5c", background="a5d6a7"), 8)
    clothes, background = torch.zeros(8, 8), torch.ones(8, 8)
    clothes[6:, 2:6] = 1
    background[6:, 2:6] = background[0, 2:6] = 0
    assert torch.equal(found[0, region("clothes")], clothes)
    assert torch.equal(found[0, region("background")], background)
    other = regions(STYLE, image, options_of(clothes_color="5199e4", background="a5d6a7"), 8)
    assert not other[:, region("clothes")].any()


def test_hair_is_its_colour_a_hat_or_a_bald_scalp_and_no_beard() -> None:
    hair, skin = (0x2C, 0x1B, 0x18), (0xFF, 0xDB, 0xB4)
    image = drawing((1, 1, 1), (0xA5, 0xD6, 0xA7))
    image[0, :, 4:24, 8:24] = torch.tensor(skin, dtype=torch.uint8)[:, None, None]
    for rows, columns in ((slice(4, 8), slice(8, 24)), (slice(16, 20), slice(11, 21))):  # hair, a beard of its colour
        image[0, :, rows, columns] = torch.tensor(hair, dtype=torch.uint8)[:, None, None]
    bald, short, hat = (
        next(value for value, attribute, _ in STYLE.option("hair").choices if attribute == kind)
        for kind in ("bald", "short", "hat")
    )
    common = {"hair_color": "2c1b18", "hat_color": "ff5c5c", "skin": "ffdbb4", "background": "a5d6a7"}
    found = [
        regions(STYLE, image, options_of(hair=kind, **common), 8)[0, region("hair")] for kind in (bald, short, hat)
    ]
    assert found[1][1, 2:6].all() and not found[1][4].any()  # hair, no beard
    assert found[0][2, 3:5].all() and not found[0][3:].any()  # the scalp
    assert not found[2][2:].any()


@pytest.mark.parametrize("name", ["avataaars", "personas", "micah"])
def test_every_style_has_regions(name: str) -> None:
    style = STYLES[name]
    avatars = [sample_in_split(style, "validation", index) for index in range(4)]
    image = torch.from_numpy(np.stack([render(style, avatar, 64) for avatar in avatars])).permute(0, 3, 1, 2)
    found = regions(style, image, np.array([avatar.options for avatar in avatars]), 16)
    assert found.shape == (4, len(NOUNS), 16, 16) and found.min() >= 0 and found.max() <= 1
    for part in ("background", "clothes"):
        assert (found[:, region(part)].sum((1, 2)) > 2).sum() >= 3, part


def test_every_noun_that_captions_use_is_known() -> None:
    tables = {
        "clothes": [[garment for garments in GARMENTS.values() for garment in garments],
                    [p for slot in CLOTHES_COLOR.values() for p in slot]],
        "background": [[p for slot in BACKGROUND.values() for p in slot]],
        "facial_hair": [[p for value in ("beard", "moustache") for p in FACIAL_HAIR[value]["with"]]],
        "eyewear": [[p for value in ("glasses", "sunglasses") for p in EYEWEAR[value]["with"]]],
        "skin": [[p for value in SKIN.values() for p in value["with"]]],
    }  # fmt: skip
    bare = ("all {c}", "dressed in {c}", "in {c}", "on {c}")
    for name, lists in tables.items():
        for phrase in (phrase for phrases in lists for phrase in phrases if phrase not in bare):
            assert phrase.split()[-1] in NOUNS[name], phrase


def test_nouns_are_found_with_all_of_their_tokens() -> None:
    tokenizer = CaptionTokenizer("checkpoints/avatars/clip")
    text = "a person in a red t-shirt on a blue background"
    ids = tokenizer.encode([text, "a person with a hat"], 77)
    found = noun_places(ids, noun_ids(tokenizer))
    before = tokenizer.encode(["a person in a red"]).shape[1] - 1  # start, and no end
    after = tokenizer.encode(["a person in a red t-shirt"]).shape[1] - 1
    assert found[0, region("clothes")].nonzero().flatten().tolist() == list(range(before, after))
    assert found[0, region("background")].nonzero().flatten().tolist() == [tokenizer.encode([text]).shape[1] - 2]
    assert found[1].any(-1).nonzero().flatten().tolist() == [region("hair")]
    facial = noun_places(tokenizer.encode(["a person with no facial hair"], 77), noun_ids(tokenizer))
    assert facial[0].any(-1).nonzero().flatten().tolist() == [region("facial_hair")]


def test_the_divergence_is_that_of_distributions() -> None:
    torch.manual_seed(0)
    maps = [torch.rand(2, 16, 77) for _ in range(2)]
    wanted = torch.rand(2, 2, 4, 4)
    wanted[1, 1] = 0  # a region that is not there
    named = torch.zeros(2, 2, 77, dtype=torch.bool)
    named[0, 0, 5] = named[0, 1, 7] = named[1, 1, 9] = True
    words = (maps[0] + maps[1]) / 2
    expected = [
        torch.distributions.kl_divergence(
            torch.distributions.Categorical(wanted[0, region].flatten()),
            torch.distributions.Categorical(words[0, :, at]),
        )
        for region, at in ((0, 5), (1, 7))
    ]
    torch.testing.assert_close(places_loss(maps, named, wanted), torch.stack(expected).mean())
    assert places_loss(maps, torch.zeros_like(named), wanted) == 0
    maps[0][0, :, 5] = maps[1][0, :, 5] = wanted[0, 0].flatten()
    assert places_loss(maps, named[:, :1], wanted[:, :1]).abs() < 1e-6


@pytest.mark.parametrize(("size", "widths"), [(16, (32, 64)), (32, (32, 32, 64))])
def test_maps_are_those_that_a_local_edit_averages_and_the_picture_is_the_same(
    size: int, widths: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    network = build_denoiser(DenoiserConfig(widths, head_width=16, groups=16), size, 4, 24).eval()
    latents, states, steps = torch.randn(2, 4, size, size), torch.randn(2, 77, 24), torch.tensor([5, 600])
    with torch.no_grad():
        before = network(latents, steps, states).sample
        maps = keep_maps(network)
        after = network(latents, steps, states).sample
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    layers = {name for name, kept in network.attn_processors.items() if isinstance(kept, MapAttention)}
    assert layers == {f"{name}.processor" for name in choose_layers(network).blends}
    for kept in maps:
        torch.testing.assert_close(kept.take().sum(-1), torch.ones(2, 256))
        assert kept.map is None


def test_a_word_learns_to_look_at_a_region_that_latents_show() -> None:
    torch.manual_seed(0)
    network = build_denoiser(DenoiserConfig((32, 64), head_width=16, groups=16), 16, 4, 24)
    maps = keep_maps(network)
    wanted = torch.zeros(2, 1, 16, 16)
    wanted[0, :, 10:] = wanted[1, :, :, :5] = 1
    latents, states = torch.randn(2, 4, 16, 16) * 0.1 + wanted, torch.randn(2, 77, 24)
    named = torch.zeros(2, 1, 77, dtype=torch.bool)
    named[:, :, 4] = True
    optimizer, found = torch.optim.Adam(network.parameters(), 2e-3), []
    for _ in range(40):
        network(latents, torch.tensor([1, 1]), states)
        loss = places_loss([kept.take() for kept in maps], named, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.1 * found[0]
