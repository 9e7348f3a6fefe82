"""Train a CycleGAN on two folders of images, and write its generator for export.

RUN is the folder of one training run. It holds checkpoint.pth, from which --resume continues with
the same result as a run without a break; losses.csv and losses.png; samples.png; and, at the end,
generator_ab.pth, the generator from A to B. Ctrl-C and SIGTERM save a checkpoint before they end
the run.

On the CPU, the same images, recipe and number of threads give the same weights.
"""

import argparse
import dataclasses
import io
import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from torchherd_tools import command, files
from torchherd_tools.errors import ToolError
from torchherd_tools.models import checkpoint, export, generator
from torchherd_tools.training import report
from torchherd_tools.training.cyclegan import LOSSES, CycleGAN, Recipe, RecipeError, weights_of
from torchherd_tools.training.folders import ImageFolder

CHECKPOINT = "checkpoint.pth"
GENERATOR = "generator_ab.pth"


class TrainError(ToolError):
    """The training cannot start or continue."""


@dataclasses.dataclass(frozen=True)
class Intervals:
    """The steps between two reports of losses, two sample grids and two checkpoints."""

    log: int = 50
    sample: int = 1000
    save: int = 1000


class Stop:
    """A request to stop the run; signal is the number of the signal, 0 without one."""

    def __init__(self) -> None:
        self.signal = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM inside the block. A second signal has its default effect."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def handle(number: int, _: object) -> None:
            self.signal = number
            restore()

        for number in before:
            signal.signal(number, handle)
        try:
            yield
        finally:
            restore()


class Training:
    """A training run and the files in its folder."""

    def __init__(
        self,
        run: Path,
        gan: CycleGAN,
        a: ImageFolder,
        b: ImageFolder,
        intervals: Intervals = Intervals(),
    ) -> None:
        self.run = run
        self.gan = gan
        self.a = a
        self.b = b
        self.intervals = intervals
        self._seconds = 0.0
        # The losses since the last row of losses.csv stay on the device: reading them would
        # synchronize a GPU in every step.
        self._sums = torch.zeros(len(LOSSES), device=gan.device)
        self._summed = 0

    def resume(self) -> None:
        """Load the run's checkpoint.

        Raises TrainError if it cannot be read, or has another recipe or other images.
        """
        path = self.run / CHECKPOINT
        state = read_checkpoint(path)
        for name, folder in (("A", self.a), ("B", self.b)):
            if state["pictures"][name] != folder.fingerprint():
                raise TrainError(
                    f"{path}: was trained on other images {name}; name the folder that it was "
                    "trained on, or start another run"
                )
        try:
            self.gan.load_state_dict(state["gan"])
        except RecipeError as error:
            raise TrainError(
                f"{path}: {error}; use the recipe of the run, or start another run"
            ) from error
        self._seconds = state["seconds"]
        self._sums = state["sums"].to(self.gan.device)
        self._summed = state["summed"]

    def save(self) -> None:
        """Write the checkpoint atomically.

        Raises TrainError, and keeps the last checkpoint, if a loss is not finite.
        """
        self._check_losses()
        state = {
            "gan": self.gan.state_dict(),
            "pictures": {"A": self.a.fingerprint(), "B": self.b.fingerprint()},
            "seconds": self._seconds,
            "sums": self._sums,
            "summed": self._summed,
        }
        files.write_whole(self.run / CHECKPOINT, _saved(state))

    def train(self, until: int, stop: Stop | None = None) -> None:
        """Train up to a number of steps, or until stop is set, and save a checkpoint.

        Raises TrainError, without saving, if a loss is not finite.
        """
        log = report.LossLog(self.run / "losses.csv", self.gan.step)
        steps = self.gan.recipe.steps
        begin = time.monotonic() - self._seconds
        with report.Progress(self.gan.step, steps) as progress:
            while self.gan.step < until and not (stop and stop.signal):
                self._step()
                self._seconds = time.monotonic() - begin
                progress.advance()
                if self._due(self.intervals.log):
                    self._log(log, progress)
                if self._due(self.intervals.sample):
                    self._show(log)
                if self._due(self.intervals.save) and self.gan.step < until:
                    self.save()
            if self.gan.step == steps and self._summed:
                self._log(log, progress)
        # The checkpoint comes first: the sender of a signal may not wait for the samples.
        self.save()
        self._show(log)

    def _step(self) -> None:
        batch = self.gan.recipe.batch
        real_a = self.a.batch(self.gan.step, batch)
        real_b = self.b.batch(self.gan.step, batch)
        self._sums += self.gan.train_step(real_a, real_b)
        self._summed += 1

    def _due(self, interval: int) -> bool:
        return self.gan.step % interval == 0

    def _check_losses(self) -> None:
        if not self._sums.isfinite().all():
            raise TrainError(
                f"step {self.gan.step}: a loss is not finite; resume from the last checkpoint "
                "with --resume, or start again with a lower --rate or without --amp"
            )

    def _log(self, log: report.LossLog, progress: report.Progress) -> None:
        self._check_losses()
        means = (self._sums / self._summed).tolist()
        step = self.gan.step
        log.append(step, self._seconds, self.gan.recipe.rate_at(step - 1), means)
        self._sums.zero_()
        self._summed = 0
        progress.show(step, means)

    def _show(self, log: report.LossLog) -> None:
        report.write_plot(log.rows, self.run / "losses.png")
        report.write_samples(self.gan, self.a, self.b, self.run / "samples.png")


def read_checkpoint(path: Path) -> Mapping[str, object]:
    """Read a checkpoint that Training.save wrote, to the CPU. Raises TrainError for other files.

    No code of the file runs (weights_only).
    """
    if not path.is_file():
        raise TrainError(f"{path}: no such file; train first, with --a and --b")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load documents no list of exceptions.
        raise TrainError(
            f"{path}: not a checkpoint ({type(error).__name__}); remove it and start again"
        ) from error
    if not isinstance(state, Mapping) or "gan" not in state:
        raise TrainError(f"{path}: not a checkpoint of a run; remove it and start again")
    return state


def write_generator(run: Path, out: Path | None) -> None:
    """Write the run's generator from A to B, and as TorchScript if out is given.

    The file holds the state dict and the range of the values that the generator takes.

    Raises TrainError if the run has no checkpoint, and export.ExportError if the export fails.
    """
    gan = read_checkpoint(run / CHECKPOINT)["gan"]
    weights = run / GENERATOR
    state = {
        "state_dict": weights_of(gan["generator_ab"]),
        checkpoint.INPUT_RANGE: list(generator.BOOK_RANGE),
    }
    files.write_whole(weights, _saved(state))
    print(f"{weights}: generator from A to B after {gan['step']} steps")
    if out is not None:
        print(export.export(export.load_generator(weights), out))


def _saved(state: object) -> bytes:
    out = io.BytesIO()
    torch.save(state, out)
    return out.getvalue()


def find_device(name: str, amp: bool) -> torch.device:
    """Return the device of this name. Raises TrainError if it is missing or cannot run amp."""
    if name == "cuda":
        if not torch.cuda.is_available():
            raise TrainError("no CUDA device found; use --device cpu, or check the driver")
        if amp and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise TrainError(
                f"{torch.cuda.get_device_name()} has no bfloat16, which --amp needs; leave it out"
            )
        # All samples have one shape, so cuDNN's benchmark of convolutions runs once.
        torch.backends.cudnn.benchmark = True
    return torch.device(name)


_RECIPE_HELP = {
    "steps": "training steps in total; each takes --batch images of A and of B",
    "decay_from": "step at which the learning rate starts to fall; default: half of --steps",
    "seed": "seed of the weights, the samples and the replay pools",
    "ngf": "filters of a generator's first layer",
    "blocks": "ResNet blocks of a generator",
    "resize": "upsample by repeating pixels, and pad by reflection: no checkerboard, no border",
    "ndf": "filters of a discriminator's first layer",
    "gain": "standard deviation of the initial weights",
    "batch": "images of each folder in a step",
    "crop": "side of a sample in pixels, a multiple of 4",
    "load_size": "shorter side to which images are scaled; default: 143/128 of --crop",
    "jitter": "samples are squares of crop to crop * jitter pixels, scaled to crop",
    "cycle": "weight of the cycle losses",
    "cycle_end": "weight of the cycle losses from --decay-from on; default: --cycle",
    "identity": "weight of the identity losses, times --cycle",
    "noise": "standard deviation, in -1..1, of noise on the discriminators' input",
    "pool": "images in a replay pool",
    "rate": "Adam's learning rate",
    "beta1": "Adam's beta 1",
    "beta2": "Adam's beta 2",
    "amp": "mixed precision with bfloat16",
}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line, or exit with status 2 and a usage line."""
    parser = command.parser(
        "train",
        __doc__,
        epilog="examples:\n"
        "  train RUN --a photos --b paintings --device cuda --amp --channels-last\n"
        "  train RUN --a photos --b paintings --ngf 16 --blocks 6 --steps 20000 --resume\n"
        "  train RUN --export model.pt    (export the last checkpoint without training)",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of this run")
    parser.add_argument("--a", type=Path, metavar="DIR", help="folder of the images A")
    parser.add_argument("--b", type=Path, metavar="DIR", help="folder of the images B")
    parser.add_argument(
        "--resume", action="store_true", help="continue from RUN/checkpoint.pth if it exists"
    )
    parser.add_argument(
        "--export", type=Path, metavar="OUT.pt", help="also write the generator as TorchScript"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument(
        "--channels-last", action="store_true", help="lay images out as NHWC in memory"
    )
    parser.add_argument(
        "--threads",
        type=command.at_least_one,
        metavar="N",
        help="CPU threads; default: PyTorch's choice",
    )
    for field in dataclasses.fields(Intervals):
        parser.add_argument(
            f"--{field.name}-every",
            type=command.at_least_one,
            default=field.default,
            metavar="N",
            help="in steps; default: %(default)s",
        )
    _add_recipe(parser.add_argument_group("the recipe"))
    args = parser.parse_args(arguments)
    if (args.a is None) != (args.b is None):
        parser.error("give both --a and --b")
    if args.a is None and args.export is None:
        parser.error("give --a and --b to train, or --export to export the last checkpoint")
    return args


def _add_recipe(group: argparse._ArgumentGroup) -> None:
    for field in dataclasses.fields(Recipe):
        flag, text = "--" + field.name.replace("_", "-"), _RECIPE_HELP[field.name]
        if field.type is bool:
            group.add_argument(flag, action="store_true", help=text)
        elif "default:" in text:
            group.add_argument(flag, type=field.type, metavar="N", help=text)
        else:
            group.add_argument(
                flag,
                type=field.type,
                default=field.default,
                metavar="N",
                help=f"{text}; default: %(default)s",
            )


def read_recipe(args: argparse.Namespace) -> Recipe:
    """Return the recipe of a command line. Raises RecipeError for an invalid setting."""
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Recipe)}
    if given["decay_from"] is None:
        given["decay_from"] = args.steps // 2
    if given["cycle_end"] is None:
        given["cycle_end"] = args.cycle
    if given["load_size"] is None:
        given["load_size"] = math.ceil(args.crop * 143 / 128)
    recipe = Recipe(**given)
    recipe.validate()
    return recipe


def open_folder(path: Path, recipe: Recipe, name: str) -> ImageFolder:
    """Read the images A or B, and print the skipped ones to stderr. Raises FolderError."""
    folder = ImageFolder(path, recipe.cut(), recipe.seed, name)
    for line in folder.broken:
        print(f"train: skipped {line}", file=sys.stderr)
    print(f"{name}: {len(folder)} images, {len(folder.broken)} skipped", flush=True)
    return folder


def begin(args: argparse.Namespace) -> Training:
    """Start or resume the run of a command line.

    Raises TrainError, FolderError or RecipeError.
    """
    recipe = read_recipe(args)
    saved = args.run / CHECKPOINT
    if saved.exists() and not args.resume:
        raise TrainError(
            f"{saved}: exists already; give --resume to continue from it, or another RUN"
        )
    device = find_device(args.device, recipe.amp)
    a, b = open_folder(args.a, recipe, "A"), open_folder(args.b, recipe, "B")
    gan = CycleGAN(recipe, device, args.channels_last)
    intervals = Intervals(args.log_every, args.sample_every, args.save_every)
    training = Training(args.run, gan, a, b, intervals)
    if saved.exists():
        training.resume()
        print(f"{saved}: resuming from step {gan.step}", flush=True)
    return training


def train(args: argparse.Namespace) -> int:
    """Train by a command line. Return 0, or 128 plus the number of the signal that stopped it."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    training = begin(args)
    stop = Stop()
    with stop.listening():
        training.train(training.gan.recipe.steps, stop)
    if stop.signal and training.gan.step < training.gan.recipe.steps:
        print(
            f"train: {signal.Signals(stop.signal).name} at step {training.gan.step}; saved a "
            "checkpoint; the same command with --resume continues",
            file=sys.stderr,
        )
        return 128 + stop.signal
    return 0


def main(arguments: list[str]) -> int:
    """Run the command, and return its exit status: 0, or 1 with one line on stderr."""
    args = parse(arguments)
    try:
        if args.a is not None and (status := train(args)) != 0:
            return status
        write_generator(args.run, args.export)
    except torch.OutOfMemoryError:
        print(
            f"train: the GPU ran out of memory with --batch {args.batch}, --crop {args.crop}, "
            f"--ngf {args.ngf}; make one of them smaller, or give --amp",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("train: SIGINT before the first step; nothing to save", file=sys.stderr)
        return 128 + signal.SIGINT
    except (ToolError, OSError) as error:
        return command.failed("train", error)
    return 0
