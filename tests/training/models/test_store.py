"""Checkpoint folders: round trip, precision, errors that name what does not fit, configs from plain values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import torch

from limner.runtime.errors import InputError, LimnerError
from limner.training.config import from_mapping, override, read_yaml, to_plain
from limner.training.models.judge import Judge, JudgeConfig
from limner.training.models.store import load_model, load_state, read_tensors, save_model

CONFIG = JudgeConfig((("hair", ("bald", "long")),), 16, 2, (16, 16), (1,), 8)


def saved(folder: Path) -> Judge:
    torch.manual_seed(0)
    judge = Judge(CONFIG)
    save_model(folder, "judge", CONFIG, judge.state_dict(), "# Card\n")
    return judge


def test_round_trip_is_exact_up_to_fp16(tmp_path: Path) -> None:
    judge = saved(tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, Judge) and loaded.config == CONFIG and not loaded.training
    for key, value in judge.state_dict().items():
        expected = value.half().float() if value.is_floating_point() else value
        assert torch.equal(loaded.state_dict()[key], expected), key
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert json.loads((tmp_path / "config.json").read_text())["family"] == "judge"
    assert not any(p.requires_grad for p in loaded.parameters())


def test_what_fp16_cannot_hold_stays_fp32(tmp_path: Path) -> None:
    state = Judge(CONFIG).state_dict()
    state["neck.bias"] = torch.full((8,), 1e6)
    save_model(tmp_path, "judge", CONFIG, state)
    assert read_tensors(tmp_path / "model.safetensors")["neck.bias"][0] == 1e6


def test_keys_that_do_not_fit_are_listed() -> None:
    judge = Judge(CONFIG)
    state = judge.state_dict()
    state["neck.bias"] = torch.zeros(3)
    state |= {f"extra{i}": torch.zeros(1) for i in range(12)}
    del state["neck.weight"]
    with pytest.raises(LimnerError) as caught:
        load_state(judge, state)
    text = str(caught.value)
    assert "1 missing: neck.weight" in text and "1 mismatched: neck.bias (3,) for (8,)" in text
    assert "12 unexpected" in text and "extra9 ..." in text and "extra10" not in text


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.json", "{"), ("config.json", '{"family": "judge"}'), ("config.json", '{"family": "x", "config": {}}'),
     ("model.safetensors", "no tensors")],
)  # fmt: skip
def test_broken_folders_are_refused(tmp_path: Path, name: str, content: str) -> None:
    saved(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError):
        load_model(tmp_path)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="checkpoint"):
        load_model(tmp_path / "nothing")


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    rate: float
    inner: Inner = field(default_factory=Inner)
    pair: tuple[float, str] = (1.0, "x")
    maybe: int | None = None


def test_config_from_plain_values() -> None:
    found = from_mapping(Outer, {"rate": 1, "inner": {"sizes": [3], "kind": "b"}, "pair": [2, "y"], "maybe": 4})
    assert found == Outer(1.0, Inner((3,), "b"), (2.0, "y"), 4) and isinstance(found.rate, float)
    assert from_mapping(Outer, to_plain(found)) == found


@pytest.mark.parametrize(
    ("values", "field_name"),
    [({"rate": 1.0, "inner": {"size": [1]}}, "config.inner.size"), ({}, "config.rate"), ({"rate": "1"}, "config.rate"),
     ({"rate": True}, "config.rate"), ({"rate": 1.0, "inner": {"kind": "c"}}, "config.inner.kind"),
     ({"rate": 1.0, "pair": [1]}, "config.pair"), ({"rate": 1.0, "inner": 3}, "config.inner"),
     ({"rate": 1.0, "inner": {"sizes": ["1"]}}, r"config.inner.sizes\[0\]"),
     ({"rate": 1.0, "maybe": "x"}, "config.maybe")],
)  # fmt: skip
def test_config_refuses(values: dict[str, object], field_name: str) -> None:
    with pytest.raises(InputError, match=field_name):
        from_mapping(Outer, values)


def test_overrides() -> None:
    values = override({"a": {"b": 1}}, ["a.b=2", "a.c=1e-3", "d=[1, 2]", "e.f=text"])
    assert values == {"a": {"b": 2, "c": 0.001}, "d": [1, 2], "e": {"f": "text"}}
    for wrong in ("a", "=1", "a.b.c=1"):
        with pytest.raises(InputError, match="--set"):
            override({"a": {"b": 1}}, [wrong])


def test_yaml_that_does_not_read(tmp_path: Path) -> None:
    for content in ("- 1", "a: [", ""):
        (tmp_path / "x.yaml").write_text(content)
        with pytest.raises(InputError, match="config"):
            read_yaml(tmp_path / "x.yaml")
    with pytest.raises(InputError, match="config"):
        read_yaml(tmp_path / "none.yaml")
