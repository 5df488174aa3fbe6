"""The method `latent-optimization` as it is declared; what it does is in `stylegan2.latent_optimization`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from limner.runtime.errors import InputError
from limner.runtime.methods.global_directions import MAX_ALPHA, NEUTRAL, check_neutral
from limner.runtime.methods.registry import Method
from limner.runtime.recipe import PromptEdit, Recipe
from limner.runtime.schema import require_number, said
from limner.runtime.settings import Settings, setting

__all__ = [
    "NAME",
    "LatentOptimizationParameters",
    "LayerGroup",
    "Moments",
    "OptimizationOptions",
    "SpaceName",
    "method",
    "refuse_neutral",
]

NAME = "latent-optimization"
MAX_STRENGTH = 2.0
SpaceName = Literal["w_plus", "w", "p_n_plus", "p_n", "s"]
Moments = Literal["element", "row"]
LayerGroup = Literal["coarse", "medium", "fine"]
GROUPS: tuple[LayerGroup, ...] = ("coarse", "medium", "fine")


@dataclass(frozen=True)
class LatentOptimizationParameters(Settings):
    """The published defaults; the notebook of the authors took 40 steps and identity_weight 0.005."""

    steps: int = setting(300, "of Adam", 1, 10_000)
    learning_rate: float = setting(0.1, "of Adam", 1e-6, 10.0)
    ramp_up: float = setting(0.05, "part of the steps in which the rate rises from 0", 0.0, 1.0)
    ramp_down: float = setting(0.25, "part of the steps in which it falls to 0", 0.0, 1.0)
    clip_weight: float = setting(1.0, "on CLIP's distance", 0.0, 1000.0)
    l2_weight: float = setting(
        0.008, "on the sum over all of w_plus, in P_N and S over standard deviations", 0.0, 1000.0
    )
    identity_weight: float = setting(0.0, "on the identity network's distance", 0.0, 1000.0)
    space: SpaceName = setting(
        "w_plus", "w_plus: every layer its own way (published); w, p_n: all the same; p_n_plus; s"
    )
    moments: Moments = setting("element", "Adam's second moment: a number's own, or one a picture (row)")
    objective: Literal["text", "direction"] = setting("text", "text (published), or the way from neutral to the text")
    direction_scale: float = setting(0.5, "of the objective direction: how far the goal lies", 1e-3, 100.0)
    start: float = setting(
        0.0, "in s: standard deviations along the global direction where the walk begins", 0.0, MAX_ALPHA
    )
    start_beta: float = setting(0.15, "of that direction, as in global-directions", 0.0, 1.0)
    relevance: float = setting(0.0, "in s: channels that have less to do with the text stay", 0.0, 1.0)
    layers: tuple[LayerGroup, ...] = setting(GROUPS, "w rows 0-3, 4-7, 8 and up")
    patience: int = setting(0, "steps without improvement that end it; 0 never stops", 0, 10_000)
    min_improvement: float = setting(1e-3, "of the loss, to count as one", 0.0, 1000.0)
    keep_every: int = setting(10, "steps between the kept points of the trajectory; 0 keeps its ends alone", 0, 10_000)
    strength: float = setting(1.0, "of a text that has none of its own: 1 is the whole way", 0.0, MAX_STRENGTH)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.space in ("w", "p_n") and len(self.layers) < len(GROUPS):
            given = list(self.layers)
            raise InputError("parameters.layers", given, f"all of coarse, medium, fine with space {self.space}")
        unknown = set(self.layers) - set(GROUPS)
        if unknown or not self.layers or len(set(self.layers)) != len(self.layers):
            raise InputError("parameters.layers", list(self.layers), "one or more of coarse, medium, fine, each once")

    @property
    def guided(self) -> bool:
        """Whether the relevance of the channels has a say."""
        return self.space == "s" and self.objective == "direction" and max(self.start, self.relevance) > 0


@dataclass(frozen=True)
class OptimizationOptions(Settings):
    """What belongs to the text."""

    where: ClassVar[str] = "prompts.options"
    neutral: str | None = setting(None, NEUTRAL + ", of the objective direction")


def check(recipe: Recipe) -> None:
    """Refuse what this method has no use for."""
    if len(recipe.prompts) != 1:
        hint = "put them into one text, or use global-directions"
        raise InputError("prompts", f"{len(recipe.prompts)} texts", f"one text with {NAME}", hint)
    prompt = recipe.prompts[0]
    if prompt.strength is not None:
        require_number("prompts.strength", prompt.strength, 0.0, MAX_STRENGTH, "1 is the whole way to the text")
    check_neutral(prompt)
    if "objective" in said(recipe.parameters) and recipe.parameters.objective == "text":
        refuse_neutral(prompt)  # where nothing is said, the bundle's preset decides at the run


def refuse_neutral(prompt: PromptEdit) -> None:
    """InputError for a neutral text, which the objective "text" has no use for."""
    if prompt.options.neutral is not None:
        hint = 'with parameters.objective "direction" there is one'
        where = "prompts.options.neutral"
        raise InputError(where, repr(prompt.options.neutral), f"nothing with {NAME} towards a text", hint)


def idle(recipe: Recipe) -> dict[str, str]:
    """Return the parameters that have no say."""
    parameters = recipe.parameters
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


method = Method(
    name=NAME,
    summary="Adam in W+ towards a text: any words, seconds to minutes a picture",
    parameters=LatentOptimizationParameters,
    graphs=("synthesis_w", "identity", "clip_text", "latent_gradient"),
    check=check,
    run="limner.runtime.stylegan2.latent_optimization:run",
    options=OptimizationOptions,
    idle=idle,
)
