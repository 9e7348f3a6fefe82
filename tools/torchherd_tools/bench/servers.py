"""The rows of the comparison, servers and floors: their commands and settings.

A new row is a line in `servers` or `floors`. In commands, {port}, {model}, {seconds} and {picture}
are replaced when they run.
"""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from torchherd_tools import paths

OVERHEAD = "overhead"
COMPUTE = "compute"
REGIMES = (OVERHEAD, COMPUTE)

# The least PSNR to torchherd's responses with another server's codec and arithmetic.
LEAST_DECIBELS = 40.0
# The least PSNR with settings that change the pixels. JPEG amplifies the difference between two
# images of noise, which models with random weights produce; tests require 35 dB of the pixels.
CHANGED_DECIBELS = 30.0


@dataclass(frozen=True)
class Server:
    """A row of the comparison.

    name is the row's name for --only, and about describes it in a few words. command is run with
    environment added to the environment. Requests use method and path. distribution is the PyPI
    package whose version is shown. An isolated server runs only in its own network namespace. model
    is the kind of the model's file, a key of workload.MODELS. A thorough row also gets loads with
    hundreds of clients and an open loop. A response below least_decibels of PSNR to torchherd's
    excludes the row.
    """

    name: str
    about: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    method: str = "PUT"
    path: str = "/image"
    distribution: str = ""
    isolated: bool = False
    model: str = "torchscript"
    thorough: bool = False
    regimes: tuple[str, ...] = REGIMES
    least_decibels: float = LEAST_DECIBELS


@dataclass(frozen=True)
class Floor:
    """A row of one regime: the necessary work of every server, in a loop without a server.

    Its command prints JSON with pictures_per_second. With per_picture, it runs for each image of
    the regime.
    """

    name: str
    about: str
    command: tuple[str, ...]
    regime: str
    per_picture: bool = False


def command(name: str) -> tuple[str, ...]:
    """Return the words that run another command of this package."""
    return (sys.executable, "-m", "torchherd_tools", name)


def torchherd(name: str, about: str, *flags: str, **options: object) -> Server:
    """Return a row of torchherd, with flags of `torchherd serve`."""
    address = ("--listen", "127.0.0.1:{port}", "--admin-listen", "off", "--log-level", "error")
    words = (str(paths.torchherd()), "serve", "{model}", *flags, *address)
    return Server(name, about, words, **options)


def demo(name: str, about: str, program: str, *flags: str) -> Server:
    """Return a row of the Sanic demo, or of the reference server, which has the same flags."""
    words = (*shlex.split(program), "{model}", "--port", "{port}", *flags)
    return Server(name, about, words, distribution="sanic")


def peer(
    name: str,
    about: str,
    python: str,
    *,
    workers: int,
    threads: int = 1,
    batch: int = 4,
    wait_ms: int = 5,
    **options: object,
) -> Server:
    """Return a row of the module peers.NAME_peer, with settings for peers.settings."""
    environment = {
        "PEER_MODEL": "{model}",
        "PEER_PORT": "{port}",
        "PEER_WORKERS": str(workers),
        "PEER_THREADS": str(threads),
        "PEER_BATCH": str(batch),
        "PEER_WAIT_MS": str(wait_ms),
    }
    words = (python, "-m", f"torchherd_tools.bench.peers.{name}_peer")
    return Server(name, about, words, environment, distribution=name, **options)


def servers(cores: int, python: str, demo_program: str) -> list[Server]:
    """Return all servers; the first is the baseline.

    python runs the peers. demo_program is the command of the Sanic demo; without one the reference
    server replaces it.
    """
    name = "demo" if demo_program else "reference"
    what = "the Sanic demo" if demo_program else "the reference server, like the demo"
    program = demo_program or shlex.join(command("reference"))
    # With larger batches the demo leaves timers behind, and a timer on an empty queue stops it.
    batch = "2" if demo_program else "4"
    tuned = ("--batch", batch, "--queue", "64", "--wait", "0.005", "--threads", str(cores))
    # Batches have the default size of 2: larger ones exceed a core's cache and are no faster.
    limits = ("--max-queue-size", "1024", "--max-wait", "5ms")
    return [
        torchherd("torchherd", "torchherd", *limits, thorough=True),
        torchherd("torchherd-defaults", "torchherd with its defaults, the demo's numbers"),
        torchherd(
            "torchherd-scaled",
            "torchherd, decoding large JPEGs at a fraction of their size",
            *limits,
            "--jpeg-scale",
            regimes=(OVERHEAD,),
            least_decibels=CHANGED_DECIBELS,
        ),
        torchherd(
            "torchherd-bf16",
            "torchherd, in bfloat16",
            *limits,
            *("--precision", "bf16"),
            regimes=(COMPUTE,),
            least_decibels=CHANGED_DECIBELS,
        ),
        torchherd(
            "torchherd-pt2", "torchherd with a .pt2", *limits, model="pt2", regimes=(COMPUTE,)
        ),
        torchherd(
            "torchherd-pt2-bf16",
            "torchherd with a .pt2 in bfloat16",
            *limits,
            model="pt2-bf16",
            regimes=(COMPUTE,),
            least_decibels=CHANGED_DECIBELS,
        ),
        demo(name, f"{what}, its defaults", program),
        demo(f"{name}-tuned", f"{what}, tuned", program, *tuned),
        peer("mosec", "mosec", python, workers=cores, method="POST"),
        peer("litserve", "LitServe", python, workers=cores, method="POST"),
        # BentoML adapts its batching delay.
        peer("bentoml", "BentoML", python, workers=cores, wait_ms=0, method="POST"),
        peer("ray", "Ray Serve", python, workers=cores, isolated=True),
        peer("torchserve", "TorchServe", python, workers=cores, path="/predictions/image"),
        peer("fastapi", "FastAPI, without batches", python, workers=cores, batch=1, wait_ms=0),
    ]


def floors(cores: int) -> list[Floor]:
    """Return all floors."""
    limits = ("--threads", str(cores), "--seconds", "{seconds}")
    program = str(paths.floors())
    forward = (program, "forward", "{model}", "--batch", "2", *limits)
    return [
        Floor(
            "codec",
            "decode, resize and encode by libtorchherd, no HTTP and no model",
            (program, "codec", *limits, "{picture}"),
            OVERHEAD,
            per_picture=True,
        ),
        Floor(
            "lone",
            "one image at a time through decode, model and encode, no HTTP",
            (program, "lone", "{model}", "{picture}", "--seconds", "{seconds}"),
            OVERHEAD,
            per_picture=True,
        ),
        Floor(
            "forward",
            "LibTorch alone, TorchScript",
            (*forward, "--allocator", "system"),
            COMPUTE,
        ),
        Floor(
            "forward-kept",
            "LibTorch alone, TorchScript, glibc keeps freed memory",
            (*forward, "--allocator", "kept"),
            COMPUTE,
        ),
        Floor(
            "python-torchscript",
            "PyTorch in Python, TorchScript",
            (*command("eager"), "{model}", *limits),
            COMPUTE,
        ),
        Floor(
            "python-eager",
            "PyTorch in Python, eager",
            (*command("eager"), *limits),
            COMPUTE,
        ),
    ]


def fill(words: tuple[str, ...], values: Mapping[str, object]) -> list[str]:
    """Replace {name} in words by the values of these names."""
    return [fill_word(word, values) for word in words]


def fill_word(word: str, values: Mapping[str, object]) -> str:
    """Replace {name} in one word by the values of these names."""
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", str(value))
    return word
