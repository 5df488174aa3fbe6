"""Files that attack: each is refused in one sentence, nothing runs, nothing is written.

The canary is a file that every payload would make. `test_the_canary_sings` shows that the payloads work where they
are let: Python's own unpickler, in a process of its own, runs them.
"""

from __future__ import annotations

import builtins
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import published
from support.importing import Import

from limner.runtime.errors import InputError


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def shell(canary: Path) -> Call:
    return Call(os.system, f"touch '{canary}'")


def evaluation(canary: Path) -> Call:
    return Call(builtins.eval, f"open({str(canary)!r}, 'w').close()")


class Nested:
    """A payload as the state of an object inside containers, run while the rest is being read."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), {"inner": [shell(self.canary)]}


def deep(canary: Path) -> Any:
    return {"g_ema": {"conv1.conv.weight": ({"x": [(1, {"y": Nested(canary)})]},)}}


PAYLOADS: dict[str, Callable[[Path], Any]] = {
    "os.system": shell,
    "builtins.eval": evaluation,
    "builtins.exec": lambda canary: Call(builtins.exec, f"open({str(canary)!r}, 'w').close()"),
    "nested": deep,
    "subprocess": lambda canary: Call(subprocess.call, ["touch", str(canary)]),
    "getattr chain": lambda canary: Call(getattr, Call(__import__, "os"), "system"),
    "open": lambda canary: Call(open, str(canary), "w"),
    "torch.load": lambda canary: Call(torch.load, str(canary)),
    "numpy.load": lambda canary: Call(np.load, str(canary)),
}


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def refused(bring: Import, tmp_path: Path, canary: Path) -> Callable[..., str]:
    """A function that imports a file, and checks that it is refused, ran nothing and wrote nothing."""

    def check(path: Path, **options: Any) -> str:
        before = set(tmp_path.rglob("*"))
        with pytest.raises(InputError) as caught:
            bring(path, **options)
        assert set(tmp_path.rglob("*")) == before
        assert not canary.exists()
        sentence = str(caught.value)
        assert "\n" not in sentence and caught.value.exit_code == 2 and caught.value.allowed
        return sentence

    return check


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", PAYLOADS)
def test_plain_pickles(name: str, protocol: int, tmp_path: Path, canary: Path, refused: Callable[..., str]) -> None:
    path = tmp_path / "stylegan2.pkl"
    path.write_bytes(pickle.dumps(PAYLOADS[name](canary), protocol=protocol))
    refused(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", PAYLOADS)
def test_torch_files(name: str, zipped: bool, tmp_path: Path, canary: Path, refused: Callable[..., str]) -> None:
    path = tmp_path / "model.pt"
    weights = {"style.1.weight": torch.ones(2, 2), "conv1.conv.weight": torch.ones(1), "x": PAYLOADS[name](canary)}
    torch.save({"g_ema": weights}, path, _use_new_zipfile_serialization=zipped)
    assert "a pickle that asks for" in refused(path)


def test_the_canary_sings(tmp_path: Path, canary: Path) -> None:
    path = tmp_path / "payload.pkl"
    for name in ("os.system", "builtins.eval", "nested", "subprocess"):
        path.write_bytes(pickle.dumps(PAYLOADS[name](canary)))
        subprocess.run([sys.executable, "-c", f"import pickle; pickle.load(open({str(path)!r}, 'rb'))"], check=True)
        assert canary.exists(), name
        canary.unlink()


def test_source_inside_a_persistent_class(tmp_path: Path, canary: Path, bring: Import) -> None:
    """NVIDIA's loader executes this text; here the weights come out and the text stays text."""
    source = f"open({str(canary)!r}, 'w').close()\nclass Generator: pass\n"
    published.write_nvidia(tmp_path / "ffhq.pkl", source=source)
    assert source.encode() in (tmp_path / "ffhq.pkl").read_bytes()
    assert bring(tmp_path / "ffhq.pkl").family == "stylegan2"
    assert not canary.exists()


def test_payload_inside_a_persistent_class(tmp_path: Path, canary: Path, refused: Callable[..., str]) -> None:
    generator: Any = published.nvidia_generator()
    generator.mapping.hook = shell(canary)
    published.write_nvidia(tmp_path / "ffhq.pkl", generator=generator)
    assert "system" in refused(tmp_path / "ffhq.pkl")


def test_payload_inside_the_bytes_of_a_tensor(tmp_path: Path, canary: Path, refused: Callable[..., str]) -> None:
    """torch.storage._load_from_bytes reads a file inside the file: the rules are the same there."""
    inner = io.BytesIO()
    torch.save(shell(canary), inner, _use_new_zipfile_serialization=False)
    call = Call(torch.storage._load_from_bytes, inner.getvalue())
    (tmp_path / "ffhq.pkl").write_bytes(pickle.dumps({"G_ema": call}))
    assert "system" in refused(tmp_path / "ffhq.pkl")


def test_code_in_a_torchscript_archive_stays_closed(tmp_path: Path, canary: Path, bring: Import) -> None:
    """Every code entry is replaced by rubbish; the weights are the same."""
    published.write_openai_clip(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(
                info.filename, f"import os; os.system('touch {canary}')" if "/code/" in info.filename else data
            )
    assert bring(tmp_path / "b.pt").family == "clip"
    assert not canary.exists()


# --- sizes ------------------------------------------------------------------------------------------------


def pickled(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


RAW = {
    "oversized memo": pickled(b"K\x01r\xff\xff\xff\x7f"),
    "oversized text": pickled(b"X\xff\xff\xff\x7fabc"),
    "oversized text of eight bytes": pickled(b"\x8d" + struct.pack("<Q", 2**62) + b"abc"),
    "negative size": pickled(b"T\xff\xff\xff\xff"),
    "oversized integer": pickled(b"\x8b" + struct.pack("<i", 2**30) + b"1"),
    "empty stack": pickled(b"0"),
    "unknown memo": pickled(b"h\x05"),
    "extension registry": pickled(b"\x82\x01"),
    "out-of-band buffer": pickled(b"\x97"),
    "instance": pickled(b"(ios\nsystem\n"),
    "call of a call": pickled(b"ccollections\nOrderedDict\n)R)R"),
    "label called": pickled(b"ctorch\nFloatStorage\n)R"),
    "key that nests": pickled(b"}" + b"(" * 1 + b")" + b"\x85" * 100_000 + b"K\x01u"),
    "endless nesting": pickled(b"]" * 200_000),
    "no end": b"\x80\x04]",
    "truncated": pickle.dumps({"g_ema": list(range(1000))}, protocol=4)[:-200],
}


@pytest.mark.parametrize("name", RAW)
def test_raw_pickles(name: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "weights.pkl").write_bytes(RAW[name])
    refused(tmp_path / "weights.pkl")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files(share: float, zipped: bool, tmp_path: Path, refused: Callable[..., str]) -> None:
    published.write_identity(tmp_path / "whole.pth", zipped=zipped)
    data = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: int(len(data) * share)])
    refused(tmp_path / "cut.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_every_damaged_byte_is_seen_or_harmless(zipped: bool, tmp_path: Path, bring: Import) -> None:
    """Single bytes changed all over a small file: an InputError, or a file that still reads; nothing else."""
    path = tmp_path / "a.pt"
    torch.save({"input_layer.0.weight": torch.ones(2), "output_layer.3.weight": torch.ones(2)}, path,
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    data = bytearray(path.read_bytes())
    for place in range(0, len(data), 7):
        changed = bytearray(data)
        changed[place] ^= 0x5A
        path.write_bytes(changed)
        with pytest.raises(InputError):  # two weights are no network
            bring(path)
    assert not (tmp_path / "set").exists()


PAGES = {
    "doctype": b"<!DOCTYPE html>\n<html><head><title>Quota exceeded</title></head></html>",
    "spaces": b"\n\n   <html>Virus scan warning</html>",
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    "empty": b"",
    "text": b"404: Not Found",
}


@pytest.mark.parametrize("name", PAGES)
def test_pages_saved_as_weights(name: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "e4e_ffhq_encode.pt").write_bytes(PAGES[name])
    sentence = refused(tmp_path / "e4e_ffhq_encode.pt")
    assert {"doctype": "web page", "spaces": "web page", "lfs": "Git LFS", "empty": "empty"}.get(
        name, "format"
    ) in sentence


# --- zip archives -----------------------------------------------------------------------------------------


def archive(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, data in entries.items():
            made.writestr(name, data)
    return path


@pytest.mark.parametrize("name", ["../evil.pkl", "/etc/evil", "archive/../../evil", "C:\\evil", "archive\\evil"])
def test_names_that_leave_the_archive(name: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    path = archive(tmp_path / "a.pt", {"archive/data.pkl": pickle.dumps({}, 2), name: b"x"})
    assert "unsafe name" in refused(path)


def test_zip_bombs(tmp_path: Path, refused: Callable[..., str]) -> None:
    """A compressed data.pkl, a compressed storage, sizes that lie, entries that share their bytes."""
    zeros = bytes(64 << 20)
    bomb = archive(tmp_path / "pickle.pt", {"archive/data.pkl": zeros}, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 100_000
    assert "compresses" in refused(bomb)
    torch.save(
        {"g_ema": {"style.1.weight": torch.zeros(16 << 20), "conv1.conv.weight": torch.ones(1)}}, tmp_path / "w.pt"
    )
    with zipfile.ZipFile(tmp_path / "w.pt") as old:
        entries = {info.filename: old.read(info) for info in old.infolist()}
    (tmp_path / "w.pt").unlink()
    small = archive(tmp_path / "storage.pt", entries, zipfile.ZIP_DEFLATED)
    assert "compresses" in refused(small)
    data = bytearray(archive(tmp_path / "lie.pt", entries).read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 20 : place + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)  # sizes in the central directory
    (tmp_path / "lie.pt").write_bytes(data)
    refused(tmp_path / "lie.pt")
    data = bytearray(archive(tmp_path / "overlap.pt", {f"archive/data/{i}": b"x" * 99 for i in range(9)}).read_bytes())
    places = [i for i in range(len(data)) if data[i : i + 4] == b"PK\x01\x02"]
    for one in places:
        data[one + 42 : one + 46] = struct.pack("<I", 0)
    (tmp_path / "overlap.pt").write_bytes(data)
    assert "overlap" in refused(tmp_path / "overlap.pt")


def storage(size: tuple[int, ...], stride: tuple[int, ...], first: int = 0) -> Any:
    return Call(
        torch._utils._rebuild_tensor_v2, torch.ones(4).untyped_storage(), first, size, stride, False, OrderedDict()
    )


VIEWS = {
    "too long": ((8,), (1,), 0),
    "too late": ((4,), (1,), 1),
    "expanded": ((10**9, 10**9), (0, 0), 0),
    "backwards": ((4,), (-1,), 3),
    "ranks differ": ((2, 2), (1,), 0),
    "beyond all memory": ((2**50,), (1,), 0),
}


@pytest.mark.parametrize("name", VIEWS)
def test_tensors_that_leave_their_storage(name: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    state = {"style.1.weight": torch.ones(2, 2), "conv1.conv.weight": storage(*VIEWS[name])}
    torch.save({"g_ema": state}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt")


def test_arrays_of_objects(tmp_path: Path, canary: Path, refused: Callable[..., str]) -> None:
    np.save(tmp_path / "fs3.npy", np.array([shell(canary)], dtype=object), allow_pickle=True)
    assert "not of numbers" in refused(tmp_path / "fs3.npy")


def test_a_pickle_of_arrays_of_objects(tmp_path: Path, canary: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "S_mean_std").write_bytes(pickle.dumps([[np.array([shell(canary)], dtype=object)], []]))
    refused(tmp_path / "S_mean_std")


# --- memory and time without end ----------------------------------------------------------------------------


def doubled(levels: int) -> bytes:
    """A pickle of a few bytes whose list holds the list before it twice, `levels` times over."""
    code = b"\x80\x02]q\x00"
    for level in range(levels):
        code += b"]q" + bytes([level + 1]) + b"(" + 2 * (b"h" + bytes([level])) + b"e"
    return code


@pytest.mark.parametrize("name", ["cnumpy\ndtype\n", "c_codecs\nencode\n", "cpathlib\nPosixPath\n",
                                  "ccollections\nOrderedDict\n", "ctorch\ndevice\n"])  # fmt: skip
def test_shared_lists_inside_each_other_are_not_written_out(name: str, tmp_path: Path, refused: Callable[..., str]
                                                            ) -> None:  # fmt: skip
    """As text they would be 2^40 letters: nothing turns what it does not know into text."""
    path = tmp_path / "shared.pkl"
    path.write_bytes(b"\x80\x02" + name.encode() + doubled(40)[2:] + b"\x85R.")
    refused(path)


def test_modules_that_share_children_are_counted(tmp_path: Path, refused: Callable[..., str]) -> None:
    """Thirty modules, each with the one before it as two children: 2^30 to walk."""

    class Module:
        pass

    def persistent(children: dict[str, Any]) -> Any:
        return {"class_name": "Generator", "state": {"_parameters": {}, "_buffers": {}, "_modules": children}}

    from limner.training.importers.files.pickles import Record, Refused
    from limner.training.importers.states import module_state, script_state

    record = Record("Leaf", persistent({})["state"])
    script = Record("Leaf", {})
    for _ in range(30):
        record = Record("Pair", persistent({"a": record, "b": record})["state"])
        script = Record("Pair", {"a": script, "b": script})
    for walk, one in ((module_state, record), (script_state, script)):
        with pytest.raises(Refused, match="modules"):
            walk(one)


def test_thousands_of_tensors_over_one_storage(tmp_path: Path, refused: Callable[..., str]) -> None:
    whole = torch.zeros(1_000_000)
    state = {f"style.{i}.weight": whole.view(1000, 1000) for i in range(1, 2000)}
    state |= {"conv1.conv.weight": whole.view(1, 1000, 1000, 1, 1), "input.input": whole.view(1, 1000, 10, 100)}
    torch.save({"g_ema": state}, tmp_path / "model.pt")
    refused(tmp_path / "model.pt")


@pytest.mark.parametrize("code", ["0f4", "0" * 200, "(2,3)f4", "2f4", "O", "V8", "f16", "M8", "U4", "f4,f4"])
def test_types_of_numpy_that_are_no_numbers(code: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    text = code.encode()
    path = tmp_path / "array.pkl"
    path.write_bytes(b"\x80\x02cnumpy\ndtype\nX" + struct.pack("<I", len(text)) + text + b"\x85R.")
    assert "array of the type" in refused(path)


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path, refused: Callable[..., str]) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    for path in (tmp_path / "pipe.pt", Path("/dev/zero"), Path("/dev/null")):
        assert "neither a file nor a folder" in refused(path)


def test_the_same_import_gives_the_same_bytes(tmp_path: Path) -> None:
    """In processes of their own, since the order of a hash table hangs on the process."""
    published.write_rosinality(tmp_path / "model.pt")
    found = set()
    for number in range(4):
        command = [sys.executable, "-m", "limner.runtime", "models", "import", str(tmp_path / "model.pt")]
        subprocess.run([*command, "--out", str(tmp_path / str(number))], check=True, capture_output=True)
        found.add((tmp_path / str(number) / "stylegan2" / "model.safetensors").read_bytes())
    assert len(found) == 1


def test_an_import_that_was_killed_between_renames_gives_the_old_one_back(tmp_path: Path, bring: Import) -> None:
    """Where the system cannot exchange two folders at once, the old one waits under a hidden name."""
    published.write_rosinality(tmp_path / "model.pt")
    bring(tmp_path / "model.pt")
    (folder,) = (path.parent for path in tmp_path.rglob("config.json") if path.parent.name == "stylegan2")
    folder.rename(folder.with_name(".stylegan2.x1.part.old"))
    with pytest.raises(InputError, match="--replace"):
        bring(tmp_path / "model.pt")
    assert (folder / "model.safetensors").is_file()
