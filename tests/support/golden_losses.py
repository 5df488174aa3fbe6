"""Ten losses of every family, as a program: it prints them as JSON.

Run as the test does, with the instructions that every x86-64 processor has and one thread, the numbers repeat to the
bit with the same versions (tried with OpenBLAS's kernels for other processors too); on another maker's they are
close. The
networks are those of the shipped YAML, in fp32: bf16 is slow with such instructions. torch.compile is off, since what
it makes depends on the machine.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

PLAIN = {  # environment: the same kernels on every machine
    "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
}  # fmt: skip
STEPS = 10


def vendor() -> str:
    """Who made the processor, as Linux says it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def losses(name: str, cache: Path) -> list[float]:
    import pytorch_lightning as pl

    from limner.training.families import family
    from limner.training.loop.runner import fit, seed_all
    from support.shipped_runs import family_of, smaller

    found: list[float] = []

    class Collect(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if outputs is None or not outputs:  # manual optimization logs its losses
                logged = trainer.callback_metrics
                found.append(float(logged["g_loss"] + logged["d_loss"]))
            else:
                found.append(float(outputs["loss"]))

    more = ["trainer.checkpoint_every=100", "trainer.validate_every=100", f"trainer.max_steps={STEPS}",
            "trainer.batch_size=2", "trainer.precision=32-true", "trainer.monitor=''"]  # fmt: skip
    more += ["compile=false"] if name.startswith("stylegan2") else []
    run = smaller(name, *more, "trainer.loggers=[csv]", "trainer.accelerator=cpu")
    seed_all(run.trainer)
    module, data = family(family_of(name)).build(run, cache)
    with tempfile.TemporaryDirectory() as out:
        fit(module, data, run.trainer, out, run, callbacks=(Collect(),))
    return found


def main(names: list[str], cache: Path) -> None:
    import torch

    from limner.training.loop.runner import quiet

    quiet()
    torch.set_num_threads(1)
    made_by = {"torch": torch.__version__, "vendor": vendor()}
    print(json.dumps({**made_by, "losses": {name: losses(name, cache) for name in names}}))


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1])]
    main(sys.argv[2].split(","), Path(sys.argv[1]))
