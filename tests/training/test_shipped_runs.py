"""Every training from its YAML as shipped: it starts, logs, validates, is cut and resumes; ten losses to the bit."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from support import golden_losses
from support.shipped_runs import SIZES_AND_STEPS, SMALLER, arguments, family_of, leaves, shipped, smaller

from limner.runtime.errors import InputError
from limner.training.families import FAMILIES, family
from limner.training.loop.runner import fit, seed_all

GOLDEN = Path(golden_losses.__file__).with_suffix(".json")
COMPILED = {"stylegan2-warmup"}  # minutes of compiling: `make test-all`


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of the smaller runs, rendered once."""
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    monkeypatch.chdir(repository)  # where the YAML's checkpoints lie


class Cut(Exception):
    """Stands for a machine that stops."""


class CutAt(pl.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            raise Cut


def train(name: str, cache: Path, out: Path, resume: bool = False, cut_at: int | None = None) -> dict[str, Any]:
    """Train as shipped, smaller, and return the checkpoint's weights."""
    run = smaller(name)
    seed_all(run.trainer)
    module, data = family(family_of(name)).build(run, cache)
    fit(module, data, run.trainer, out, run, resume, callbacks=() if cut_at is None else (CutAt(cut_at),))
    return saved(out)


def saved(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(out / "last.ckpt", weights_only=True)["state_dict"]
    return found


def rows(out: Path) -> list[dict[str, str]]:
    tables = sorted((out / "csv").glob("*/metrics.csv"))
    return [row for table in tables for row in csv.DictReader(table.open())]


def test_every_family_is_tried() -> None:
    assert {family_of(name) for name in SMALLER} == set(FAMILIES)


@pytest.mark.parametrize("name", sorted(SMALLER))
def test_nothing_but_sizes_and_steps_is_changed(name: str) -> None:
    before, after = leaves(shipped(name)), leaves(smaller(name))
    assert before.keys() == after.keys()
    assert {key for key in before if before[key] != after[key]} <= SIZES_AND_STEPS
    assert not {key.rpartition(".")[2] for key in SIZES_AND_STEPS} & {
        "precision", "name", "gradient_clip", "learning_rate", "compile", "monitor", "average_decay", "warmup"
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in COMPILED else []) for name in sorted(SMALLER)]
)
def test_it_trains_and_a_cut_run_ends_as_an_uninterrupted_one(name: str, cache: Path, tmp_path: Path) -> None:
    whole = train(name, cache, tmp_path / "whole")
    with pytest.raises(Cut):
        train(name, cache, tmp_path / "cut", cut_at=2)
    torch.manual_seed(99)  # the resumed run may not lean on what the first one left behind
    resumed = train(name, cache, tmp_path / "cut", resume=True)
    assert whole.keys() == resumed.keys()
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key
    losses = [row for row in rows(tmp_path / "whole") if any(v and not k.startswith(("val", "epoch", "step"))
                                                             for k, v in row.items())]  # fmt: skip
    assert [int(row["step"]) for row in losses] == [0, 1, 2, 3]
    monitor = shipped(name).trainer.monitor
    if monitor:
        figures = [float(row[monitor]) for row in rows(tmp_path / "whole") if row.get(monitor)]
        assert len(figures) == 2 and all(map(math.isfinite, figures))
        again = [float(row[monitor]) for row in rows(tmp_path / "cut") if row.get(monitor)]
        assert again[-1] == figures[-1]
        assert (tmp_path / "whole" / "best.ckpt").is_file()
    assert not list((tmp_path / "whole").glob(".*.part"))


# Measured on AMD: autoencoder 1.8e-4, the others under 1e-4, but for the adversarial stage, whose two networks double a
# difference of rounding (6e-8 at the first step, 5.4e-5 at the third) to 3.4 % at the tenth.
ELSEWHERE = {"autoencoder": 3e-4, "stylegan2-adversarial": 0.1}


def test_ten_losses_are_the_golden_ones(tmp_path: Path, repository: Path) -> None:
    """To the bit with the golden's torch and maker of processors; elsewhere close (ELSEWHERE).

    `also`: what another of that maker's processors gives, by the same code as the first, to the bit again.
    """
    assert GOLDEN.is_file(), "python tests/support/golden_losses.py makes it"
    golden = json.loads(GOLDEN.read_text())
    assert golden["losses"].keys() == SMALLER.keys()
    halves = [sorted(SMALLER)[::2], sorted(SMALLER)[1::2]]
    program = [sys.executable, str(Path(golden_losses.__file__))]
    # caches of their own: latents that other kernels encoded would differ
    started = [subprocess.Popen([*program, str(tmp_path / half[0]), ",".join(half)], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, cwd=repository,
                                env=os.environ | golden_losses.PLAIN) for half in halves]  # fmt: skip
    for process in started:
        out, err = process.communicate(timeout=1200)
        assert process.returncode == 0, err[-3000:]
        found = json.loads(out)
        for name, losses in found["losses"].items():
            if all(found[key].partition("+")[0] == golden[key].partition("+")[0] for key in ("torch", "vendor")):
                assert losses in (golden["losses"][name], *golden["also"].get(name, ())), name
            else:
                expected, limit = golden["losses"][name], ELSEWHERE.get(name, 1e-4)
                assert losses[:3] == pytest.approx(expected[:3], rel=1e-4), name
                assert losses == pytest.approx(expected, rel=limit), name


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALLER))
def test_kill_and_resume_equal_an_uninterrupted_run(name: str, cache: Path, repository: Path, tmp_path: Path) -> None:
    """The command itself, ended by SIGKILL behind its second step."""
    limner = [sys.executable, "-m", "limner.runtime"]

    def run(out: str, step: int, *more: str) -> None:
        """Start it and kill it as soon as last.ckpt holds that step."""
        command = [*limner, *arguments(name, tmp_path / out, cache), *more]
        process = subprocess.Popen(command, cwd=repository, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        last = tmp_path / out / "last.ckpt"
        while process.poll() is None and not (last.is_file() and step_of(last) >= step):
            time.sleep(0.05)
        if process.poll() not in (None, 0):
            raise AssertionError(process.stderr and process.stderr.read()[-3000:])
        process.kill()
        process.wait(30)

    run("whole", 4)
    run("cut", 2)
    assert step_of(tmp_path / "cut" / "last.ckpt") >= 2
    run("cut", 4, "--resume")
    resumed = saved(tmp_path / "cut")
    for key, value in saved(tmp_path / "whole").items():
        assert torch.equal(resumed[key], value), key


def step_of(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True)["global_step"])


# --- what stops a run, and what it leaves -----------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run_and_the_good_checkpoint_stays(
    tmp_path: Path, cache: Path, limner: Any
) -> None:
    words = arguments("judge", tmp_path / "run", cache, "optimizer.learning_rate=1e30", "optimizer.warmup=0.0")
    ended = limner(*words)
    assert ended.code == 1
    line = ended.err.strip().splitlines()[-1]
    assert (line.startswith("error: step ") and "so it was not taken" in line) or "NaN or infinity" in line
    assert "Traceback" not in ended.err and not (tmp_path / "run" / "model").exists()
    if (tmp_path / "run" / "last.ckpt").exists():
        assert all(bool(torch.isfinite(v).all()) for v in saved(tmp_path / "run").values() if v.is_floating_point())


class PoisonAt(pl.Callback):
    """Makes one weight's gradient NaN at a step, as a broken kernel would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step == self.step:
            next(p for p in pl_module.parameters() if p.grad is not None).grad.mul_(math.nan)


def test_a_gradient_that_is_not_finite_is_not_taken(tmp_path: Path, cache: Path) -> None:
    run = smaller("judge")
    module, data = family("judge").build(run, cache)
    with pytest.raises(Exception, match=r"step 3: the gradient's norm is nan.*holds step 2, the last good one"):
        fit(module, data, run.trainer, tmp_path / "run", run, callbacks=(PoisonAt(2),))
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert all(bool(torch.isfinite(value).all()) for value in module.state_dict().values())


def test_other_settings_are_not_gone_on_with(tmp_path: Path, cache: Path) -> None:
    train("judge", cache, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    for change, field in (("optimizer.learning_rate=0.5", "optimizer.learning_rate"),
                          ("trainer.seed=1", "trainer.seed"),
                          ("model.features=32", "model.features"), ("data.train=32", "data.train")):  # fmt: skip
        run = smaller("judge", change)
        module, data = family("judge").build(run, cache)
        with pytest.raises(InputError, match=field.replace(".", r"\.")):
            fit(module, data, run.trainer, tmp_path / "run", run, resume=True)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    run = smaller("judge", "trainer.max_steps=5", "trainer.log_every=2")
    module, data = family("judge").build(run, cache)
    fit(module, data, run.trainer, tmp_path / "run", run, resume=True)
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == 5


def living(group: int) -> list[str]:
    """Processes of a group that still run, by /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(stat.parent.name)
    return found


def test_sigterm_while_pictures_render_and_while_it_trains(tmp_path: Path, repository: Path) -> None:
    """143, one word, no process and no half file left, and the step that was going is in last.ckpt."""
    words = arguments("judge", tmp_path / "run", tmp_path / "cache", "data.train=24000", "trainer.max_steps=100000",
                      "trainer.checkpoint_every=100000")  # fmt: skip
    command = [sys.executable, "-m", "limner.runtime", *words]
    for wait_for, settings in (("cache/*/*.part", []), ("run/csv/0/metrics.csv", ["--set", "data.train=24"])):
        process = subprocess.Popen([*command, *settings], cwd=repository, stderr=subprocess.PIPE, text=True,
                                   start_new_session=True)  # fmt: skip
        while process.poll() is None and not list(tmp_path.glob(wait_for)):
            time.sleep(0.05)
        time.sleep(1.0)
        process.terminate()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM, err[-2000:]
        assert err.strip().splitlines()[-1] == "terminated" and "Traceback" not in err
        time.sleep(1.0)
        assert not living(process.pid)
        assert not list(tmp_path.rglob("*.part"))
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] >= 1


class SlowAt(pl.Callback):
    """A forward pass that takes longer than a request to stop allows."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)


def test_a_step_that_is_torn_loses_no_step_before_it(tmp_path: Path, cache: Path) -> None:
    """And the run goes on as if it had not been torn."""
    from limner.runtime.storage.stopping import Stopped, stoppable

    whole = train("identity", cache, tmp_path / "whole")
    run = smaller("identity", "trainer.checkpoint_every=100")
    seed_all(run.trainer)
    module, data = family("identity").build(run, cache)
    with pytest.raises(Stopped), stoppable():
        fit(module, data, run.trainer, tmp_path / "run", run, callbacks=(SlowAt(3),))
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == 3
    resumed = train("identity", cache, tmp_path / "run", resume=True)
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())


class AskedInValidation(pl.Callback):
    """SIGTERM at the end of a validation, where the trainer itself looks for it before the next step."""

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)


ASKED = """
import sys
from pathlib import Path
from limner.runtime.storage.stopping import Stopped, stoppable
from training.test_shipped_runs import AskedInValidation, family, fit, smaller

run = smaller("identity", "trainer.checkpoint_every=100")
module, data = family("identity").build(run, Path(sys.argv[1]))
try:
    with stoppable():
        fit(module, data, run.trainer, Path(sys.argv[2]), run, callbacks=(AskedInValidation(),))
except Stopped as reason:
    print("unwound", reason.code)
"""


def test_a_request_at_the_end_of_a_validation(tmp_path: Path, cache: Path) -> None:
    """In a process of its own, as trainings are: it has the four seconds to unwind that every verb has."""
    command = [sys.executable, "-c", ASKED, str(cache), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout.splitlines()[-1:] == [f"unwound {128 + signal.SIGTERM}"], done.stderr[-2000:]
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == 2
