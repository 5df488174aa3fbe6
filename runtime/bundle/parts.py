"""What bundle.json says of one graph and of a generator's spaces."""

from dataclasses import dataclass, field
from typing import Literal

TensorType = Literal["float32", "float16", "int64", "int32", "bool"]


@dataclass(frozen=True)
class TensorMeta:
    """One input or output of a graph; a string in `shape` is a dimension chosen by the caller ("batch")."""

    name: str
    dtype: TensorType
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class ParityMeta:
    """How far the graph is from the torch module that it was exported from."""

    max_rel_error: float  # the worst relative error over the outputs and the cases
    tolerance: float  # the limit that the export was checked against
    cases: int = 0  # how many input sets were compared
    outputs: dict[str, float] = field(default_factory=dict)  # output name -> relative error


@dataclass(frozen=True)
class GraphMeta:
    """One ONNX graph: its file, its external data files and its interface."""

    file: str
    inputs: tuple[TensorMeta, ...]
    outputs: tuple[TensorMeta, ...]
    data: tuple[str, ...] = ()
    parity: ParityMeta | None = None
    cpu: str = ""  # file of a form that is quicker on CPUs: interface and data are the same

    def file_on(self, provider: str) -> str:
        """The file of the form that runs on a provider."""
        return self.cpu if provider == "cpu" and self.cpu else self.file


@dataclass(frozen=True)
class LayerMeta:
    """One synthesis layer in the order of `style_channels`; `w_index` is the row of w_plus that feeds it."""

    name: str
    resolution: int
    channels: int
    kind: Literal["conv", "to_rgb"]
    w_index: int


@dataclass(frozen=True)
class GeneratorMeta:
    """The generator's spaces: z [N,z_dim], w [N,w_dim], w_plus [N,num_ws,w_dim], style_channels [N,S]."""

    size: int
    z_dim: int
    w_dim: int
    num_ws: int
    style_channels: int
    layers: tuple[LayerMeta, ...]
    weights: str = ""  # sha256 that tells the generator's weights apart; mappers name it
