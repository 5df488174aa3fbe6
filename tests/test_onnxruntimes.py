"""Other releases of ONNX Runtime that pyproject.toml allows: the same pictures by all five methods, each in a process.

`make test-onnxruntimes` installs them beside (with pip, by name). Some have other rounding: a level here and there.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from limner.runtime.bundle.shipped import checkpoints_folder

VERSIONS = ("1.21.0", "1.22.1", "1.23.2", "1.24.3", "1.25.1", "1.28.0", "1.30.0")
RUN = """
import json, sys
import numpy as np, onnxruntime
from pathlib import Path
from limner.runtime import Editor, PromptEdit, Recipe, Source
root, out = Path(sys.argv[1]), sys.argv[2]
here = Source.from_prompt("a portrait of a woman with long hair", 1)
red = PromptEdit("a portrait of a woman with long red hair", options={"blend": ["hair"]})
diffusion = Editor(root / "diffusion", threads=1)
made = [
    diffusion.edit(Recipe("sega", here, (PromptEdit("glasses"),), {"steps": 4})),
    diffusion.edit(Recipe("sega", here, (PromptEdit("glasses"),), {"steps": 4, "cache_interval": 2})),
    diffusion.edit(Recipe("prompt-to-prompt", here, (red,), {"steps": 4, "maps": True})),
]
stylegan = Editor(root / "bundle", threads=1)
for name, text, settings in (("global-directions", "a person with a beard", {}), ("latent-mapper", "beard", {}),
                             ("latent-optimization", "a person with a beard", {"steps": 2})):
    made.append(stylegan.edit(Recipe(name, Source.from_seed(3), (PromptEdit(text),), settings)))
np.save(out, np.stack([one.image for one in made]))
print(json.dumps(onnxruntime.__version__))
"""


def pictures(folder: Path, packages: Path | None = None) -> tuple[str, np.ndarray]:
    """The version that a process has, and the pictures that it makes, twice: the second load is a prepared one."""
    path = os.pathsep.join(str(one) for one in (packages, os.environ.get("PYTHONPATH")) if one)
    environment = os.environ | {"LIMNER_CACHE": str(folder / "cache"), "PYTHONPATH": path}
    command = [sys.executable, "-c", RUN, str(checkpoints_folder() / "avatars"), str(folder / "made.npy")]
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1]), np.load(folder / "made.npy")


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_same_pictures(version: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    packages = tmp_path / "packages"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages)]
    done = subprocess.run([*command, f"onnxruntime=={version}"], capture_output=True, text=True)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip(f"there is no onnxruntime {version} for this Python")
    assert done.returncode == 0, done.stderr[-1000:]
    (tmp_path / "own").mkdir()
    _, wanted = pictures(tmp_path / "own")
    found, made = pictures(tmp_path, packages)
    assert found == version
    change = np.abs(made.astype(int) - wanted)
    assert change.mean() < 0.01 and change.max() <= 8
