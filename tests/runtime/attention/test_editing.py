"""Every mode against surgery on materialised attention maps: 50 DDIM steps in fp32, latents within 1e-4.

Token places and alignments are written out by hand here; nothing of the runtime makes them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from support.attention_control import control
from support.attention_surgery import Blend, Controller, surgery, time_words
from support.attention_twin import Twin, text_table, tiny_unet, token_states

from limner.runtime.attention.editing import Edited, Guidance, edit_latents
from limner.runtime.attention.plan import plan_edits
from limner.runtime.attention.words import read_prompt
from limner.runtime.bundle.manifest import DiffusionMeta
from limner.runtime.diffusion.networks import DiffusionNetworks
from limner.runtime.diffusion.samplers.by_name import make_sampler
from limner.runtime.diffusion.samplers.schedule import SchedulerConfig
from limner.runtime.errors import InputError
from limner.runtime.text.tokenizer import Tokenizer

STEPS, SCALE, TOLERANCE = 50, 7.5, 1e-4
SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
#          0     1 2      3    4   5    6   7 8    9   10
SOURCE = "a person with red hair and a blue hat"
META = DiffusionMeta(0.18215, "epsilon", 4, 8)


class Bench:
    """The runtime and the reference on the same weights and noise."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.unet = tiny_unet()
        self.twin = Twin(self.unet, text_table(1097))
        self.networks = DiffusionNetworks(self.twin, META, tokenizer, SchedulerConfig.from_dict(SCHEDULE))
        self._plain: dict[str, torch.Tensor] = {}
        self.start = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(3))

    def states(self, text: str) -> torch.Tensor:
        ids = [self.tokenizer.start, *(self.tokenizer.tokens(text) if text else []), self.tokenizer.eos]
        padded = torch.tensor([ids + [self.tokenizer.pad] * (77 - len(ids))])
        return token_states(self.twin.table, padded)[0]

    def runtime(
        self,
        targets: list[tuple[str, Any]],
        guidance: Guidance | None = None,
        sampler: str = "ddim",
        steps: int = STEPS,
        **options: Any,
    ) -> Edited:
        prompts = [(read_prompt(self.tokenizer, text), settings) for text, settings in targets]
        plan = plan_edits(read_prompt(self.tokenizer, SOURCE), prompts, steps)
        guidance = guidance or Guidance(SCALE, self.states("").numpy())
        made = make_sampler(self.networks.scheduler, sampler, steps, 0.0)
        self.twin.calls.clear()
        return edit_latents(self.networks, made, plan, self.start.numpy(), guidance, **options)

    def plain(self, text: str) -> torch.Tensor:
        """Without any control."""
        if text not in self._plain:
            self._plain[text] = self.reference([text], None)
        return self._plain[text]

    def reference(self, texts: list[str], controller: Controller | None, **options: Any) -> torch.Tensor:
        states = torch.stack([self.states(text) for text in (SOURCE, *texts)])
        uncond = options.pop("uncond", self.states(""))
        scheduler = DDIMScheduler(**SCHEDULE)
        return surgery(self.unet, scheduler, controller, self.start[None], uncond, states, STEPS, SCALE, **options)


@pytest.fixture(scope="module")
def bench(tokenizer: Tokenizer) -> Bench:
    return Bench(tokenizer)


def check(found: Edited, wanted: torch.Tensor, plain: torch.Tensor | None = None) -> None:
    difference = np.abs(found.latents - wanted.numpy()).max()
    assert difference <= TOLERANCE, f"{difference:.2e}"
    if plain is not None:  # the control must have done something, and not to the source
        assert (wanted[1:] - plain[1:]).abs().amax((1, 2, 3)).min() > 0.05
        assert torch.allclose(wanted[0], plain[0], atol=TOLERANCE)


def one_hot(*rows: list[int]) -> torch.Tensor:
    words = torch.zeros(len(rows), 77)
    for row, places in zip(words, rows, strict=True):
        row[places] = 1
    return words


def alpha(window: tuple[float, float] = (0.0, 0.8), edits: int = 1) -> torch.Tensor:
    return time_words(STEPS, [{"default": window}] * edits)


def hat_refinement() -> tuple[torch.Tensor, torch.Tensor]:
    """ "a smiling person with red hair, a beard and a blue hat": tokens 2, 7, 8 and 9 are new."""
    taken = [0, 1, -1, 2, 3, 4, 5, -1, -1, -1, 6, 7, 8, 9, 10]
    indices = torch.tensor([*taken, *range(15, 77)])[None]
    return indices, (indices != -1).float()


REFINED = "a smiling person with red hair, a beard and a blue hat"
SWAPPED = "a person with blue hair and a red hat"


def test_word_swap(bench: Bench) -> None:
    controller = Controller(STEPS, alpha(), (0, 20), mapper=torch.eye(77)[None])
    wanted = bench.reference([SWAPPED], controller)
    check(bench.runtime([(SWAPPED, control())]), wanted, bench.plain(SWAPPED))


def test_word_swap_over_another_number_of_tokens(bench: Bench) -> None:
    """person -> lion (two tokens): the later words keep their own words' attention, unlike upstream."""
    text = SOURCE.replace("person", "lion")
    mapper = torch.zeros(77, 77)
    mapper[[0, 1], [0, 1]] = 1
    mapper[2, [2, 3]] = 0.5
    mapper[range(3, 11), range(4, 12)] = 1
    mapper[range(12, 77), range(12, 77)] = 1
    wanted = bench.reference([text], Controller(STEPS, alpha(), (0, 20), mapper=mapper[None]))
    check(bench.runtime([(text, control())]), wanted, bench.plain(text))
    mapper[range(3, 11), range(4, 12)] = 0
    mapper[range(4, 77), range(4, 77)] = 1
    published = bench.reference([text], Controller(STEPS, alpha(), (0, 20), mapper=mapper[None]))
    check(bench.runtime([(text, control(compat="published"))]), published)
    assert (published - wanted).abs().max() > 10 * TOLERANCE


def test_refinement(bench: Bench) -> None:
    controller = Controller(STEPS, alpha((0.0, 0.4)), (0, 30), refine=hat_refinement())
    wanted = bench.reference([REFINED], controller)
    settings = control(cross_replace=0.4, self_replace=0.6)
    check(bench.runtime([(REFINED, settings)]), wanted, bench.plain(REFINED))


@pytest.mark.parametrize("weight", [-2.0, pytest.param(5.0, marks=pytest.mark.slow)])
def test_reweighting(bench: Bench, weight: float) -> None:
    equalizer = torch.ones(1, 77)
    equalizer[0, [4, 5]] = weight
    controller = Controller(STEPS, alpha(), (0, 20), equalizer=equalizer)
    wanted = bench.reference([SOURCE], controller)
    settings = control(weights={"red hair": weight})
    check(bench.runtime([(SOURCE, settings)]), wanted, bench.plain(SOURCE))


def test_refinement_then_reweighting(bench: Bench) -> None:
    """Chained, with a word of the refinement (beard) and one of the source (hat) re-weighted."""
    equalizer = torch.ones(1, 77)
    equalizer[0, 9], equalizer[0, 13] = 3.0, -1.0
    controller = Controller(STEPS, alpha(), (0, 20), refine=hat_refinement(), equalizer=equalizer)
    wanted = bench.reference([REFINED], controller)
    settings = control(weights={"beard": 3.0, "hat": -1.0})
    check(bench.runtime([(REFINED, settings)]), wanted, bench.plain(REFINED))


def test_windows_of_words_and_self_attention(bench: Bench) -> None:
    """Words open and close at steps of their own; self-attention is replaced from 20 % to 70 %."""
    windows = time_words(STEPS, [{"default": (0.1, 0.7), (4, 8): (0.3, 0.5), (2,): (0.0, 1.0)}])
    controller = Controller(STEPS, windows, (10, 35), mapper=torch.eye(77)[None])
    wanted = bench.reference([SWAPPED], controller)
    settings = control(
        cross_replace=(0.1, 0.7),
        word_windows={"blue": (0.3, 0.5), "red": (0.3, 0.5), "person": 1.0},
        self_replace=(0.2, 0.7),
    )
    check(bench.runtime([(SWAPPED, settings)]), wanted, bench.plain(SWAPPED))


def test_local_blend_with_subtracted_words(bench: Bench) -> None:
    """Blend words on both sides, subtracted words, a start step and thresholds."""
    words, away = one_hot([4, 5], [8]), one_hot([2], [3])
    blend = Blend(words, 10, 0.7, away, 0.6)
    controller = Controller(STEPS, alpha((0.0, 0.4)), (0, 30), refine=hat_refinement(), blend=blend)
    wanted = bench.reference([REFINED], controller)
    settings = control(
        cross_replace=0.4,
        self_replace=0.6,
        blend=("red hair:a#2",),
        subtract=("person",),
        blend_threshold=0.7,
        subtract_threshold=0.6,
    )
    found = bench.runtime([(REFINED, settings)])
    check(found, wanted)
    mask = found.masks[0]
    assert mask is not None and 0.05 < mask.mean() < 0.95
    np.testing.assert_array_equal(found.latents[1][:, ~mask], found.latents[0][:, ~mask])
    assert np.abs(found.latents[1] - found.latents[0])[:, mask].max() > 0.05


def test_three_edits_of_one_source_share_it(bench: Bench) -> None:
    """2 (N + 1) rows; each edit is the one that it is alone."""
    texts = [SWAPPED, REFINED, SOURCE]
    settings = [
        control(),
        control(cross_replace=0.4, self_replace=(0.2, 0.6), blend=("hair",), blend_start=0.0),
        control(weights={"red": -2.0}, blend=("red:hat",)),
    ]
    found = bench.runtime(list(zip(texts, settings, strict=True)))
    assert bench.twin.calls == [8] * STEPS
    equalizer = torch.ones(1, 77)
    equalizer[0, 4] = -2.0
    controllers = [
        Controller(STEPS, alpha(), (0, 20), mapper=torch.eye(77)[None]),
        Controller(STEPS, alpha((0.0, 0.4)), (10, 30), refine=hat_refinement(), blend=Blend(one_hot([5], [6]), 0)),
        Controller(STEPS, alpha(), (0, 20), equalizer=equalizer, blend=Blend(one_hot([4], [9]), 10)),
    ]
    alone = [bench.reference([text], one) for text, one in zip(texts, controllers, strict=True)]
    check(found, torch.stack([alone[0][0], *(one[1] for one in alone)]))


@pytest.mark.slow
def test_three_edits_in_one_reference_run(bench: Bench) -> None:
    """The same control for three prompts, blended by one list of words: one run of the reference with E = 3."""
    texts = [SWAPPED, SOURCE.replace("red", "blue"), SOURCE.replace("hat", "hair")]
    blend = Blend(one_hot([5], [5], [5], [5]), 10)
    blend.words[3, 9] = 1  # "hair" stands twice in the third
    controller = Controller(STEPS, alpha(edits=3), (0, 20), mapper=torch.eye(77).repeat(3, 1, 1), blend=blend)
    wanted = bench.reference(texts, controller)
    check(bench.runtime([(text, control(blend=("hair",))) for text in texts]), wanted)


def test_source_is_dropped_after_the_windows(bench: Bench) -> None:
    """Exactly: the edits are the same, and the rows of the source are not run when nothing needs them."""
    targets = [
        (SWAPPED, control(cross_replace=0.4, self_replace=0.2)),
        (REFINED, control(cross_replace=0.6)),
    ]
    whole = bench.runtime(targets, steps=20)
    assert bench.twin.calls == [6] * 20
    short = bench.runtime(targets, steps=20, want_source=False)
    open_steps = int(0.6 * (20 + 1))
    assert bench.twin.calls == [6] * open_steps + [4] * (20 - open_steps)
    assert np.abs(short.latents[1:] - whole.latents[1:]).max() <= TOLERANCE
    blended = [(SWAPPED, control(cross_replace=0.4, blend=("hair",)))]
    bench.runtime(blended, steps=20, want_source=False)
    assert bench.twin.calls == [4] * 20  # the local edit needs the source to the end


def test_negative_prompt_guidance_leaves_a_row_out(bench: Bench) -> None:
    """uncond is the source's own prompt: 2 N + 1 rows, the same as with all of them."""
    uncond = bench.states(SOURCE)
    controller = Controller(STEPS, alpha(), (0, 20), mapper=torch.eye(77)[None])
    wanted = bench.reference([SWAPPED], controller, uncond=uncond)
    found = bench.runtime([(SWAPPED, control())], Guidance(SCALE, uncond.numpy(), same=True))
    assert bench.twin.calls == [3] * STEPS
    check(found, wanted)


def test_replayed_source(bench: Bench) -> None:
    """Direct inversion: stored latents take the source's place after every step, 2 N + 1 rows."""
    stored = torch.randn(STEPS, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    blend = Blend(one_hot([5], [5]), 10)
    controller = Controller(STEPS, alpha(), (0, 20), mapper=torch.eye(77)[None], blend=blend)
    wanted = bench.reference([SWAPPED], controller, replay=lambda index: stored[index])
    guidance = Guidance(SCALE, bench.states("").numpy(), replay=stored.numpy())
    found = bench.runtime([(SWAPPED, control(blend=("hair",)))], guidance)
    assert bench.twin.calls == [3] * STEPS
    check(found, wanted)
    np.testing.assert_array_equal(found.latents[0], stored[-1].numpy())


@pytest.mark.parametrize("sampler", ["pndm", "euler-ancestral", "dpm-solver++"])
def test_other_samplers(bench: Bench, sampler: str) -> None:
    """All windows closed but the first step's: the edit leaves the source's way; noise is the same for both."""
    stream = np.random.RandomState(0)
    closed = control(cross_replace=0.0, self_replace=0.0)

    def draw() -> np.ndarray:
        return stream.standard_normal((1, 4, 8, 8)).astype(np.float32)

    same = SOURCE.replace("person", "Person")
    nothing = bench.runtime([(same, control(weights={"red": 1.0}))], sampler=sampler, steps=10, draw=draw)
    assert np.abs(nothing.latents[1] - nothing.latents[0]).max() <= TOLERANCE
    moved = bench.runtime([(SWAPPED, closed)], sampler=sampler, steps=10, draw=draw)
    assert np.isfinite(moved.latents).all() and np.abs(moved.latents[1] - moved.latents[0]).max() > 0.05


def test_maps_of_words_and_steps(bench: Bench) -> None:
    """The maps are those of the blend layers, and asking for them changes nothing."""
    settings = control(weights={"hat": 2.0}, blend=("hair",))
    plain = bench.runtime([(REFINED, settings)], steps=10)
    found = bench.runtime([(REFINED, settings)], steps=10, want_maps=True)
    np.testing.assert_allclose(found.latents, plain.latents, atol=TOLERANCE)
    source, edit = found.maps
    assert source.words == tuple(SOURCE.split())
    assert edit.words[:7] == ("a", "smiling", "person", "with", "red", "hair", "a")
    assert source.steps.shape == (10, 9, 8, 8) and edit.steps.shape == (10, 12, 8, 8)
    controller = Controller(1, alpha()[:2], (0, 1), refine=hat_refinement())
    states = torch.stack([bench.states(SOURCE), bench.states(REFINED)])
    controller.equalizer = torch.ones(1, 77)
    controller.equalizer[0, 13] = 2.0
    surgery(bench.unet, _first_step(), controller, bench.start[None], bench.states(""), states, 1, SCALE)
    first = torch.cat(controller.store, dim=1).mean(1)  # [2,h,w,77] of one step at the first timestep
    np.testing.assert_allclose(source.steps[0, 1], first[0, :, :, 2].numpy(), atol=1e-5)
    np.testing.assert_allclose(edit.steps[0, 11], first[1, :, :, 13].numpy(), atol=1e-5)


def _first_step() -> DDIMScheduler:
    """A scheduler whose only step of one has the first timestep of 10."""
    scheduler = DDIMScheduler(**SCHEDULE)
    first = DDIMScheduler(**SCHEDULE)
    first.set_timesteps(10)
    scheduler.set_timesteps = lambda steps: setattr(scheduler, "timesteps", first.timesteps[:1])
    scheduler.num_inference_steps = 10
    return scheduler


def test_bad_input(bench: Bench) -> None:
    cases: list[tuple[Callable[[], Any], str, str]] = [
        (lambda: bench.runtime([(SOURCE, control())]), "prompts.text", "no weights"),
        (
            lambda: bench.runtime([(SWAPPED, control(weights={"beard": 2.0}))]),
            "prompts.options.weights",
            "'beard'",
        ),
        (
            lambda: bench.runtime([(SWAPPED, control(word_windows={"": 1.0}))]),
            "prompts.options.word_windows",
            "empty",
        ),
        (lambda: bench.runtime([(SWAPPED, control(blend=("beard",)))]), "prompts.options.blend", "'beard'"),
        (lambda: bench.runtime([(SWAPPED, control(blend=("hat:beard",)))]), "prompts.options.blend", "'beard'"),
        (lambda: control(subtract=("hat",)), "prompts.options.subtract", "without blend"),
        (lambda: control(self_replace=1.5), "parameters.self_replace", "from 0 to 1"),
        (lambda: control(word_windows={"hat": (0.6, 0.4)}), "prompts.options.word_windows.hat", "ascending"),
        (lambda: control(weights={"hat": float("nan")}), "prompts.options.weights.hat", "a number"),
        (lambda: bench.runtime([(REFINED, control(kind="replace"))]), "prompts.text", "words to swap"),
        (
            lambda: bench.runtime([(SWAPPED, control())], Guidance(1.0, bench.states("").numpy())),
            "parameters.guidance_scale",
            "more than 1",
        ),
    ]
    for call, field, words in cases:
        with pytest.raises(InputError) as caught:
            call()
        assert caught.value.field == field and words in str(caught.value)
