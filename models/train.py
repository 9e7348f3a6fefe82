#!/usr/bin/env python3
"""Train a CycleGAN on two folders of pictures, and write its generator for export.py.

RUN is the folder of one training run. It holds checkpoint.pth, from which --resume goes on as if
there had been no break; losses.csv and losses.png; samples.png; and, at the end, generator_ab.pth,
the generator that makes a B of an A. Ctrl-C and SIGTERM save a checkpoint first.

On the CPU the same pictures, recipe and number of threads give the same weights.
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

import argument_types
import export
import files
import report
from cyclegan import LOSSES, CycleGAN, Recipe, RecipeError, weights_of
from pictures import FolderError, PictureFolder

CHECKPOINT = "checkpoint.pth"
GENERATOR = "generator_ab.pth"


class TrainError(Exception):
    """The training cannot go on. The text says what happened, to what, and what to do."""


@dataclasses.dataclass(frozen=True)
class Intervals:
    """How often, in steps, a run reports its losses, writes samples and saves a checkpoint."""

    log: int = 50
    sample: int = 1000
    save: int = 1000


class Stop:
    """Whether a signal has asked the run to stop; signal is its number, 0 before."""

    def __init__(self) -> None:
        self.signal = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM inside the block. A second one has its usual effect."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def take(number: int, _: object) -> None:
            self.signal = number
            restore()

        for number in before:
            signal.signal(number, take)
        try:
            yield
        finally:
            restore()


class Training:
    """A run in its folder: steps, and what is written on the way."""

    def __init__(
        self,
        run: Path,
        gan: CycleGAN,
        a: PictureFolder,
        b: PictureFolder,
        intervals: Intervals = Intervals(),
    ) -> None:
        self.run = run
        self.gan = gan
        self.a = a
        self.b = b
        self.intervals = intervals
        self._seconds = 0.0
        # The losses since the last row of losses.csv. They stay on the device, for reading them
        # would make a GPU wait in every step.
        self._sums = torch.zeros(len(LOSSES), device=gan.device)
        self._summed = 0

    def resume(self) -> None:
        """Go on from the run's checkpoint.

        Raises TrainError when it can't be read, or is another recipe's or of other pictures.
        """
        path = self.run / CHECKPOINT
        state = read_checkpoint(path)
        for name, folder in (("A", self.a), ("B", self.b)):
            if state["pictures"][name] != folder.fingerprint():
                raise TrainError(
                    f"{path}: was trained on other pictures {name}; give the folder that it was "
                    "trained on, or begin another run"
                )
        try:
            self.gan.load_state_dict(state["gan"])
        except RecipeError as error:
            raise TrainError(
                f"{path}: {error}; give the recipe that it was begun with, or begin another run"
            ) from error
        self._seconds = state["seconds"]
        self._sums = state["sums"].to(self.gan.device)
        self._summed = state["summed"]

    def save(self) -> None:
        """Write the checkpoint, whole or not at all.

        Raises TrainError when the losses are no longer numbers: the one before stays.
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
        """Train up to a number of steps, or to the step in which stop is set; then save.

        Raises TrainError when the losses are no longer numbers, without saving.
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
        # First what must not be lost: who sent the signal may not wait for the samples.
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
                f"step {self.gan.step}: a loss is no longer a number; go on from the last "
                "checkpoint with --resume, or begin again with a lower --rate or without --amp"
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
    """What Training.save wrote, on the CPU. Raises TrainError when the file is not that.

    Runs no code from the file (weights_only).
    """
    if not path.is_file():
        raise TrainError(f"{path}: no such file; train first, with --a and --b")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # As in export.read_state: there is no closed list of what torch.load raises.
        raise TrainError(
            f"{path}: not a checkpoint ({type(error).__name__}); remove it and begin again"
        ) from error
    if not isinstance(state, Mapping) or "gan" not in state:
        raise TrainError(f"{path}: not a checkpoint of train.py; remove it and begin again")
    return state


def write_generator(run: Path, out: Path | None) -> None:
    """Write the run's A to B generator as a state dict, and, when out is given, as TorchScript.

    Raises TrainError when the run has no checkpoint, export.ExportError as export.py does.
    """
    gan = read_checkpoint(run / CHECKPOINT)["gan"]
    weights = run / GENERATOR
    files.write_whole(weights, _saved(weights_of(gan["generator_ab"])))
    print(f"{weights}: the generator from A to B, after {gan['step']} steps")
    if out is not None:
        print(export.export(export.load_generator(weights), out))


def _saved(state: object) -> bytes:
    out = io.BytesIO()
    torch.save(state, out)
    return out.getvalue()


def find_device(name: str, amp: bool) -> torch.device:
    """The device of this name. Raises TrainError when it is not there or cannot do amp."""
    if name == "cuda":
        if not torch.cuda.is_available():
            raise TrainError("no CUDA device was found; give --device cpu, or check the driver")
        if amp and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise TrainError(
                f"{torch.cuda.get_device_name()} has no bfloat16, which --amp needs; leave it out"
            )
        # All samples have one shape, so cuDNN's search for the fastest convolution pays.
        torch.backends.cudnn.benchmark = True
    return torch.device(name)


_RECIPE_HELP = {
    "steps": "training steps in all; each takes --batch pictures of A and of B",
    "decay_from": "the step at which the learning rate begins to fall; default: half of --steps",
    "seed": "seed of the weights, the samples and the replay pools",
    "ngf": "filters of a generator's first layer",
    "blocks": "ResNet blocks of a generator",
    "resize": "double sizes by repeating pixels, and pad by reflection: no checkerboard, no border",
    "ndf": "filters of a discriminator's first layer",
    "gain": "standard deviation of the first weights",
    "batch": "pictures of each folder in a step",
    "crop": "side of a sample in pixels, a multiple of 4",
    "load_size": "shorter side that pictures are scaled to; default: 143/128 of --crop",
    "jitter": "squares of crop to crop * jitter pixels are cut, and shrunk to crop",
    "cycle": "weight of the cycle losses",
    "cycle_end": "what the weight of the cycle losses falls to by --decay-from; default: --cycle",
    "identity": "weight of the identity losses, times --cycle",
    "noise": "standard deviation, in -1..1, of noise on what the discriminators see",
    "pool": "pictures in a replay pool",
    "rate": "Adam's learning rate",
    "beta1": "Adam's beta 1",
    "beta2": "Adam's beta 2",
    "amp": "mixed precision, by bfloat16",
}


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, or exit with status 2 and a usage line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  train.py run --a photos --b paintings --device cuda --amp --channels-last\n"
        "  train.py run --a photos --b paintings --ngf 16 --blocks 6 --steps 20000 --resume\n"
        "  train.py run --export model.pt    (of the checkpoint there is, without training)",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of this run")
    parser.add_argument("--a", type=Path, metavar="DIR", help="folder of the pictures A")
    parser.add_argument("--b", type=Path, metavar="DIR", help="folder of the pictures B")
    parser.add_argument(
        "--resume", action="store_true", help="go on from RUN/checkpoint.pth, if it is there"
    )
    parser.add_argument(
        "--export", type=Path, metavar="OUT.pt", help="also write the generator as TorchScript"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument(
        "--channels-last", action="store_true", help="lay pictures out as NHWC in memory"
    )
    parser.add_argument(
        "--threads",
        type=argument_types.at_least_one,
        metavar="N",
        help="CPU threads; default: PyTorch's choice",
    )
    for field in dataclasses.fields(Intervals):
        parser.add_argument(
            f"--{field.name}-every",
            type=argument_types.at_least_one,
            default=field.default,
            metavar="N",
            help="in steps; default: %(default)s",
        )
    _add_recipe(parser.add_argument_group("the recipe"))
    args = parser.parse_args(arguments)
    if (args.a is None) != (args.b is None):
        parser.error("give both --a and --b")
    if args.a is None and args.export is None:
        parser.error("give --a and --b to train, or --export to export what was trained")
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
    """The recipe of a command line. Raises RecipeError when it makes no sense."""
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


def open_folder(path: Path, recipe: Recipe, name: str) -> PictureFolder:
    """The pictures A or B. Says on stderr which were skipped. Raises FolderError."""
    folder = PictureFolder(path, recipe.cut(), recipe.seed, name)
    for line in folder.broken:
        print(f"train.py: skipped {line}", file=sys.stderr)
    print(f"{name}: {len(folder)} pictures, {len(folder.broken)} skipped", flush=True)
    return folder


def begin(args: argparse.Namespace) -> Training:
    """The run that a command line asks for, resumed where it says so.

    Raises TrainError, FolderError or RecipeError.
    """
    recipe = read_recipe(args)
    checkpoint = args.run / CHECKPOINT
    if checkpoint.exists() and not args.resume:
        raise TrainError(
            f"{checkpoint}: is there already; give --resume to go on from it, or another RUN"
        )
    device = find_device(args.device, recipe.amp)
    a, b = open_folder(args.a, recipe, "A"), open_folder(args.b, recipe, "B")
    gan = CycleGAN(recipe, device, args.channels_last)
    intervals = Intervals(args.log_every, args.sample_every, args.save_every)
    training = Training(args.run, gan, a, b, intervals)
    if checkpoint.exists():
        training.resume()
        print(f"{checkpoint}: going on from step {gan.step}", flush=True)
    return training


def train(args: argparse.Namespace) -> int:
    """Train as a command line says. Gives 0, or 128 and a signal's number when one stopped it."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    training = begin(args)
    stop = Stop()
    with stop.listening():
        training.train(training.gan.recipe.steps, stop)
    if stop.signal and training.gan.step < training.gan.recipe.steps:
        print(
            f"train.py: {signal.Signals(stop.signal).name} at step {training.gan.step}; saved. "
            "The same command with --resume goes on",
            file=sys.stderr,
        )
        return 128 + stop.signal
    return 0


def main(arguments: list[str]) -> int:
    """Run the command. Gives the exit status: 0, or 1 with one line on stderr."""
    args = parse(arguments)
    try:
        if args.a is not None and (status := train(args)) != 0:
            return status
        write_generator(args.run, args.export)
    except torch.OutOfMemoryError:
        print(
            f"train.py: the GPU ran out of memory with --batch {args.batch}, --crop {args.crop}, "
            f"--ngf {args.ngf}; make one of them smaller, or give --amp",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("train.py: SIGINT before the first step; nothing to save", file=sys.stderr)
        return 128 + signal.SIGINT
    except (TrainError, FolderError, RecipeError, export.ExportError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
