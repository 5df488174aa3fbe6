"""`make bench-size`: a UNet in Stable Diffusion 1.5's shape on this CPU, beside diffusers eager and its other rivals.

    PYTHONPATH=tests python -m benchmarks.size --width 0.5 --side 64 --rows 2

Weights are random; they change no time. Each engine is a process of its own, so that its memory is the system's figure,
and the engines take turns: every round each makes a few calls. What is compared is CPU seconds of the process, which
other work on the machine changes least. `written` is the graph with every attention map written out, as it was exported
before attention was fused; `fused` and `filtered` are what the bundle holds, run by the runtime's own sessions.
OpenVINO takes part where it is installed (`pip install openvino`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.scale_diffusion import HERE, UNET

Call = Callable[[], Any]
ENGINES = ("eager", "compiled", "written", "fused", "filtered", "cached", "openvino")
NOTES = {
    "eager": "diffusers, torch", "compiled": "diffusers, torch.compile", "openvino": "OpenVINO, static shapes",
    "written": "ONNX Runtime, attention maps written out", "fused": "ONNX Runtime, fused attention",
    "cached": "its last layers alone, deep features given",
    "filtered": "the same, and convolutions by minimal filtering",
}  # fmt: skip
TOKENS = 77
FILE = "benchmarks-size.json"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def unet_of(width: float, side: int) -> Any:
    """diffusers' UNet of that share of the channels, weights as fp16 holds them."""
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    channels = tuple(int(width * one) for one in UNET["block_out_channels"])
    unet = UNet2DConditionModel(**{**UNET, "block_out_channels": channels, "sample_size": side}).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.copy_(parameter.half().float())
    return unet.requires_grad_(False)


@app.command("write")
def write(folder: Path, width: float, side: int, memory: float) -> None:
    """Write the graphs, with one file of weights, and the parts of a bundle that sessions need."""
    import onnx_ir as ir

    from limner.export.diffusion.cached import cut
    from limner.export.diffusion.filtered import filtered
    from limner.export.diffusion.layers import choose_layers
    from limner.export.diffusion.specs import cached_graph, unet_graph
    from limner.export.onnx.attention import write_out
    from limner.export.onnx.weights import WeightFile

    folder.mkdir(parents=True, exist_ok=True)
    unet = unet_of(width, side)
    layers = choose_layers(unet)
    model = unet_graph(unet, layers).export()
    part = cut(model, [tensor.name for tensor in cached_graph(unet, layers).spec.inputs])
    weights = WeightFile(folder, "fp16")
    weights.save(model, folder / "fused.onnx")
    plain = ir.load(folder / "fused.onnx")
    write_out(plain)
    ir.save(plain, folder / "written.onnx")
    found = filtered(model, unet, memory)
    weights.save(model, folder / "filtered.onnx")
    filtered(part, unet, memory)
    weights.save(part, folder / "cached.onnx")
    print(json.dumps({"levels": found.levels, "convolutions": found.convolutions, "estimate, GB": found.gigabytes}))


def feed(width: float, side: int, rows: int) -> dict[str, np.ndarray]:
    """Inputs of a plain call: guidance rows with identity control."""
    random = np.random.RandomState(0)
    text = UNET["cross_attention_dim"]
    return {
        "sample": np.tile(random.randn(1, 4, side, side).astype(np.float32), (rows, 1, 1, 1)),
        "timestep": np.full(rows, 500, np.float32),
        "encoder_hidden_states": random.randn(rows, TOKENS, text).astype(np.float32),
        "source_index": np.arange(rows),
        "token_transfer": np.zeros((rows, TOKENS, TOKENS), np.float32),
        "token_keep": np.ones((rows, TOKENS), np.float32),
        "self_replace": np.zeros(rows, np.float32),
        "blend_words": np.zeros((rows, 1, TOKENS), np.float32),
    }


def torch_call(compiled: bool, width: float, side: int, rows: int, threads: int) -> Call:
    """diffusers' own UNet."""
    import torch

    torch.set_num_threads(threads)
    unet, given = unet_of(width, side), feed(width, side, rows)
    run: Any = torch.compile(unet) if compiled else unet
    arrays = [torch.from_numpy(given[name]) for name in ("sample", "timestep", "encoder_hidden_states")]

    def call() -> Any:
        with torch.inference_mode():
            return run(*arrays, return_dict=False)[0].numpy()

    return call


def graph_call(path: Path, width: float, side: int, rows: int, threads: int) -> Call:
    """A graph in ONNX Runtime with the runtime's own options, loaded as an earlier load left it."""
    import onnxruntime

    from limner.runtime.graphs import prepared

    def options() -> Any:
        made = onnxruntime.SessionOptions()
        made.log_severity_level, made.use_deterministic_compute = 3, True
        made.inter_op_num_threads, made.intra_op_num_threads = 1, threads
        return made

    place = path.parent / "prepared" / path.stem
    if not place.is_dir():
        place.parent.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.size", "prepare", str(path), str(place)]
        subprocess.run(command, check=True, env=os.environ | HERE)
    chosen = options()
    found = prepared.use_prepared(place, chosen, onnxruntime)
    session = onnxruntime.InferenceSession(found, chosen, providers=["CPUExecutionProvider"])
    given = feed(width, side, rows)
    if path.stem == "cached":
        deep = int(UNET["block_out_channels"][0] * width)
        drawn = np.random.RandomState(1).randn(rows, deep, side, side).astype(np.float32)
        given = {value.name: given.get(value.name, drawn) for value in session.get_inputs()}
    return lambda: session.run(["noise_pred"], given)[0]


@app.command("prepare")
def prepare_graph(path: Path, place: Path) -> None:
    """Write a slow load down, as the runtime's first load does, and say its peak memory."""
    import onnxruntime

    from limner.runtime.graphs import prepared

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.use_deterministic_compute = 3, True
    start = time.process_time()
    if not prepared.prepare(place, str(path), options, onnxruntime):
        raise typer.Exit(1)
    (place.parent / f"{place.name}.json").write_text(
        json.dumps({"seconds": time.process_time() - start, "peak": peak()})
    )


def openvino_call(path: Path, width: float, side: int, rows: int, threads: int) -> Call:
    """The written-out graph in OpenVINO, every shape fixed."""
    import openvino

    given = feed(width, side, rows)
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape({name: list(array.shape) for name, array in given.items()})
    compiled = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    return lambda: request.infer(given)[compiled.output("noise_pred")]


def peak() -> float:
    """The process's largest memory so far, GiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def anonymous() -> float:
    """What the process holds for itself alone, GiB: files that are mapped are shared with other processes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return round(int(lines["RssAnon"].split()[0]) / 2**20, 2)


@app.command("worker")
def worker(engine: str, folder: Path, width: float, side: int, rows: int, threads: int) -> None:
    """Load, say so, then make a call for every line on stdin and answer with its seconds."""
    start = time.process_time()
    if engine in ("eager", "compiled"):
        call = torch_call(engine == "compiled", width, side, rows, threads)
    elif engine == "openvino":
        call = openvino_call(folder / "written.onnx", width, side, rows, threads)
    else:
        call = graph_call(folder / f"{engine}.onnx", width, side, rows, threads)
    load = time.process_time() - start
    result = np.asarray(call())
    np.save(folder / f"{engine}.npy", result)
    print(json.dumps({"load": load}), flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        call()
        seconds = time.process_time() - start
        print(json.dumps({"seconds": seconds, "peak": peak(), "own": anonymous()}), flush=True)


@app.command("hold")
def hold(bundle: Path, method: str) -> None:
    """Load what a method needs, say the seconds, and hold it until a line comes."""
    from limner.runtime.editor import Editor

    start = time.monotonic()
    editor = Editor(bundle, threads=1)
    editor.warm(method)
    print(json.dumps({"seconds": time.monotonic() - start}), flush=True)
    sys.stdin.readline()


def share(process: int) -> float:
    """A process's memory, GiB, each mapped page shared among those that map it (PSS)."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 2**20


@app.command("processes")
def processes(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    method: Annotated[str, typer.Option(help="Whose graphs are loaded.")] = "prompt-to-prompt",
    counts: Annotated[str, typer.Option(help="Processes at once, commas between.")] = "1,2,4",
) -> None:
    """Load one bundle in several processes at once; print seconds and memory of all of them."""
    rows = []
    for count in (int(text) for text in counts.split(",")):
        command = [sys.executable, "-m", "benchmarks.size", "hold", str(bundle), method]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        held = [subprocess.Popen(command, env=os.environ | HERE, **pipes) for _ in range(count)]
        seconds = [json.loads(one.stdout.readline())["seconds"] for one in held if one.stdout is not None]
        memory = sum(share(one.pid) for one in held)
        for one in held:
            one.communicate("end\n")
        rows.append({"processes": count, "seconds": round(max(seconds), 2), "GiB in all": round(memory, 2)})
    print(json.dumps(rows, indent=1))


class Engine:
    """A process that makes calls when it is asked."""

    def __init__(self, name: str, *arguments: Any) -> None:
        command = [sys.executable, "-m", "benchmarks.size", "worker", name, *map(str, arguments)]
        self.name, self.seconds, self.memory = name, list[float](), {"peak": 0.0, "own": 0.0}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | HERE
        )
        self.load = self._answer()["load"]

    def __call__(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("call\n")
        self.process.stdin.flush()
        found = self._answer()
        self.seconds.append(found["seconds"])
        self.memory = {"peak": found["peak"], "own": found["own"]}

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        found: dict[str, float] = json.loads(self.process.stdout.readline())
        return found


def measure(
    folder: Path, engines: list[str], width: float, side: int, rows: int, threads: int, calls: int
) -> dict[str, dict[str, Any]]:
    """CPU seconds a call, memory and error of each engine, all of them alive and taking turns."""
    running = [Engine(name, folder, width, side, rows, threads) for name in engines]
    for _ in range(calls):
        for engine in running:
            engine()
    for engine in running:
        engine.close()
    wanted = np.load(folder / f"{engines[0]}.npy")
    return {
        one.name: {
            "seconds": median(one.seconds), "of all": [round(s, 3) for s in one.seconds], "load": one.load,
            "peak": one.memory["peak"], "own": one.memory["own"],
            "error": None if one.name == "cached" else distance(np.load(folder / f"{one.name}.npy"), wanted),
        }
        for one in running
    }  # fmt: skip


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    """Relative error."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def product_speed(threads: int, size: int = 2048) -> float:
    """GFLOP a CPU second of a large matrix product in ONNX Runtime's own kernels' place: numpy's."""
    a = np.random.RandomState(0).randn(size, size).astype(np.float32)
    best = 0.0
    for _ in range(5):
        start = time.process_time()
        a @ a
        best = max(best, 2 * size**3 / (time.process_time() - start) / 1e9)
    return best


def operations(width: float, side: int, rows: int) -> float:
    """GFLOP of a call with every convolution counted directly, by torch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        torch_call(False, width, side, rows, 1)()
    return counter.get_total_flops() / 1e9


def as_markdown(found: dict[str, Any]) -> str:
    """The tables."""
    lines = ["# A UNet of Stable Diffusion's shape on a CPU", ""]
    lines += [
        "`make bench-size`: CPU seconds a call, medians, the engines in turns. Memory in GiB: the peak of a",
        "process, and what it holds beside mapped files, which are shared. Errors: against the first.",
        "",
    ]
    titles = ("engine", "CPU s", "of eager", "of OpenVINO", "GFLOP/s", "load, CPU s", "peak", "own", "error")
    for run in found["runs"]:
        lines += [f"## {run['title']}", "", f"| {' | '.join(titles)} |", "|---|" + "---|" * (len(titles) - 1)]
        bases = [run["engines"].get(name, {}).get("seconds") for name in ("eager", "openvino")]
        for name, one in run["engines"].items():
            ratios = [f"{one['seconds'] / base:.2f}" if base else "-" for base in bases]
            part = one["error"] is None  # of the network
            cells = [
                NOTES[name],
                f"{one['seconds']:.2f}",
                *ratios,
                "-" if part else f"{run['gflop'] / one['seconds']:.0f}",
            ]
            cells += [
                f"{one['load']:.1f}",
                f"{one['peak']:.1f}",
                f"{one['own']:.1f}",
                "-" if part else f"{one['error']:.0e}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        speed = f"A call has {run['gflop']:.0f} GFLOP; a large matrix product reaches {run['product']:.0f} a second."
        loads = run["first loads"].items()
        firsts = [f"{name} {one['seconds']:.1f} CPU s and {one['peak']:.1f} GiB" for name, one in loads]
        first = f"The first load, which is written down: {', '.join(firsts)}."
        lines += ["", speed, f"Filtered: {run['filtered']}.", first, ""]
    return "\n".join(lines)


def merged(earlier: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """A report with the runs of an earlier one that it does not have itself, ordered by title."""
    found = {run["title"]: run for run in [*earlier["runs"], *report["runs"]]}
    return {"runs": [found[title] for title in sorted(found)]}


@app.command("run")
def main(
    width: Annotated[float, typer.Option(help="Share of Stable Diffusion 1.5's channels.")] = 0.5,
    side: Annotated[int, typer.Option(help="Latents a side: 64 is 512 pixels.")] = 64,
    rows: Annotated[int, typer.Option(help="Pictures a call; guidance makes two.")] = 2,
    threads: Annotated[str, typer.Option(help="CPU threads, commas between.")] = "1,2",
    calls: Annotated[int, typer.Option(help="Timed calls of each engine.")] = 5,
    engines: Annotated[str, typer.Option(help="Some of the engines, commas between.")] = ",".join(ENGINES),
    memory: Annotated[float, typer.Option(help="The export's --memory, GB.")] = 8.0,
    out: Annotated[Path | None, typer.Option(help="Folder of benchmarks-size.json and .md.")] = None,
) -> None:
    """Measure and print the tables."""
    chosen = [name for name in engines.split(",") if name != "openvino" or importlib.util.find_spec("openvino")]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command = [sys.executable, "-m", "benchmarks.size", "write", folder, width, side, memory]
        said = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True, env=os.environ | HERE)
        written = json.loads(said.stdout.splitlines()[-1])
        gflop, runs = operations(width, side, rows), []
        for count in (int(text) for text in threads.split(",")):
            title = f"{width:g} of the channels, {8 * side} pixels, {rows} rows, {count} thread{'s' * (count > 1)}"
            title += f", budget {memory:g} GB"
            found = measure(folder, chosen, width, side, rows, count, calls)
            filtered = f"{written['convolutions']} convolutions at levels {', '.join(map(str, written['levels']))}"
            speed = product_speed(count)
            runs.append({"title": title, "gflop": gflop, "product": speed, "filtered": filtered, "engines": found})
        first = {path.stem: json.loads(path.read_text()) for path in (folder / "prepared").glob("*.json")}
    for run in runs:
        run["first loads"] = first
    report = {"runs": runs}
    if out is not None and (out / FILE).is_file():
        report = merged(json.loads((out / FILE).read_text()), report)
    text = as_markdown(report)
    if out is not None:
        (out / FILE).write_text(json.dumps(report, indent=1) + "\n")
        (out / "benchmarks-size.md").write_text(text)
    print(text)


if __name__ == "__main__":
    app()
