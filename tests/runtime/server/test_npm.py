"""OpenAI's client for JavaScript, as npm has it: every image endpoint, and the page on serving as it is printed."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from support.server import SHIPPED, Server

from limner.runtime import Editor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="there is no node"),
]
PAGE = (Path(__file__).resolve().parents[3] / "docs" / "serving.md").read_text()
EVERYTHING = """
import { createReadStream } from "node:fs";
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "any", maxRetries: 0 });
const image = () => createReadStream("me.png");
const found = {};
found.models = (await client.models.list()).data.map((one) => one.id);
found.model = (await client.models.retrieve("avatars:sega".replace("avatars", "avatars-diffusion"))).id;
const one = await client.images.edit({ model: "global-directions", image: image(), prompt: "a person with a beard" });
found.edit = [one.data.length, one.output_format, one.data[0].b64_json.length > 1000];
const two = await client.images.edit({ model: "sega", image: image(), prompt: "glasses", n: 2, quality: "low",
  output_format: "webp" });
found.two = [two.data.length, two.output_format];
const made = await client.images.generate({ model: "avatars-diffusion", prompt: "a portrait", quality: "low" });
found.made = made.data.length;
found.events = [];
for await (const event of await client.images.generate({ prompt: "a portrait", stream: true, partial_images: 2 }))
  found.events.push(event.type);
for await (const event of await client.images.edit({ model: "latent-optimization", image: image(), stream: true,
  prompt: "a person with a beard", partial_images: 1, quality: "low" })) found.events.push(event.type);
try {
  await client.images.edit({ model: "segaa", image: image(), prompt: "glasses" });
} catch (error) {
  found.error = [error.constructor.name, error.status, error.param, error.code];
}
console.log(JSON.stringify(found));
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client and a picture."""
    root = tmp_path_factory.mktemp("npm")
    (root / "package.json").write_text('{"type": "module", "private": true}')
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", "openai"], cwd=root, check=True, capture_output=True)
    Image.fromarray(Editor(SHIPPED / "bundle", threads=1).sample(5).image).save(root / "me.png")
    return root


def run(folder: Path, code: str, *arguments: str) -> str:
    (folder / "script.js").write_text(code)
    done = subprocess.run(["node", "script.js", *arguments], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_endpoint(folder: Path, server: Server) -> None:
    found = json.loads(run(folder, EVERYTHING, server.url))
    assert "avatars:global-directions" in found["models"] and found["model"] == "avatars-diffusion:sega"
    assert found["edit"] == [1, "png", True] and found["two"] == [2, "webp"] and found["made"] == 1
    assert found["events"] == ["image_generation.partial_image"] * 2 + ["image_generation.completed",
                               "image_edit.partial_image", "image_edit.completed"]  # fmt: skip
    assert found["error"] == ["NotFoundError", 404, "model", "model_not_found"]


def test_the_page(folder: Path, server: Server) -> None:
    code = re.findall(r"^```js\n(.*?)^```", PAGE, re.M | re.S)[0].replace("http://localhost:8080", server.url)
    run(folder, code + '\nif (!edit.image || edit.model !== "avatars:global-directions") throw edit;')
    with Image.open(folder / "glasses.png") as opened:
        assert opened.size == (128, 128)
