"""StyleCLIP latent optimization (Patashnik et al. 2021, section 4), published schedule and loss, without
torch.

    loss(w) = (1 - cos(CLIP(G(w)), CLIP(text))) + l2 sum (w - w0)^2 + identity (1 - cos(ID(G(w)), ID(G(w0))))

Adam on w in W+, noise fixed. The gradient is the bundle's graph "latent_gradient". The defaults are those of
the published optimization/run_optimization.py; a bundle may bring its own (`defaults` in bundle.json).

Beyond the published: other spaces to walk in (`spaces`), and the objective "direction", whose target is not the text's
own features but the source picture's, moved from the neutral text towards the text (the direction of Gal et al. 2021,
StyleGAN-NADA, eq. 1, as a point): what the text does not speak of then stays where the picture has it.

    goal = unit(CLIP(G(w0)) + scale unit(CLIP(text) - CLIP(neutral)))       texts by the 79 templates

In S that objective can also use what the channels are known to do: `start`, `start_beta` and `relevance`, see
`warm_start`. With any other space or objective these count nothing.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.presets import derive_neutral, neutral_texts
from limner.runtime.critics import unit
from limner.runtime.errors import BundleError, InputError
from limner.runtime.methods.latent_optimization import LatentOptimizationParameters, refuse_neutral
from limner.runtime.outcome import Outcome
from limner.runtime.recipe import PromptEdit, Recipe
from limner.runtime.stylegan2.descent import Descent, GradientGraph, LossWeights, Schedule, Stopping, Targets, descend
from limner.runtime.stylegan2.global_directions import editable_channels, templated_features, text_direction
from limner.runtime.stylegan2.networks import Models
from limner.runtime.stylegan2.spaces import Latents, Space, Styles, Whitened
from limner.runtime.stylegan2.warm_start import warm_start
from limner.runtime.text.templates import STYLECLIP_TEMPLATES
from limner.runtime.timing import Progress, Timer

__all__ = ["goal_features", "layer_mask", "loss_weights", "optimise", "render", "run", "schedule", "walk"]

FloatArray = NDArray[np.float32]
LAYER_GROUPS: dict[str, tuple[int, int | None]] = {"coarse": (0, 4), "medium": (4, 8), "fine": (8, None)}


def loss_weights(parameters: LatentOptimizationParameters) -> LossWeights:
    """The weights of the loss terms."""
    return LossWeights(parameters.clip_weight, parameters.l2_weight, parameters.identity_weight)


def schedule(parameters: LatentOptimizationParameters) -> Schedule:
    """The learning rates."""
    return Schedule(parameters.steps, parameters.learning_rate, parameters.ramp_up, parameters.ramp_down)


def layer_mask(layers: Sequence[str], num_ws: int) -> NDArray[np.bool_]:
    """Return bool [L], true for the rows of w_plus in the named groups.

    Raises InputError if the generator is too small to have any of them (64 px and up have all three).
    """
    mask = np.zeros(num_ws, dtype=bool)
    for name in layers:
        first, last = LAYER_GROUPS[name]
        mask[first:last] = True
    if not mask.any():
        allowed = "layers of a generator with " + f"{num_ws} rows in W+"
        raise InputError("parameters.layers", list(layers), allowed, "coarse is rows 0-3, medium 4-7, fine 8 and up")
    return mask


def optimise(
    gradient_graph: GradientGraph,
    latents: FloatArray,  # [N,L,D] the sources; style channels [N,S] in S
    text_features: FloatArray,  # [N,C] unit, one goal a picture
    identity_source: FloatArray,  # [N,I] unit, of the sources' pictures
    image_source: FloatArray,  # [N,3,H,W]; its pixels count nothing here, but the graph takes them
    parameters: LatentOptimizationParameters,
    progress: Progress | None = None,
    space: Space | None = None,  # None: W+ or W, which need nothing of a bundle
    begin: FloatArray | None = None,  # as in `descend`
    free: NDArray[np.bool_] | None = None,
) -> list[Descent]:
    """Edit N pictures at once, each towards its own goal; one result a row, the same as if it ran alone."""
    targets = Targets(latents, text_features, identity_source, image_source)
    if space is None:
        space = Latents(layer_mask(parameters.layers, latents.shape[1]), parameters.space == "w")
    return descend(
        gradient_graph,
        latents,
        targets,
        loss_weights(parameters),
        schedule(parameters),
        space=space,
        begin=begin,
        free=free,
        moments=parameters.moments,
        stopping=Stopping(parameters.patience, parameters.min_improvement),
        keep_every=parameters.keep_every,
        progress=progress,
    )


def space_of(models: Models, parameters: LatentOptimizationParameters) -> Space:
    """The space of the parameters, with what it needs of the bundle; BundleError where the bundle lacks that."""
    bundle, name = models.bundle, parameters.space
    mask = layer_mask(parameters.layers, bundle.generator.num_ws)
    if name == "s":
        if "style_gradient" not in bundle.manifest.graphs:
            given = f"no graph 'style_gradient' in the bundle {bundle.manifest.name!r}"
            raise BundleError("parameters.space", given, "w_plus, w", "export the bundle again to have s")
        rows = np.repeat([layer.w_index for layer in bundle.generator.layers],
                         [layer.channels for layer in bundle.generator.layers])  # fmt: skip
        moving = editable_channels(bundle) & mask[rows]
        return Styles(np.where(moving, bundle.relevance["style_std"], 0).astype(np.float32))
    if name in ("p_n", "p_n_plus"):
        return Whitened(bundle.mapped_basis, mask, name == "p_n")
    return Latents(mask, name == "w")


def goal_features(
    models: Models,
    image: FloatArray,  # [N,3,H,W] of the sources
    prompts: Sequence[PromptEdit],  # one a picture, with its neutral text where the objective is "direction"
    parameters: LatentOptimizationParameters,
) -> FloatArray:
    """Return what each picture's CLIP features are to become, unit [N,C]."""
    if parameters.objective == "text":
        return np.stack([models.text_features(prompt.text) for prompt in prompts])
    directions = np.stack([_direction(models, prompt) for prompt in prompts])
    return unit(models.clip_image(image) + np.float32(parameters.direction_scale) * directions)


def _direction(models: Models, prompt: PromptEdit) -> FloatArray:
    target = templated_features(models, prompt.text, STYLECLIP_TEMPLATES, "prompts.text")
    neutral = templated_features(models, prompt.options.neutral or "", STYLECLIP_TEMPLATES, "prompts.options.neutral")
    return text_direction(target, neutral)


def walk(
    models: Models,
    w_plus: FloatArray,  # [N,L,D]
    prompts: Sequence[PromptEdit],
    parameters: LatentOptimizationParameters,
    timer: Timer,
    progress: Progress | None = None,
) -> list[Descent]:
    """Edit N pictures, each by its own prompt; the results lie in W+, or in S where the space is "s"."""
    models = models.plain
    space = space_of(models, parameters)
    with timer.stage("source"):
        image = models.synthesis(w_plus)
        identity = models.identity(image)
    with timer.stage("text"):
        goals = goal_features(models, image, prompts, parameters)
        begin, free = _guide(models, space, prompts, parameters)
    with timer.stage("optimise"):
        in_styles = parameters.space == "s"
        graph = models.style_gradient if in_styles else models.latent_gradient
        start = models.affine(w_plus) if in_styles else w_plus
        return optimise(graph, start, goals, identity, image, parameters, progress, space, begin, free)


def _guide(
    models: Models, space: Space, prompts: Sequence[PromptEdit], parameters: LatentOptimizationParameters
) -> tuple[FloatArray | None, NDArray[np.bool_] | None]:
    """Where the walks begin and what they may move; None, None without guidance."""
    if not (parameters.guided and isinstance(space, Styles)):
        return None, None
    directions = [_direction(models, prompt) for prompt in prompts]
    begin, free = warm_start(
        models.bundle.relevance["relevance"],
        directions,
        space.sigma > 0,
        start=parameters.start,
        start_beta=parameters.start_beta,
        least=parameters.relevance,
    )
    return (begin if parameters.start > 0 else None), free


def render(models: Models, latents: FloatArray, parameters: LatentOptimizationParameters) -> FloatArray:
    """Pictures [N,3,H,W] of what `walk` found, [N,L,D] or [N,S]."""
    return models.synthesis_from_styles(latents) if parameters.space == "s" else models.synthesis(latents)


def run(
    models: Models, w_plus: FloatArray, recipes: Sequence[Recipe], timer: Timer, progress: Progress | None
) -> list[Outcome]:
    """Run recipes of equal parameters on the sources w_plus [N,L,D]."""
    parameters: LatentOptimizationParameters = recipes[0].parameters
    prompts = [_resolve(models, recipe.prompts[0], parameters) for recipe in recipes]
    found = walk(models, w_plus, prompts, parameters, timer, progress)
    rows = zip(found, recipes, prompts, strict=True)
    return [_outcome(models, one, replace(recipe, prompts=(prompt,)), parameters) for one, recipe, prompt in rows]


def _resolve(models: Models, prompt: PromptEdit, parameters: LatentOptimizationParameters) -> PromptEdit:
    """Fill in strength and, where the objective compares with it, the neutral text."""
    strength = parameters.strength if prompt.strength is None else prompt.strength
    if parameters.objective == "text":
        refuse_neutral(prompt)
        return replace(prompt, strength=strength)
    given = prompt.options.neutral
    neutral = derive_neutral(prompt.text, neutral_texts(models.bundle)) if given is None else given
    return replace(prompt, strength=strength).with_options(neutral=neutral)


def _outcome(models: Models, found: Descent, recipe: Recipe, parameters: LatentOptimizationParameters) -> Outcome:
    def draw(changed: Recipe) -> FloatArray:
        strength = changed.prompts[0].strength
        return render(models, found.trajectory.at(1.0 if strength is None else strength), parameters)

    scores = found.losses | {"steps": float(found.steps)}
    return Outcome(recipe, draw, scores, found.trajectory)
