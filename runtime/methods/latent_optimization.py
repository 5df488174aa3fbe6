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
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.presets import derive_neutral, neutral_texts, resolve_parameters
from limner.runtime.checks import require_int, require_number
from limner.runtime.errors import BundleError, InputError
from limner.runtime.methods.global_directions import MAX_ALPHA, editable_channels, templated_features, text_direction
from limner.runtime.methods.registry import Method, Outcome, Progress
from limner.runtime.recipe import PromptEdit, Recipe
from limner.runtime.schema import from_dict, to_dict
from limner.runtime.stylegan2.adam import Moments
from limner.runtime.stylegan2.descent import Descent, GradientGraph, LossWeights, Schedule, Stopping, Targets, descend
from limner.runtime.stylegan2.networks import Models, unit
from limner.runtime.stylegan2.spaces import Latents, Space, SpaceName, Styles, Whitened
from limner.runtime.stylegan2.warm_start import warm_start
from limner.runtime.text.templates import STYLECLIP_TEMPLATES
from limner.runtime.timing import Timer

__all__ = ["LatentOptimizationParameters", "goal_features", "layer_mask", "method", "optimise", "render", "walk"]

NAME = "latent-optimization"
FloatArray = NDArray[np.float32]
LayerGroup = Literal["coarse", "medium", "fine"]
LAYER_GROUPS: dict[str, tuple[int, int | None]] = {"coarse": (0, 4), "medium": (4, 8), "fine": (8, None)}
MAX_STRENGTH = 2.0


@dataclass(frozen=True)
class LatentOptimizationParameters:
    """The published defaults; the notebook of the authors took 40 steps and identity_weight 0.005."""

    steps: int = 300
    learning_rate: float = 0.1
    ramp_up: float = 0.05  # part of the steps in which the rate rises from 0
    ramp_down: float = 0.25  # part of the steps in which it falls to 0
    clip_weight: float = 1.0
    l2_weight: float = 0.008  # on the sum over all of w_plus, in P_N and S over standard deviations
    identity_weight: float = 0.0
    space: SpaceName = "w_plus"  # published: every layer its own way; w, p_n: all layers the same; p_n_plus; s
    moments: Moments = "element"  # Adam's second moment: per number, or one per picture ("row")
    objective: Literal["text", "direction"] = "text"  # published: text
    direction_scale: float = 0.5  # of the objective "direction": how far the goal lies from the picture
    start: float = 0.0  # in S: standard deviations along the global direction where the walk begins; published: 0
    start_beta: float = 0.15  # of that direction, as in global-directions
    relevance: float = 0.0  # in S: channels that have less to do with the text stay; published: 0, all move
    layers: tuple[LayerGroup, ...] = ("coarse", "medium", "fine")  # w rows 0-3, 4-7, 8 and up
    patience: int = 0  # stop after so many steps without improvement; 0 never stops
    min_improvement: float = 1e-3  # of the loss, to count as one
    keep_every: int = 10  # steps between the kept points of the trajectory; 0 keeps its ends alone
    strength: float = 1.0  # of a prompt that has none of its own: 1 is the whole way

    def __post_init__(self) -> None:
        require_int("parameters.steps", self.steps, 1, 10_000)
        require_number("parameters.learning_rate", self.learning_rate, 1e-6, 10.0)
        for name in ("ramp_up", "ramp_down"):
            require_number(f"parameters.{name}", getattr(self, name), 0.0, 1.0)
        for name in ("clip_weight", "l2_weight", "identity_weight", "min_improvement"):
            require_number(f"parameters.{name}", getattr(self, name), 0.0, 1000.0)
        for name in ("patience", "keep_every"):
            require_int(f"parameters.{name}", getattr(self, name), 0, 10_000)
        require_number("parameters.strength", self.strength, 0.0, MAX_STRENGTH)
        require_number("parameters.direction_scale", self.direction_scale, 1e-3, 100.0)
        require_number("parameters.start", self.start, 0.0, MAX_ALPHA)
        for name in ("start_beta", "relevance"):
            require_number(f"parameters.{name}", getattr(self, name), 0.0, 1.0)
        if self.space in ("w", "p_n") and len(self.layers) < len(LAYER_GROUPS):
            given = list(self.layers)
            raise InputError("parameters.layers", given, f"all of coarse, medium, fine with space {self.space}")
        unknown = set(self.layers) - set(LAYER_GROUPS)
        if unknown or not self.layers or len(set(self.layers)) != len(self.layers):
            raise InputError("parameters.layers", list(self.layers), "one or more of coarse, medium, fine, each once")

    @property
    def guided(self) -> bool:
        """Whether the relevance of the channels has a say."""
        return self.space == "s" and self.objective == "direction" and max(self.start, self.relevance) > 0

    @property
    def weights(self) -> LossWeights:
        """The weights of the loss terms."""
        return LossWeights(self.clip_weight, self.l2_weight, self.identity_weight)

    @property
    def schedule(self) -> Schedule:
        """The learning rates."""
        return Schedule(self.steps, self.learning_rate, self.ramp_up, self.ramp_down)


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
    w_plus: FloatArray,  # [N,L,D] the sources; style channels [N,S] in S
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
    targets = Targets(w_plus, text_features, identity_source, image_source)
    if space is None:
        space = Latents(layer_mask(parameters.layers, w_plus.shape[1]), parameters.space == "w")
    return descend(
        gradient_graph,
        w_plus,
        targets,
        parameters.weights,
        parameters.schedule,
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
    neutral = templated_features(models, prompt.neutral or "", STYLECLIP_TEMPLATES, "prompts.neutral")
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


def check(recipe: Recipe) -> None:
    """Refuse what this method has no use for."""
    if len(recipe.prompts) != 1:
        hint = "put them into one text, or use global-directions"
        raise InputError("prompts", f"{len(recipe.prompts)} texts", f"one text with {NAME}", hint)
    prompt = recipe.prompts[0]
    if prompt.strength is not None:
        require_number("prompts.strength", prompt.strength, 0.0, MAX_STRENGTH, "1 is the whole way to the text")
    if recipe.parameters.get("objective") == "text":  # where nothing is said, the bundle's preset decides at the run
        _refuse_neutral(prompt)


def idle(recipe: Recipe) -> dict[str, str]:
    """Return the parameters that have no say."""
    parameters = from_dict(LatentOptimizationParameters, recipe.parameters, "parameters")
    found = {}
    if recipe.prompts[0].strength is not None:
        found["parameters.strength"] = "the strength of the text"
    if parameters.patience == 0:
        found["parameters.min_improvement"] = "patience, which is 0"
    if parameters.objective == "text":
        found["parameters.direction_scale"] = "objective, which is 'text'"
    guides = [f"parameters.{name}" for name in ("start", "start_beta", "relevance")]
    if parameters.objective == "text":
        found |= dict.fromkeys(guides, "objective, which is 'text'")
    elif parameters.space != "s":
        found |= dict.fromkeys(guides, f"space, which is {parameters.space!r}")
    elif parameters.start == 0.0:
        found["parameters.start_beta"] = "start, which is 0"
    return found


def _refuse_neutral(prompt: PromptEdit) -> None:
    if prompt.neutral is not None:
        hint = 'with parameters.objective "direction" there is one'
        raise InputError("prompts.neutral", repr(prompt.neutral), f"nothing with {NAME} towards a text", hint)


def run(
    models: Models, w_plus: FloatArray, recipes: Sequence[Recipe], timer: Timer, progress: Progress | None
) -> list[Outcome]:
    """Run recipes of equal parameters on the sources w_plus [N,L,D]."""
    given = recipes[0].parameters
    parameters = resolve_parameters(models.bundle, NAME, LatentOptimizationParameters, given)
    prompts = [_resolve(models, recipe.prompts[0], parameters) for recipe in recipes]
    found = walk(models, w_plus, prompts, parameters, timer, progress)
    rows = zip(found, recipes, prompts, strict=True)
    return [_outcome(models, one, replace(recipe, prompts=(prompt,)), parameters) for one, recipe, prompt in rows]


def _resolve(models: Models, prompt: PromptEdit, parameters: LatentOptimizationParameters) -> PromptEdit:
    """Fill in strength and, where the objective compares with it, the neutral text."""
    strength = parameters.strength if prompt.strength is None else prompt.strength
    if parameters.objective == "text":
        _refuse_neutral(prompt)
        return replace(prompt, strength=strength)
    neutral = derive_neutral(prompt.text, neutral_texts(models.bundle)) if prompt.neutral is None else prompt.neutral
    return replace(prompt, strength=strength, neutral=neutral)


def _outcome(models: Models, found: Descent, recipe: Recipe, parameters: LatentOptimizationParameters) -> Outcome:
    settings: dict[str, Any] = to_dict(parameters)
    resolved = replace(recipe, parameters=settings)

    def draw(changed: Recipe) -> FloatArray:
        strength = changed.prompts[0].strength
        return render(models, found.trajectory.at(1.0 if strength is None else strength), parameters)

    scores = found.losses | {"steps": float(found.steps)}
    return Outcome(resolved, draw, scores, found.trajectory)


method = Method(
    name=NAME,
    summary="Adam in W+ towards a text: any words, seconds to minutes a picture",
    parameters=LatentOptimizationParameters,
    graphs=("synthesis_w", "identity", "clip_text", "latent_gradient"),
    check=check,
    run=run,
    takes=("neutral",),
    idle=idle,
)
