"""Adam in numpy, with torch.optim.Adam's order of operations, so that both walk the same path."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limner.runtime.errors import InputError
from limner.runtime.methods.latent_optimization import Moments

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class AdamConfig:
    """The defaults of torch.optim.Adam."""

    learning_rate: float = 0.1  # StyleCLIP's; a step may bring its own
    beta1: float = 0.9  # decay of the mean gradient
    beta2: float = 0.999  # decay of the mean squared gradient
    epsilon: float = 1e-8  # added to the root, after the bias correction
    moments: Moments = "element"  # row: one mean square for all of a row, so that a step keeps the gradient's direction


class Adam:
    """Adam (Kingma and Ba 2014, algorithm 1) on one array, for instance w_plus [N,L,D].

    Every element has its own moments, or every row one second moment; the rows of a batch do not influence each
    other.
    """

    def __init__(self, config: AdamConfig | None = None) -> None:
        self.config = config or AdamConfig()
        self.steps = 0
        self._mean: FloatArray | None = None  # m in the paper
        self._square: FloatArray | None = None  # v in the paper

    def step(
        self,
        values: FloatArray,
        gradient: FloatArray,
        learning_rate: float | None = None,
    ) -> FloatArray:
        """Return new values of the same shape and dtype; `values` stays as it is.

        Raises InputError when the gradient's shape is not that of the values, or changes between steps.
        """
        shape = self._mean.shape if self._mean is not None else values.shape
        if gradient.shape != values.shape or values.shape != shape:
            raise InputError(
                "gradient",
                f"shape {list(gradient.shape)}",
                f"shape {list(shape)} at every step",
            )
        config = self.config
        rate = config.learning_rate if learning_rate is None else learning_rate
        if self._mean is None or self._square is None:
            self._mean, self._square = np.zeros_like(values), np.zeros_like(values)
        self.steps += 1
        self._mean = self._mean + (gradient - self._mean) * (1 - config.beta1)  # torch: lerp
        square = gradient * gradient
        if config.moments == "row":
            square = np.broadcast_to(square.mean(axis=tuple(range(1, square.ndim)), keepdims=True), square.shape)
        self._square = self._square * config.beta2 + square * (1 - config.beta2)
        correction1 = 1 - config.beta1**self.steps
        correction2 = 1 - config.beta2**self.steps
        root = np.sqrt(self._square) / correction2**0.5 + config.epsilon
        stepped: FloatArray = values - (rate / correction1) * (self._mean / root)
        return stepped.astype(values.dtype, copy=False)
