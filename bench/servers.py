"""The servers that are compared, and the floors: what is run, and with which settings.

A new row is a line in `servers` or `floors`. In commands, {port}, {model}, {seconds} and {picture}
are filled in when they are run.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCHHERD = str(ROOT / "bin" / "torchherd")
FLOORS = str(ROOT / "build" / "csrc" / "floors")
EAGER = str(ROOT / "bench" / "eager.py")
REFERENCE = f"{sys.executable} {ROOT / 'bench' / 'reference.py'}"
PEERS = ROOT / "bench" / "peers"

OVERHEAD = "overhead"
COMPUTE = "compute"
REGIMES = (OVERHEAD, COMPUTE)

# Answers of another server's codec and arithmetic are this near torchherd's, or nearer.
LEAST_DECIBELS = 40.0
# Those of a server that was told to change the pixels a little. The answers are JPEGs, which lose
# more of the difference between two pictures of noise, as models with random weights make them;
# tests hold the pixels themselves to 35 dB.
CHANGED_DECIBELS = 30.0


@dataclass(frozen=True)
class Server:
    """One row of the comparison.

    name is what --only takes. about says in a few words what it is. command has its words, and
    environment what is added to the environment. It is asked by method at path. distribution is
    the PyPI package whose version is shown. isolated says that it may run only in a network of its
    own. model is the kind of file that it gets, a key of workload.MODELS. thorough says that it is
    asked by hundreds of clients as well, and in an open loop. An answer that is less than
    least_decibels near torchherd's own shuts it out.
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
    """What a server cannot do without, alone, in a loop: a row of one regime.

    Its command prints JSON with pictures_per_second. A floor that is per_picture runs for each
    picture of the regime.
    """

    name: str
    about: str
    command: tuple[str, ...]
    regime: str
    per_picture: bool = False


def torchherd(name: str, about: str, *flags: str, **options: object) -> Server:
    """A row of torchherd itself, with flags of `torchherd serve`."""
    address = ("--listen", "127.0.0.1:{port}", "--admin-listen", "off", "--log-level", "error")
    command = (TORCHHERD, "serve", "{model}", *flags, *address)
    return Server(name, about, command, **options)


def demo(name: str, about: str, program: str, *flags: str) -> Server:
    """A row of the Sanic demo, or of the reference server, which takes the same flags."""
    command = (*program.split(), "{model}", "--port", "{port}", *flags)
    return Server(name, about, command, distribution="sanic")


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
    """A row of bench/peers: NAME_peer.py, with the settings that bench/peers/settings.py reads."""
    environment = {
        "PEER_MODEL": "{model}",
        "PEER_PORT": "{port}",
        "PEER_WORKERS": str(workers),
        "PEER_THREADS": str(threads),
        "PEER_BATCH": str(batch),
        "PEER_WAIT_MS": str(wait_ms),
    }
    command = (python, str(PEERS / f"{name}_peer.py"))
    return Server(name, about, command, environment, distribution=name, **options)


def servers(cores: int, python: str, demo_program: str) -> list[Server]:
    """All rows that are servers; the first is the yardstick.

    python runs the peers. demo_program is the Sanic demo's command; without one the project's own
    reference server stands for it.
    """
    stand_in = "demo" if demo_program else "reference"
    what = "the Sanic demo" if demo_program else "the reference server, in the demo's manner"
    program = demo_program or REFERENCE
    # In larger batches the demo leaves timers behind, and one that finds the queue empty ends it.
    batch = "2" if demo_program else "4"
    tuned = ("--batch", batch, "--queue", "64", "--wait", "0.005", "--threads", str(cores))
    # Batches of 2, the default: larger ones fall out of a core's cache and gain nothing here.
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
        demo(stand_in, f"{what}, its defaults", program),
        demo(f"{stand_in}-tuned", f"{what}, tuned", program, *tuned),
        peer("mosec", "mosec", python, workers=cores, method="POST"),
        peer("litserve", "LitServe", python, workers=cores, method="POST"),
        # It finds out itself how long to wait.
        peer("bentoml", "BentoML", python, workers=cores, wait_ms=0, method="POST"),
        peer("ray", "Ray Serve", python, workers=cores, isolated=True),
        peer("torchserve", "TorchServe", python, workers=cores, path="/predictions/image"),
        peer("fastapi", "FastAPI, without batches", python, workers=cores, batch=1, wait_ms=0),
    ]


def floors(cores: int) -> list[Floor]:
    """All rows that are floors."""
    limits = ("--threads", str(cores), "--seconds", "{seconds}")
    forward = (FLOORS, "forward", "{model}", "--batch", "2", *limits)
    return [
        Floor(
            "codec",
            "decode, resize and encode by libtorchherd, no HTTP and no model",
            (FLOORS, "codec", *limits, "{picture}"),
            OVERHEAD,
            per_picture=True,
        ),
        Floor(
            "lone",
            "one picture at a time through decode, model and encode, no HTTP",
            (FLOORS, "lone", "{model}", "{picture}", "--seconds", "{seconds}"),
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
            "LibTorch alone, TorchScript, glibc told to keep freed memory",
            (*forward, "--allocator", "kept"),
            COMPUTE,
        ),
        Floor(
            "python-torchscript",
            "PyTorch in Python, TorchScript",
            (sys.executable, EAGER, "{model}", *limits),
            COMPUTE,
        ),
        Floor(
            "python-eager",
            "PyTorch in Python, eager",
            (sys.executable, EAGER, *limits),
            COMPUTE,
        ),
    ]


def fill(words: tuple[str, ...], values: Mapping[str, object]) -> list[str]:
    """The words with {name} replaced by the values of these names."""
    return [fill_word(word, values) for word in words]


def fill_word(word: str, values: Mapping[str, object]) -> str:
    """One word, likewise."""
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", str(value))
    return word
