"""StyleCLIP latent optimization (Patashnik et al. 2021, section 4), published schedule and loss, without
torch.

    loss(w) = (1 - cos(CLIP(G(w)), CLIP(text))) + l2 sum (w - w0)^2 + identity (1 - cos(ID(G(w)), ID(G(w0))))

Adam on w in W+, noise fixed. The gradient is the bundle's graph "latent_gradient". The defaults are those of
the published optimization/run_optimization.py; a bundle may bring its own (`defaults` in bundle.json).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from limner.runtime.checks import require_int, require_number
from limner.runtime.descent import Descent, GradientGraph, LossWeights, Schedule, Stopping, Targets, descend
from limner.runtime.errors import InputError
from limner.runtime.methods import Method, Outcome, Progress
from limner.runtime.models import Models
from limner.runtime.presets import resolve_parameters
from limner.runtime.recipe import Recipe
from limner.runtime.schema import to_dict
from limner.runtime.timing import Timer

__all__ = ["LatentOptimizationParameters", "layer_mask", "method", "optimise"]

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
    l2_weight: float = 0.008  # on the sum over all of w_plus
    identity_weight: float = 0.0
    space: Literal["w_plus", "w"] = "w_plus"  # published: every layer its own way; w: all layers the same
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
        if self.space == "w" and len(self.layers) < len(LAYER_GROUPS):
            raise InputError("parameters.layers", list(self.layers), "all of coarse, medium, fine with space w")
        unknown = set(self.layers) - set(LAYER_GROUPS)
        if unknown or not self.layers or len(set(self.layers)) != len(self.layers):
            raise InputError("parameters.layers", list(self.layers), "one or more of coarse, medium, fine, each once")

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
    w_plus: FloatArray,  # [N,L,D] the sources
    text_features: FloatArray,  # [N,C] unit, one text a picture
    identity_source: FloatArray,  # [N,I] unit, of the sources' pictures
    image_source: FloatArray,  # [N,3,H,W]; its pixels count nothing here, but the graph takes them
    parameters: LatentOptimizationParameters,
    progress: Progress | None = None,
) -> list[Descent]:
    """Edit N pictures at once, each towards its own text; one result a row, the same as if it ran alone."""
    targets = Targets(w_plus, text_features, identity_source, image_source)
    return descend(
        gradient_graph,
        w_plus,
        targets,
        parameters.weights,
        parameters.schedule,
        layers=layer_mask(parameters.layers, w_plus.shape[1]),
        tied=parameters.space == "w",
        stopping=Stopping(parameters.patience, parameters.min_improvement),
        keep_every=parameters.keep_every,
        progress=progress,
    )


def check(recipe: Recipe) -> None:
    """Refuse what this method has no use for."""
    if len(recipe.prompts) != 1:
        hint = "put them into one text, or use global-directions"
        raise InputError("prompts", f"{len(recipe.prompts)} texts", f"one text with {NAME}", hint)
    prompt = recipe.prompts[0]
    for name in ("neutral", "beta"):
        if getattr(prompt, name) is not None:
            hint = "only global-directions has it"
            raise InputError(f"prompts.{name}", repr(getattr(prompt, name)), f"nothing with {NAME}", hint)
    if prompt.strength is not None:
        require_number("prompts.strength", prompt.strength, 0.0, MAX_STRENGTH, "1 is the whole way to the text")


def run(
    models: Models, w_plus: FloatArray, recipes: Sequence[Recipe], timer: Timer, progress: Progress | None
) -> list[Outcome]:
    """Run recipes of equal parameters on the sources w_plus [N,L,D]."""
    given = recipes[0].parameters
    parameters = resolve_parameters(models.bundle, NAME, LatentOptimizationParameters, given)
    with timer.stage("text"):
        text_features = np.stack([models.text_features(recipe.prompts[0].text) for recipe in recipes])  # [N,C]
    with timer.stage("source"):
        image = models.synthesis(w_plus)
        identity = models.identity(image)
    with timer.stage("optimise"):
        found = optimise(models.latent_gradient, w_plus, text_features, identity, image, parameters, progress)
    return [_outcome(models, one, recipe, parameters) for one, recipe in zip(found, recipes, strict=True)]


def _outcome(models: Models, found: Descent, recipe: Recipe, parameters: LatentOptimizationParameters) -> Outcome:
    prompt = recipe.prompts[0]
    strength = parameters.strength if prompt.strength is None else prompt.strength
    settings: dict[str, Any] = to_dict(parameters)
    resolved = replace(recipe, prompts=(replace(prompt, strength=strength),), parameters=settings)

    def render(changed: Recipe) -> FloatArray:
        strength = changed.prompts[0].strength
        return models.synthesis(found.trajectory.at(1.0 if strength is None else strength))

    scores = found.losses | {"steps": float(found.steps)}
    return Outcome(resolved, render, scores, found.trajectory)


method = Method(
    name=NAME,
    summary="Adam in W+ towards a text: any words, seconds to minutes a picture",
    parameters=LatentOptimizationParameters,
    graphs=("synthesis_w", "identity", "clip_text", "latent_gradient"),
    check=check,
    run=run,
)
