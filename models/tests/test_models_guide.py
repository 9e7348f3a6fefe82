"""docs/models.md: the files of its examples are written, its commands run, its answers compared."""

import contextlib
import io
import json
import re
import runpy
import shlex
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import serving

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
SCHEMA = json.loads((ROOT / "docs" / "model.schema.json").read_text(encoding="utf-8"))
PICTURES = ROOT / "testdata" / "pictures"
SERVER = ROOT / "bin" / "torchherd"
SECONDS = 300  # for a command; the machine may be busy

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    """The fenced blocks in a language."""
    return [text for found, text in BLOCK.findall(GUIDE) if found == language]


def named(language: str) -> dict[str, str]:
    """The blocks in a language whose first line is a comment with one word, by that word."""
    found = {}
    for text in blocks(language):
        first, _, rest = text.partition("\n")
        if re.fullmatch(r"# \S+", first):
            found[first[2:]] = rest
    return found


def read_yaml(text: str) -> dict[str, object]:
    """A flat map whose values are numbers, words, or lists of them."""
    settings = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            key, value = line.split(": ", 1)
            settings[key] = read_value(value)
    return settings


def read_value(text: str) -> object:
    if text.startswith("["):
        return [read_value(each) for each in text[1:-1].split(", ") if each]
    try:
        return json.loads(text)
    except ValueError:
        return text


def command(line: str) -> list[str]:
    """A command of the guide, with this project's server and this Python."""
    words = shlex.split(line)
    programs = {"torchherd": str(SERVER), "python": sys.executable}
    return [programs[words[0]], *words[1:]]


def run(line: str, folder: Path) -> str:
    """What a command prints. It must succeed."""
    done = subprocess.run(
        command(line), cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def nearest(a: int, b: int) -> int:
    """The whole number nearest to a / b; of two that are as near, the larger."""
    return (2 * a + b) // (2 * b)


@dataclass
class Example:
    """An example of the guide that is being served."""

    name: str
    folder: Path  # where its commands run
    model: torch.nn.Module
    settings: dict[str, object]
    checked: str  # what models check printed
    origin: str  # of the server
    target: str  # path and query that the guide's curl asks
    file: str  # that it writes

    def ask(self, picture: Path, target: str) -> Image.Image:
        answer = serving.put(self.origin + target, picture.read_bytes())
        assert answer.status == 200, answer.body
        return Image.open(io.BytesIO(answer.body))

    def setting(self, key: str) -> object:
        return self.settings.get(key, SCHEMA["properties"][key]["default"])

    def size(self, width: int, height: int) -> tuple[int, int]:
        """What a picture is resized to."""
        size, multiple, most = map(self.setting, ("size", "multiple-of", "max-side"))
        if size != "keep":
            return tuple(map(int, size.split("x")))
        multiple, longer = multiple or 1, max(width, height)
        sides = []
        for side in (width, height):
            if most and longer > most:
                side = nearest(side * most, longer)
            side = max(1, nearest(side, multiple)) * multiple
            sides.append(min(side, most // multiple * multiple) if most else side)
        return tuple(sides)

    def tensor(self, picture: Path) -> torch.Tensor:
        """What the model should get of a picture."""
        im = ImageOps.exif_transpose(Image.open(picture)).convert("RGB")
        resampling = Image.Resampling[self.setting("resize-filter").upper()]
        im = im.resize(self.size(*im.size), resampling)
        if self.setting("channels") == "gray":
            im = im.convert("L")
        pixels = torch.from_numpy(np.array(im)).float() / 255
        x = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        low, high = self.setting("input-range")
        mean = torch.tensor(self.setting("mean") or [0.0])
        std = torch.tensor(self.setting("std") or [1.0])
        return ((low + x * (high - low) - mean[:, None, None]) / std[:, None, None])[None]

    def pixels(self, picture: Path) -> np.ndarray:
        """What the answer should be: [H, W] or [H, W, 3]."""
        with torch.inference_mode():
            y = self.model(self.tensor(picture))[0]
        low, high = self.setting("output-range")
        y = (((y - low) / (high - low)).clamp(0, 1) * 255).byte()
        return y.permute(1, 2, 0).squeeze(2).numpy()


@contextlib.contextmanager
def serve(model: str, folder: Path) -> Iterator[str]:
    """Serve a model that lies in the folder, on a free port. Gives the server's URL."""
    addresses = ["--listen", "127.0.0.1:{port}", "--admin-listen", "off"]
    words = [*command(f"torchherd serve {folder / model}"), *addresses]
    with serving.started(shlex.join(words), SECONDS) as url:
        serving.await_answer(url, (PICTURES / "jpeg-small.jpg").read_bytes(), SECONDS)
        yield url.removesuffix("/image")


@contextlib.contextmanager
def example(name: str, folder: Path) -> Iterator[Example]:
    """Do what the guide says of an example, up to its curl."""
    for path, text in {**named("python"), **named("yaml")}.items():
        if path.startswith(f"{name}/"):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    export, check, serve_line, curl = named("sh")[name].splitlines()
    run(export, folder)
    checked = run(check, folder)
    _, option, _, url, output, file = shlex.split(curl)
    assert (option, output) == ("-T", "-o")
    parts = urllib.parse.urlsplit(url)
    assert parts.netloc == "localhost:8000"

    # The eager model is the one that the script leaves behind; it exports once more, elsewhere.
    again = folder / "again"
    again.mkdir()
    with contextlib.chdir(again):
        model = runpy.run_path(str(folder / export.split()[1]))["model"]
    settings = read_yaml((folder / name / "model.yaml").read_text(encoding="utf-8"))
    with serve(serve_line.removeprefix("torchherd serve "), folder) as origin:
        yield Example(name, folder, model, settings, checked, origin, parts.path, file)


@pytest.fixture(scope="module")
def superres(tmp_path_factory):
    with example("superres", tmp_path_factory.mktemp("superres")) as served:
        yield served


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    with example("colour", tmp_path_factory.mktemp("colour")) as served:
        yield served


@pytest.fixture(scope="module")
def segment(tmp_path_factory):
    with example("segment", tmp_path_factory.mktemp("segment")) as served:
        yield served


def assert_same_but_a_level(served: Example, picture: Path) -> None:
    """The answer's pixels are the expected ones, or one level beside them, and a picture."""
    have = np.array(served.ask(picture, f"{served.target}?format=png")).astype(int)
    want = served.pixels(picture).astype(int)
    assert have.shape == want.shape
    assert np.abs(have - want).max() <= 1
    assert len(np.unique(want)) > 100, "the answer is flat, so it proves nothing"


# One that is too large, one with odd sides, one that is turned, one with alpha.
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("jpeg-large.jpg", (1024, 836)),
        ("jpeg-odd.jpg", (348, 264)),
        ("exif-6.jpg", (240, 160)),
        ("png-rgba.png", (240, 180)),
        ("jpeg-gray.jpg", (320, 240)),
    ],
)
def test_larger_pictures(superres, name, size):
    answer = superres.ask(PICTURES / name, superres.target)
    assert (answer.format, answer.mode, answer.size) == ("JPEG", "RGB", size)
    assert superres.file.endswith(".jpg")
    assert_same_but_a_level(superres, PICTURES / name)


@pytest.mark.parametrize("name", ["jpeg-420.jpg", "jpeg-gray.jpg", "png-gray.png", "exif-6.jpg"])
def test_colour(colour, name):
    answer = colour.ask(PICTURES / name, colour.target)
    assert (answer.format, answer.mode, answer.size) == ("JPEG", "RGB", (256, 192))
    assert_same_but_a_level(colour, PICTURES / name)


@pytest.mark.parametrize("name", ["jpeg-large.jpg", "jpeg-small.jpg", "exif-6.jpg", "png-rgb.png"])
def test_mask(segment, name):
    answer = segment.ask(PICTURES / name, segment.target)
    assert (answer.format, answer.mode, answer.size) == ("PNG", "L", (256, 256))
    assert segment.file.endswith(".png")
    assert_same_mask(segment, PICTURES / name, np.array(answer))


def assert_same_mask(segment: Example, picture: Path, have: np.ndarray) -> None:
    """The mask is the expected one, but for pixels whose class is a matter of rounding."""
    with torch.inference_mode():
        best = segment.model.net(segment.tensor(picture))["out"][0].topk(2, dim=0).values
    certain = (best[0] - best[1] > 1e-4).numpy()
    want = segment.pixels(picture)
    assert certain.mean() > 0.99
    assert (have == want)[certain].all()
    assert set(np.unique(have)) <= {0, 85, 170, 255}
    assert len(np.unique(want)) > 1, "the mask is flat, so it proves nothing"


def test_a_grey_picture_is_refused_without_the_setting(segment):
    grey = (PICTURES / "jpeg-gray.jpg").read_bytes()
    answer = serving.put(segment.origin + segment.target, grey)
    assert (answer.status, answer.body.strip()) == (422, b"need rgb image")


def test_settings_inside_the_file(superres):
    run("python superres/single.py", superres.folder)
    described = run("torchherd models check superres.pt", superres.folder)
    assert "pictures of their own size" in described
    picture = PICTURES / "jpeg-odd.jpg"
    with serve("superres.pt", superres.folder) as origin:
        alone = serving.put(origin + superres.target, picture.read_bytes())
    assert alone == serving.put(superres.origin + superres.target, picture.read_bytes())


@pytest.mark.parametrize("line", ["versions: latest 2", "digest: sha256:" + "0" * 64])
def test_what_is_refused_inside_the_file(superres, tmp_path, line):
    module = torch.jit.load(superres.folder / "superres" / "1" / "model.pt")
    torch.jit.save(module, tmp_path / "model.pt", _extra_files={"model.yaml": line})
    done = subprocess.run(
        command(f"torchherd models check {tmp_path / 'model.pt'}"),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert "digest and versions are said beside a file" in done.stderr


def test_package_as_version_2(segment):
    run("python segment/package.py", segment.folder)
    assert "segment, version 2, of" in run("torchherd models check segment", segment.folder)
    picture = PICTURES / "jpeg-420.jpg"
    with serve("segment", segment.folder) as origin:
        answer = serving.put(origin + "/image/segment/versions/2", picture.read_bytes())
    assert answer.status == 200, answer.body
    assert_same_mask(segment, picture, np.array(Image.open(io.BytesIO(answer.body))))


def test_what_check_prints(superres):
    def plain(text: str) -> list[str]:
        # Where the folder is, and what depends on the machine, are other things elsewhere.
        text = re.sub(r" of /\S+", " of PLACE", text)
        text = re.sub(r"[\d.]+m?s|[\d.]+ thread| [\d.]+ +[\d.]+$", " #", text, flags=re.MULTILINE)
        return [" ".join(line.split()) for line in text.splitlines()]

    (printed,) = blocks("text")
    assert plain(superres.checked) == plain(printed)


def test_table_has_every_key_and_its_default():
    rows = re.findall(r"^\| `([\w-]+)` \| (.+?) \| .+ \|$", GUIDE, re.MULTILINE)
    have = [(key, default.strip("`")) for key, default in rows]
    want = []
    for key, of in SCHEMA["properties"].items():
        default = of.get("default", "none")
        want.append((key, default if isinstance(default, str) else json.dumps(default)))
    assert sorted(have) == sorted(want)


def test_every_model_yaml_begins_with_the_schema():
    modeline = f"# yaml-language-server: $schema={SCHEMA['$id']}"
    for text in blocks("yaml"):
        lines = text.splitlines()
        assert lines[1 if re.fullmatch(r"# \S+", lines[0]) else 0] == modeline


def test_every_flag_is_one():
    lines = [line for text in blocks("sh") for line in text.splitlines()]
    commands = [re.sub(r".*&& ", "", line) for line in lines if "torchherd " in line]
    assert len(commands) > 6
    for line in commands:
        words = shlex.split(line)
        verb = words[1:3] if words[1] == "models" else words[1:2]
        known = subprocess.run(
            [str(SERVER), *verb, "--help"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        ).stdout
        for flag in [word for word in words if word.startswith("--")]:
            assert re.search(rf"{flag}\b", known), f"{line}: {flag} is no flag"
