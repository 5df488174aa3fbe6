"""Attention control against float64 loops, and the choice of layers by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from support.tiny_diffusion import tiny_unet

from limner.export.diffusion.control import CONTROL_INPUTS, Control, ControlAttention, ControlUNet, attention_map
from limner.export.diffusion.layers import choose_layers, layer_shrink
from limner.export.diffusion.rows import add_rows, split_heads
from limner.export.diffusion.specs import identity_control, random_control
from limner.export.diffusion.surgery import Surgeon, operate
from limner.runtime.errors import InputError

ROWS, PLACES, WIDTH, HEADS = 4, 6, 8, 2


def controls(seed: int = 0) -> dict[str, torch.Tensor]:
    values = random_control(ROWS, torch.Generator().manual_seed(seed), words=3)
    return dict(zip(CONTROL_INPUTS, values, strict=True))


def layer(context: int | None, **options: Any) -> Attention:
    torch.manual_seed(3)
    return Attention(WIDTH, context, heads=HEADS, dim_head=WIDTH // HEADS, **options).eval().requires_grad_(False)


def numpy_attention(
    attn: Attention, x: torch.Tensor, context: torch.Tensor, control: dict[str, torch.Tensor], is_self: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Output [B,N,C] and blend maps [B,K,N] in float64, one row and one head at a time, from the formulas."""
    weight = {n: getattr(attn, n).weight.double().numpy() for n in ("to_q", "to_k", "to_v")}
    out_w, out_b = attn.to_out[0].weight.double().numpy(), attn.to_out[0].bias.double().numpy()
    xs, cs = x.double().numpy(), context.double().numpy()
    c = {name: value.double().numpy() for name, value in control.items()}
    width = WIDTH // HEADS

    def plain(row: int, head: int) -> np.ndarray:
        part = slice(head * width, (head + 1) * width)
        q, k = xs[row] @ weight["to_q"].T[:, part], cs[row] @ weight["to_k"].T[:, part]
        scores = np.exp(q @ k.T / np.sqrt(width))
        return scores / scores.sum(1, keepdims=True)

    outputs, maps = [], []
    for row in range(len(xs)):
        source, heads, total = int(c["source_index"][row]), [], 0.0
        for head in range(HEADS):
            if is_self:
                probabilities = plain(source if c["self_replace"][row] else row, head)
            else:
                moved = plain(source, head) @ c["token_transfer"][row]
                probabilities = moved + plain(row, head) * c["token_keep"][row]
                total = total + probabilities @ c["blend_words"][row].T / HEADS
            value = cs[row] @ weight["to_v"].T[:, head * width : (head + 1) * width]
            heads.append(probabilities @ value)
        outputs.append(np.concatenate(heads, 1) @ out_w.T + out_b)
        maps.append(np.transpose(total))
    return np.stack(outputs), np.stack(maps)


@pytest.mark.parametrize("is_self", [True, False])
def test_processor_and_surgery_against_float64_loops(is_self: bool) -> None:
    """rtol 1e-5: fp32 sums of 77 products."""
    attn, control = layer(None if is_self else 5), controls()
    x, context = torch.randn(ROWS, PLACES, WIDTH), torch.randn(ROWS, 77, 5)
    given = None if is_self else context
    wanted, maps = numpy_attention(attn, x, x if is_self else context, control, is_self)
    processor = ControlAttention(edited=True, blends=not is_self)
    processor.control = Control.of(context, **control)
    np.testing.assert_allclose(processor(attn, x, given).numpy(), wanted, rtol=1e-5, atol=2e-6)
    found: list[torch.Tensor] = []
    surgeon = Surgeon(control, True, None if is_self else found)
    np.testing.assert_allclose(surgeon(attn, x, given).numpy(), wanted, rtol=1e-5, atol=2e-6)
    if not is_self:
        assert processor.map is not None
        np.testing.assert_allclose(processor.map.transpose(1, 2).numpy(), maps, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[0].numpy(), maps, rtol=1e-5, atol=1e-6)


def test_a_layer_that_is_not_edited_ignores_the_control() -> None:
    attn, x, context = layer(5), torch.randn(ROWS, PLACES, WIDTH), torch.randn(ROWS, 77, 5)
    processor = ControlAttention(edited=False)
    processor.control = Control.of(context, **controls())
    torch.testing.assert_close(processor(attn, x, context), attn(x, context), rtol=1e-5, atol=1e-6)


def test_maps_in_fp16_are_computed_in_fp32_where_the_model_asks() -> None:
    """As in Stable Diffusion 2.x, whose products of queries and keys overflow in fp16."""
    x = torch.full((1, PLACES, WIDTH), 200.0).half()
    outputs = {}
    for upcast in (False, True):
        attn = layer(None, upcast_attention=upcast).half()
        attn.to_q.weight.fill_(1.0)
        attn.to_k.weight.fill_(1.0)
        outputs[upcast] = attention_map(attn.to_q(x), attn.to_k(x), attn)
    assert not torch.isfinite(outputs[False]).all()
    assert torch.isfinite(outputs[True]).all()
    assert outputs[True].dtype == torch.float16


def test_rows_are_added() -> None:
    data, rows = torch.arange(6.0).view(3, 2), torch.tensor([[2], [0]])
    values = torch.tensor([[10.0, 20.0], [30.0, 40.0]])
    assert add_rows(data, rows, values).tolist() == [[30, 41], [2, 3], [14, 25]]
    empty = torch.zeros(0, 1, dtype=torch.int64)
    assert torch.equal(add_rows(data, empty, torch.zeros(0, 2)), data)


def test_heads_are_split() -> None:
    x = torch.randn(2, 5, 12)
    assert torch.equal(split_heads(x, 3, 4)[1, 2], x[1, :, 8:])
    assert split_heads(torch.zeros(0, 5, 12), 3, 4).shape == (0, 3, 5, 4)


@torch.no_grad()
def test_control_unet_against_diffusers_and_surgery() -> None:
    unet = tiny_unet("sd1")
    layers = choose_layers(unet)
    net = ControlUNet(unet, layers)
    sample, step, states = torch.randn(ROWS, 4, 8, 12), torch.full((ROWS,), 7.0), torch.randn(ROWS, 77, 16)
    plain = identity_control(ROWS, torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(sample, step, states, *plain)[0], unet(sample, step, states).sample,
                               rtol=1e-4, atol=1e-5)  # fmt: skip
    found = net(sample, step, states, *controls().values())
    wanted = operate(unet, layers, sample, step, states, controls())
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0], net(sample, step, states, *plain)[0], atol=1e-3)


def sized(**config: Any) -> UNet2DConditionModel:
    """A UNet without memory for its weights, for its names alone."""
    with torch.device("meta"):
        return UNet2DConditionModel(**config)


def test_layers_of_stable_diffusion_are_those_of_prompt_to_prompt() -> None:
    """Maps: its down_cross[2:4] + up_cross[:3], five of 16 x 16; self-attention up to 16 x 16 tokens."""
    layers = choose_layers(sized(sample_size=64, cross_attention_dim=768, attention_head_dim=8))
    maps = [name.rsplit(".transformer", 1)[0] for name in layers.blends]
    assert maps == ["down_blocks.2.attentions.0", "down_blocks.2.attentions.1", "up_blocks.1.attentions.0",
                    "up_blocks.1.attentions.1", "up_blocks.1.attentions.2"]  # fmt: skip
    assert layers.shrink == 4
    cross = [name for name in layers.edited if name.endswith("attn2")]
    own = [name for name in layers.edited if name.endswith("attn1")]
    assert len(cross) == 16
    assert {name.split(".attentions")[0] for name in own} == {"down_blocks.2", "mid_block", "up_blocks.1"}


def test_layers_of_sdxl() -> None:
    """Attention at 64 and 32 tokens a side: the maps are those of 32."""
    unet = sized(
        sample_size=128, block_out_channels=(32, 64, 64), cross_attention_dim=64, attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    layers = choose_layers(unet)
    assert layers.shrink == 4
    assert {name.split(".attentions")[0] for name in layers.blends} == {"down_blocks.2", "up_blocks.0"}
    assert not [name for name in layers.edited if name.endswith("attn1")]


def test_layers_by_pattern() -> None:
    unet = tiny_unet("sd1")
    layers = choose_layers(unet, ["up_blocks.*.attn2"], ["up_blocks.1.attentions.1.*"])
    assert all(name.startswith("up_blocks") and name.endswith("attn2") for name in layers.edited)
    assert layers.blends == ("up_blocks.1.attentions.1.transformer_blocks.0.attn2",)
    assert layer_shrink(unet, layers.blends[0]) == 1


@pytest.mark.parametrize(
    ("edited", "blends", "word"),
    [
        (["up_blocks.9.*"], [], "edited_layers"),
        (["*.attn1"], [], "cross-attention"),
        ([], ["*.attn1"], "blend_layers"),
        ([], ["mid_block.*.attn2", "up_blocks.1.*.attn2"], "one size"),
    ],
)
def test_patterns_that_do_not_fit_are_refused(edited: list[str], blends: list[str], word: str) -> None:
    with pytest.raises(InputError, match=word):
        choose_layers(tiny_unet("sd1"), edited, blends)
