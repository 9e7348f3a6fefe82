"""docs/models.md: write the files of its examples, run its commands, compare the responses."""

import contextlib
import functools
import io
import json
import re
import runpy
import shlex
import subprocess
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from torchherd_tools import paths, serving, testing

ROOT = paths.root()
GUIDE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
SCHEMA = json.loads((ROOT / "docs" / "model.schema.json").read_text(encoding="utf-8"))
IMAGES = ROOT / "testdata" / "pictures"
SERVER = paths.torchherd()
SECONDS = 300  # timeout of a command; the machine may be busy

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    """Return the fenced blocks in a language."""
    return [text for found, text in BLOCK.findall(GUIDE) if found == language]


def named(language: str) -> dict[str, str]:
    """Return the blocks in a language whose first line is a comment of one word, by that word."""
    found = {}
    for text in blocks(language):
        first, _, rest = text.partition("\n")
        if re.fullmatch(r"# \S+", first):
            found[first[2:]] = rest
    return found


def read_yaml(text: str) -> dict[str, object]:
    """Parse a flat map whose values are numbers, words, or lists of them."""
    settings = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            key, value = line.split(": ", 1)
            if key != "inputs":
                settings[key] = read_value(value)
    return settings


def read_value(text: str) -> object:
    if text.startswith("["):
        return [read_value(each) for each in text[1:-1].split(", ") if each]
    try:
        return json.loads(text)
    except ValueError:
        return text


def run(line: str, folder: Path) -> str:
    """Run a command, which must succeed, and return its output."""
    program, *words = shlex.split(line)
    if program == "python":
        (script,) = words
        done = testing.run_script(folder / script, cwd=folder)
    else:
        assert program == "torchherd"
        done = subprocess.run(
            [SERVER, *words],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def nearest(a: int, b: int) -> int:
    """Return the integer nearest to a / b; the larger of two that are equally near."""
    return (2 * a + b) // (2 * b)


@dataclass
class Example:
    """An example of the guide, which is being served."""

    name: str
    folder: Path  # in which its commands run
    model: torch.nn.Module
    settings: dict[str, object]
    checked: str  # output of models check
    origin: str  # of the server
    target: str  # path and query of the guide's curl
    file: str  # output file of the guide's curl

    def translate(self, image: Path, target: str) -> Image.Image:
        response = serving.put(self.origin + target, image.read_bytes())
        assert response.status == 200, response.body
        return Image.open(io.BytesIO(response.body))

    def setting(self, key: str) -> object:
        return self.settings.get(key, SCHEMA["properties"][key]["default"])

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the size to which an image is resized."""
        size, most = self.setting("size"), self.setting("max-side")
        if size != "keep":
            return tuple(map(int, size.split("x")))
        longer = max(width, height)
        if not most or longer <= most:
            return width, height
        return max(1, nearest(width * most, longer)), max(1, nearest(height * most, longer))

    def padded(self, pixels: np.ndarray) -> np.ndarray:
        """Return the pixels, [H, W, 3], with their reflection up to the next multiples."""
        multiple = self.setting("multiple-of") or 1
        height, width, _ = pixels.shape
        return np.pad(pixels, ((0, -height % multiple), (0, -width % multiple), (0, 0)), "reflect")

    def tensor(self, image: Path) -> torch.Tensor:
        """Return the expected input of the model for an image."""
        im = ImageOps.exif_transpose(Image.open(image)).convert("RGB")
        resampling = Image.Resampling[self.setting("resize-filter").upper()]
        im = Image.fromarray(self.padded(np.array(im.resize(self.size(*im.size), resampling))))
        if self.setting("channels") == "gray":
            im = im.convert("L")
        pixels = torch.from_numpy(np.array(im)).float() / 255
        if self.setting("channels") == "lightness":
            pixels = torch.from_numpy(lab_of(np.array(im))[..., 0]).float() / 100
        x = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        low, high = self.setting("input-range")
        mean = torch.tensor(self.setting("mean") or [0.0])
        std = torch.tensor(self.setting("std") or [1.0])
        return ((low + x * (high - low) - mean[:, None, None]) / std[:, None, None])[None]

    def output(self, image: Path) -> torch.Tensor:
        """Return the tensor of the model's output that the settings choose, for one image."""
        with torch.inference_mode():
            y = self.model(self.tensor(image))
        return (y if isinstance(y, torch.Tensor) else y[self.settings["output"]])[0]

    def pixels(self, image: Path) -> np.ndarray:
        """Return the expected pixels for an output in a range: [H, W] or [H, W, 3]."""
        x, y = self.tensor(image), self.output(image)
        width, height = self.size(*ImageOps.exif_transpose(Image.open(image)).size)
        scale = y.shape[1] / x.shape[2]
        y = y[:, : round(scale * height), : round(scale * width)]
        low, high = self.setting("output-range")
        y = (((y - low) / (high - low)).clamp(0, 1) * 255).byte()
        return y.permute(1, 2, 0).squeeze(2).numpy()


# CIE Lab (1976) of sRGB (IEC 61966-2-1) for D65 and two degrees, with scikit-image's numbers.
XYZ_OF_RGB = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


def lab_of(rgb: np.ndarray) -> np.ndarray:
    """Convert [H, W, 3] of bytes to L, a and b."""
    v = rgb / 255
    linear = np.where(v > 0.04045, ((v + 0.055) / 1.055) ** 2.4, v / 12.92)
    xyz = linear @ XYZ_OF_RGB.T / WHITE
    x, y, z = np.moveaxis(np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def rgb_of(lab: np.ndarray) -> np.ndarray:
    """Convert L, a and b to bytes."""
    lightness, a, b = np.moveaxis(lab, -1, 0)
    y = (lightness + 16) / 116
    f = np.stack([y + a / 500, y, np.maximum(y - b / 200, 0)], axis=-1)
    xyz = np.where(f > 0.2068966, f**3, (f - 16 / 116) / 7.787) * WHITE
    linear = xyz @ np.linalg.inv(XYZ_OF_RGB).T
    curved = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    v = np.where(linear > 0.0031308, curved, linear * 12.92)
    return np.round(v.clip(0, 1) * 255).astype(np.uint8)


@contextlib.contextmanager
def serve(model: str, folder: Path) -> Iterator[str]:
    """Serve a model of the folder on a free port, and yield the server's URL."""
    addresses = ["--listen", "127.0.0.1:{port}", "--admin-listen", "off"]
    words = [str(SERVER), "serve", str(folder / model), *addresses]
    with serving.started(shlex.join(words), SECONDS) as url:
        origin = url.removesuffix("/image")
        serving.wait_until_serving(f"{origin}/readyz", b"", SECONDS, "GET")  # takes no image
        yield origin


@contextlib.contextmanager
def example(name: str, folder: Path) -> Iterator[Example]:
    """Follow the guide for an example, up to its curl."""
    for path, text in {**named("python"), **named("yaml")}.items():
        if path.startswith(f"{name}/"):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    export, check, serve_line, curl = named("sh")[name].splitlines()
    run(export, folder)
    checked = run(check, folder)
    _, option, *_, url, output, file = shlex.split(curl)
    assert option in ("-T", "-F")
    assert output == "-o"
    parts = urllib.parse.urlsplit(url)
    assert parts.netloc == "localhost:8000"

    # Run in this process, the script defines the eager model, and exports again to another folder.
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


@pytest.fixture(scope="module")
def depth(tmp_path_factory):
    with example("depth", tmp_path_factory.mktemp("depth")) as served:
        yield served


@pytest.fixture(scope="module")
def cutout(tmp_path_factory):
    with example("cutout", tmp_path_factory.mktemp("cutout")) as served:
        yield served


@pytest.fixture(scope="module")
def recolour(tmp_path_factory):
    with example("recolour", tmp_path_factory.mktemp("recolour")) as served:
        yield served


@pytest.fixture(scope="module")
def luma(tmp_path_factory):
    with example("luma", tmp_path_factory.mktemp("luma")) as served:
        yield served


@pytest.fixture(scope="module")
def inpaint(tmp_path_factory):
    with example("inpaint", tmp_path_factory.mktemp("inpaint")) as served:
        yield served


@pytest.mark.parametrize("name", ["jpeg-large.jpg", "exif-6.jpg"])
def test_inpainting(inpaint, tmp_path, name):
    mask = Image.new("L", (100, 50))
    mask.paste(255, (20, 10, 70, 40))
    mask.save(tmp_path / "mask.png")
    done = subprocess.run(
        [
            "curl",
            "-sS",
            "-F",
            f"image=@{IMAGES / name}",
            "-F",
            f"mask=@{tmp_path}/mask.png",
            inpaint.origin + inpaint.target,
            "-o",
            tmp_path / "filled.png",
        ],
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0
    have = np.array(Image.open(tmp_path / "filled.png")).astype(int)
    resized = torch.from_numpy(np.array(mask.resize((256, 256), Image.Resampling.NEAREST)))
    with torch.inference_mode():
        y = inpaint.model(inpaint.tensor(IMAGES / name), (resized >= 128).float()[None, None])[0]
    want = (y.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy().astype(int)
    assert np.abs(have - want).max() <= 1
    assert inpaint.file.endswith(".png")


def assert_same_within_a_level(served: Example, image: Path) -> None:
    """Check that the response's pixels are within one level of the expected ones, and not flat."""
    expect_within_a_level(served, image, served.pixels(image))


def expect_within_a_level(served: Example, image: Path, want: np.ndarray) -> None:
    have = np.array(served.translate(image, f"{served.target}?format=png")).astype(int)
    want = want.astype(int)
    assert have.shape == want.shape
    assert np.abs(have - want).max() <= 1
    assert len(np.unique(want)) > 100, "the response is flat, so it proves nothing"


# Images that are too large, have odd sides, are rotated, have alpha, are gray.
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("jpeg-large.jpg", (1024, 834)),
        ("jpeg-odd.jpg", (346, 262)),
        ("exif-6.jpg", (240, 160)),
        ("png-rgba.png", (240, 180)),
        ("jpeg-gray.jpg", (320, 240)),
    ],
)
def test_larger_images(superres, name, size):
    response = superres.translate(IMAGES / name, superres.target)
    assert (response.format, response.mode, response.size) == ("JPEG", "RGB", size)
    assert superres.file.endswith(".jpg")
    assert_same_within_a_level(superres, IMAGES / name)


@pytest.mark.parametrize("name", ["jpeg-420.jpg", "jpeg-gray.jpg", "png-gray.png", "exif-6.jpg"])
def test_colour(colour, name):
    response = colour.translate(IMAGES / name, colour.target)
    assert (response.format, response.mode, response.size) == ("JPEG", "RGB", (256, 192))
    assert_same_within_a_level(colour, IMAGES / name)


@pytest.mark.parametrize("name", ["jpeg-large.jpg", "jpeg-small.jpg", "exif-6.jpg", "png-rgb.png"])
def test_classes(segment, name):
    response = segment.translate(IMAGES / name, segment.target)
    assert (response.format, response.mode, response.size) == ("PNG", "P", (256, 256))
    assert segment.file.endswith(".png")
    assert response.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    assert_same_classes(segment, IMAGES / name, np.array(response))


def assert_same_classes(segment: Example, image: Path, have: np.ndarray) -> None:
    """Check that the classes are the expected ones, except where rounding decides."""
    scores = segment.output(image)
    best = scores.topk(2, dim=0).values
    certain = (best[0] - best[1] > 1e-4).numpy()
    want = scores.argmax(0).numpy()
    assert certain.mean() > 0.99
    assert (have == want)[certain].all()
    assert len(np.unique(want)) > 1, "all pixels have one class, so it proves nothing"


@pytest.mark.parametrize("name", ["jpeg-420.jpg", "exif-6.jpg", "png-rgb.png"])
def test_depth(depth, name):
    response = depth.translate(IMAGES / name, depth.target)
    assert (response.format, response.mode, response.size) == ("PNG", "L", (256, 192))
    y = depth.output(IMAGES / name).numpy()
    expect_within_a_level(depth, IMAGES / name, (y - y.min()) / (y.max() - y.min()) * 255)


def as_sent(image: Path) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(image)).convert("RGB")


@pytest.mark.parametrize(
    "name", ["jpeg-odd.jpg", "exif-6.jpg", "png-rgb.png", "webp-lossless.webp"]
)
def test_alpha(cutout, name):
    sent = as_sent(IMAGES / name)
    response = cutout.translate(IMAGES / name, cutout.target)
    assert (response.format, response.mode, response.size) == ("PNG", "RGBA", sent.size)
    mask = (cutout.output(IMAGES / name)[0].sigmoid() * 255).byte().numpy()
    alpha = Image.fromarray(mask).resize(sent.size, Image.Resampling.BILINEAR)
    sent.putalpha(alpha)
    expect_within_a_level(cutout, IMAGES / name, np.array(sent))


@pytest.mark.parametrize("name", ["jpeg-odd.jpg", "exif-6.jpg", "png-rgb.png", "png-gray.png"])
def test_chroma(recolour, name):
    sent = as_sent(IMAGES / name)
    response = recolour.translate(IMAGES / name, recolour.target)
    assert (response.format, response.mode, response.size) == ("JPEG", "RGB", sent.size)
    small = 110 * recolour.output(IMAGES / name)
    ab = torch.nn.functional.interpolate(small[None], sent.size[::-1], mode="bilinear")[0]
    lab = lab_of(np.array(sent))
    lab[..., 1:] = ab.permute(1, 2, 0).numpy()
    expect_within_a_level(recolour, IMAGES / name, rgb_of(lab))


@pytest.mark.parametrize("name", ["jpeg-large.jpg", "exif-6.jpg", "png-rgb.png"])
def test_luma(luma, name):
    sent = as_sent(IMAGES / name)
    small = sent.resize(luma.size(*sent.size), Image.Resampling.BILINEAR)
    response = luma.translate(IMAGES / name, luma.target)
    assert (response.format, response.mode) == ("JPEG", "RGB")
    y = Image.fromarray((luma.output(IMAGES / name)[0].clamp(0, 1) * 255).byte().numpy())
    _, cb, cr = small.convert("YCbCr").split()
    large = [each.resize(y.size, Image.Resampling.BICUBIC) for each in (cb, cr)]
    want = Image.merge("YCbCr", [y, *large]).convert("RGB")
    expect_within_a_level(luma, IMAGES / name, np.array(want))


def test_a_gray_image_is_rejected_without_the_setting(segment):
    gray = (IMAGES / "jpeg-gray.jpg").read_bytes()
    response = serving.put(segment.origin + segment.target, gray)
    assert (response.status, response.body.strip()) == (422, b"need rgb image")


def test_settings_inside_the_file(superres):
    run("python superres/single.py", superres.folder)
    described = run("torchherd models check superres.pt", superres.folder)
    assert "of their own size" in described
    image = IMAGES / "jpeg-odd.jpg"
    with serve("superres.pt", superres.folder) as origin:
        alone = serving.put(origin + superres.target, image.read_bytes())
    assert alone == serving.put(superres.origin + superres.target, image.read_bytes())


@pytest.mark.parametrize("line", ["versions: latest 2", "digest: sha256:" + "0" * 64])
def test_settings_that_are_rejected_inside_the_file(superres, tmp_path, line):
    module = torch.jit.load(superres.folder / "superres" / "1" / "model.pt")
    torch.jit.save(module, tmp_path / "model.pt", _extra_files={"model.yaml": line})
    done = subprocess.run(
        [str(SERVER), "models", "check", str(tmp_path / "model.pt")],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert re.search("digest and versions .* beside", done.stderr)


def test_package_as_version_2(segment):
    run("python segment/package.py", segment.folder)
    assert "segment, version 2," in run("torchherd models check segment", segment.folder)
    image = IMAGES / "jpeg-420.jpg"
    with serve("segment", segment.folder) as origin:
        response = serving.put(origin + "/image/segment/versions/2", image.read_bytes())
    assert response.status == 200, response.body
    assert_same_classes(segment, image, np.array(Image.open(io.BytesIO(response.body))))


def test_output_of_check(superres):
    def plain(text: str) -> list[str]:
        # The path of the folder, and figures of the machine, differ.
        text = re.sub(r" /\S+", " PATH", text)
        text = re.sub(r"[\d.]+m?s|[\d.]+ thread| [\d.]+ +[\d.]+$", " #", text, flags=re.MULTILINE)
        return [" ".join(line.split()) for line in text.splitlines()]

    (printed,) = blocks("text")
    assert plain(superres.checked) == plain(printed)


def test_table_has_every_key_and_its_default():
    (table,) = re.findall(r"^\| key \|.*\n(?:\|.*\n)+", GUIDE, re.MULTILINE)
    header, _, *rows = [re.split(r" *\| *", line.strip("| ")) for line in table.splitlines()]
    column = header.index("default")
    have = [(row[0].strip("`"), row[column].strip("`") or "none") for row in rows]
    want = []
    for key, of in SCHEMA["properties"].items():
        default = of.get("default", "none")
        if default == ["image"]:  # words need no quotes in YAML
            default = "[image]"
        want.append((key, default if isinstance(default, str) else json.dumps(default)))
    assert sorted(have) == sorted(want)


def test_every_model_yaml_starts_with_the_schema():
    modeline = f"# yaml-language-server: $schema={SCHEMA['$id']}"
    for text in blocks("yaml"):
        lines = text.splitlines()
        assert lines[1 if re.fullmatch(r"# \S+", lines[0]) else 0] == modeline


@functools.cache
def help_of(*verb: str) -> str:
    """Return the help of a torchherd command."""
    words = [SERVER, *verb, "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=True)
    return done.stdout


def test_every_flag_exists():
    lines = [line for text in blocks("sh") for line in text.splitlines()]
    commands = [re.sub(r".*&& ", "", line) for line in lines if "torchherd " in line]
    assert len(commands) > 6
    for line in commands:
        words = shlex.split(line)
        verb = words[1:3] if words[1] == "models" else words[1:2]
        known = help_of(*verb)
        for flag in [word for word in words if word.startswith("--")]:
            assert re.search(rf"{flag}\b", known), f"{line}: unknown flag {flag}"
