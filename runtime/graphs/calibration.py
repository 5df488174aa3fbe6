"""Which graphs are worth joining on a provider: measured at start, since it hangs on the model and on the machine.

A call of twice the rows is timed beside one of the usual rows. Where it takes much less than twice as long, calls of
different edits go together. A graph whose one call takes longer than LONG_S has work enough for the provider alone.
"""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.runtime.bundle.engines import RangeMeta
from limner.runtime.bundle.loading import Bundle
from limner.runtime.bundle.parts import GraphMeta, TensorMeta
from limner.runtime.bundle.ranges import graph_ranges
from limner.runtime.graphs.joined import ROW_NUMBERS, joinable, row_symbol
from limner.runtime.graphs.scheduling import JoinLimit
from limner.runtime.graphs.sessions import Sessions

__all__ = ["calibrate", "limit_of", "usual_inputs"]

PAYS = 0.9  # of the time of two calls
LONG_S = 0.5
TIMES = 3
ONE = RangeMeta(1, 1, 1)


def calibrate(sessions: Sessions, graphs: tuple[str, ...]) -> dict[str, JoinLimit]:
    """The limits of the graphs that are to be joined; the others are left out. Loads the graphs."""
    found = {}
    for name in graphs:
        limit, meta = limit_of(sessions.bundle, name), sessions.bundle.graph(name)
        ranges = graph_ranges(sessions.bundle.manifest, name)
        rows = ranges.get(row_symbol(meta) or "", ONE).best
        if limit is None or 2 * rows > limit.rows:
            continue
        if _pays(sessions, name, usual_inputs(meta, ranges, rows), usual_inputs(meta, ranges, 2 * rows)):
            found[name] = limit
    return found


def limit_of(bundle: Bundle, graph: str) -> JoinLimit | None:
    """How much may go through a graph at once: its most rows, of the usual size; None where calls do not join."""
    meta, ranges = bundle.graph(graph), graph_ranges(bundle.manifest, graph)
    sizes = ranges.get(row_symbol(meta) or "", ONE)
    fits = joinable(graph, meta, usual_inputs(meta, ranges, 1))
    return None if fits.key is None else JoinLimit(sizes.maximum, sizes.maximum * fits.places)


def _pays(sessions: Sessions, name: str, few: dict[str, NDArray[Any]], many: dict[str, NDArray[Any]]) -> bool:
    wanted = [output.name for output in sessions.bundle.graph(name).outputs]
    sessions.warm(name)
    if _seconds(sessions, name, wanted, few) > LONG_S:
        return False
    _seconds(sessions, name, wanted, many)
    pairs = [[_seconds(sessions, name, wanted, given) for given in (few, many)] for _ in range(TIMES)]
    return min(many for _, many in pairs) < PAYS * 2 * min(few for few, _ in pairs)


def _seconds(sessions: Sessions, name: str, wanted: list[str], inputs: dict[str, NDArray[Any]]) -> float:
    begin = time.perf_counter()
    sessions.call(name, wanted, inputs)
    return time.perf_counter() - begin


def usual_inputs(meta: GraphMeta, ranges: dict[str, RangeMeta], rows: int) -> dict[str, NDArray[Any]]:
    """Random inputs of the sizes that a graph is mostly called with, and so many rows."""
    random, symbol = np.random.RandomState(0), row_symbol(meta)

    def drawn(tensor: TensorMeta) -> NDArray[Any]:
        shape = [
            size if isinstance(size, int) else rows if size == symbol else ranges.get(size, ONE).best
            for size in tensor.shape
        ]
        if tensor.name in ROW_NUMBERS:
            return np.arange(rows).astype(tensor.dtype)
        if tensor.name == "token_transfer":  # nothing is moved: the plain UNet
            return np.zeros(shape, tensor.dtype)
        numbers = random.standard_normal(shape) if tensor.dtype.startswith("float") else np.zeros(shape)
        return np.ascontiguousarray(numbers.astype(tensor.dtype))

    return {tensor.name: drawn(tensor) for tensor in meta.inputs}
