"""The attribute judge as a graph: what a picture shows, in words, without torch.

A judge's folder holds config.json (attributes and their values), model.safetensors, and judge.onnx, which reads the
weights where they lie (`limner export judge FOLDER` writes it).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.onnx_files import check_external_data
from limner.runtime.errors import BundleError, InputError
from limner.runtime.graphs.providers import import_onnxruntime
from limner.runtime.pictures.images import to_float
from limner.runtime.schema import read_json
from limner.runtime.storage.files import read_plain, sha256_file

__all__ = ["GRAPH", "WEIGHTS", "JudgeGraph"]

GRAPH, WEIGHTS = "judge.onnx", ("model.safetensors", "weights.bin")
MAX_BYTES = 1 << 26
AT_ONCE = 50  # pictures


class JudgeGraph:
    """Reads pictures uint8 [N,S,S,3] of the judge's size.

    Raises InputError for a folder without a judge, BundleError for a graph that reads other files than its weights.
    """

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        self.folder = Path(folder)
        path = self.folder / GRAPH
        if not path.is_file():
            allowed = f"the folder of a judge with its {GRAPH}"
            raise InputError("judge", f"{str(folder)!r}, which has no {GRAPH}", allowed, "`limner export judge FOLDER`")
        config = read_json(self.folder / "config.json", "judge")
        try:
            found = config["config"]["attributes"]
            self.attributes = tuple((str(name), tuple(map(str, values))) for name, values in found)
            self.size = int(config["config"]["image_size"])
        except (KeyError, TypeError, ValueError) as reason:
            raise InputError(
                "judge", f"{str(folder)!r}, whose config.json is no judge's", "a judge's folder"
            ) from reason
        check_external_data(read_plain(path, GRAPH, MAX_BYTES, "an ONNX graph", BundleError), GRAPH, WEIGHTS)
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        self._session: Any = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    @property
    def digest(self) -> str:
        """The sha256 of the weights: which judge this is."""
        return sha256_file(self.folder / WEIGHTS[0])

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits of all attributes one after another [N,V], and features [N,F]."""
        if images.ndim != 4 or images.shape[1:] != (self.size, self.size, 3) or images.dtype != np.uint8:
            given = f"{images.dtype} {list(images.shape)}"
            raise InputError("pictures", given, f"uint8 [N, {self.size}, {self.size}, 3]")
        parts = [images[first : first + AT_ONCE] for first in range(0, len(images), AT_ONCE)]
        found = [self._session.run(["logits", "features"], {"image": to_float(part)}) for part in parts]
        logits, features = (np.concatenate(rows) for rows in zip(*found, strict=True))
        return logits, features

    def words(self, images: NDArray[np.uint8]) -> list[dict[str, str]]:
        """What each picture shows: attribute -> value."""
        logits, _ = self.run(images)
        ends = np.cumsum([len(values) for _, values in self.attributes])[:-1]
        picks = [part.argmax(axis=1) for part in np.split(logits, ends, axis=1)]
        return [self._named(row) for row in zip(*picks, strict=True)]

    def _named(self, row: Sequence[Any]) -> dict[str, str]:
        return {name: values[int(pick)] for (name, values), pick in zip(self.attributes, row, strict=True)}
