"""CycleGAN's training step: four networks, their losses, two optimizers and two replay pools.

The recipe is that of Zhu et al. (2017), sections 4 and 7.1. Comments name the choices that it
leaves open.

Images here are in -1..1, the range of the generators' output and the discriminators' input. The
generators take 0..255, like the module that is served (generator.ScaledGenerator), so that the
trained network is the exported one: `translate` always converts before the first layer. The
instance norm after that layer cancels the factor.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchherd_tools.errors import ToolError
from torchherd_tools.models import generator
from torchherd_tools.models.generator import Generator
from torchherd_tools.training import discriminator
from torchherd_tools.training.discriminator import PatchDiscriminator
from torchherd_tools.training.folders import Cut, stream, stream_seed

LOSSES = (
    "adversarial_ab",
    "adversarial_ba",
    "cycle_a",
    "cycle_b",
    "identity_a",
    "identity_b",
    "discriminator_a",
    "discriminator_b",
)


# The settings that may change when a run is resumed.
SCHEDULE = ("steps", "decay_from", "cycle", "cycle_end")


class RecipeError(ToolError):
    """A recipe has an invalid setting."""


@dataclass(frozen=True)
class Recipe:
    """The settings that, with the images, determine the weights. The defaults are the published.

    ngf, blocks, resize (generator.Layout) and ndf shape the networks; gain is the standard
    deviation of their initial weights. batch, crop, load_size and jitter (folders.Cut) make the
    samples: the published 286 and 256 are 143 and 128 here, so that a CPU can train. jitter, which
    is not published, varies the scale; 1 turns it off.

    cycle is the weight of the cycle losses; identity, times cycle, that of the identity losses. The
    weight changes linearly from cycle to cycle_end until step decay_from; the published weight is
    constant. Early in training the generators must restore even what a B cannot hold of an A, so
    that they agree; later they may lose it, as Wang and Lin propose ("CycleGAN with Better Cycles",
    2018).

    noise is the standard deviation of noise, in -1..1, that is added to every image that a
    discriminator gets; 0, as published, adds none. If all of B has a property that no generator
    matches exactly, such as the one white of smooth paper, a discriminator without noise soon
    separates all images and its gradient vanishes (Arjovsky and Bottou, "Towards Principled Methods
    for Training GANs", 2017).

    Adam's rate is `rate` until step decay_from, then falls linearly to 0 at `steps`. amp is mixed
    precision in bfloat16, whose range needs no scaling of the losses.
    """

    steps: int = 200_000
    decay_from: int = 100_000
    seed: int = 0
    ngf: int = generator.PUBLISHED_NGF
    blocks: int = generator.PUBLISHED_BLOCKS
    resize: bool = False
    ndf: int = discriminator.PUBLISHED_NDF
    gain: float = generator.PUBLISHED_GAIN
    batch: int = 1
    crop: int = 128
    load_size: int = 143
    jitter: float = 1.1
    cycle: float = 10.0
    cycle_end: float = 10.0
    identity: float = 0.5
    noise: float = 0.0
    pool: int = 50
    rate: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    amp: bool = False

    def validate(self) -> None:
        """Raise RecipeError for the first invalid setting."""
        smallest = discriminator.SMALLEST_IMAGE
        rules = (
            (self.steps >= 1, f"steps is {self.steps}, want at least 1"),
            (
                0 <= self.decay_from <= self.steps,
                f"decay_from is {self.decay_from}, want 0..{self.steps}, the number of steps",
            ),
            *((getattr(self, name) >= 1, f"{name} is below 1") for name in ("ngf", "ndf", "batch")),
            *((getattr(self, name) >= 0, f"{name} is below 0") for name in ("blocks", "pool")),
            *(
                (getattr(self, name) >= 0, f"{name} is below 0")
                for name in ("cycle", "cycle_end", "identity", "noise")
            ),
            (
                self.crop >= smallest and self.crop % 4 == 0,
                f"crop is {self.crop}, want a multiple of 4 and at least {smallest}",
            ),
            (
                self.load_size >= self.crop,
                f"load_size is {self.load_size}, want at least the crop, {self.crop}",
            ),
            (self.jitter >= 1, f"jitter is {self.jitter}, want at least 1"),
            (self.rate > 0, f"rate is {self.rate}, want above 0"),
        )
        for holds, message in rules:
            if not holds:
                raise RecipeError(message)

    def cut(self) -> Cut:
        """Return how samples are cropped."""
        return Cut(self.crop, self.load_size, self.jitter)

    def rate_at(self, step: int) -> float:
        """Return Adam's rate in a step; the first step is 0."""
        if step < self.decay_from:
            return self.rate
        return self.rate * (self.steps - step) / (self.steps - self.decay_from)

    def cycle_at(self, step: int) -> float:
        """Return the weight of the cycle losses in a step; the first step is 0."""
        done = min(step / self.decay_from, 1) if self.decay_from else 1
        return self.cycle + done * (self.cycle_end - self.cycle)


class ReplayPool:
    """A pool of generated images, so that a discriminator also gets older ones.

    Until the pool holds `size` images, it stores and returns each image. From then on, with
    probability one half, it returns a stored image and stores the new one in its place (section 4
    of the paper, after Shrivastava et al., 2017). A pool of size 0 returns its input.
    """

    def __init__(self, size: int, source: torch.Generator) -> None:
        self.size = size
        self._source = source
        self._held: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._held)

    def exchange(self, fresh: Tensor) -> Tensor:
        """Return images for the discriminator in exchange for new ones, both [N, 3, H, W]."""
        if self.size == 0:
            return fresh
        return torch.stack([self._exchange_one(image) for image in fresh])

    def _exchange_one(self, fresh: Tensor) -> Tensor:
        if len(self._held) < self.size:
            self._held.append(fresh.clone())
            return fresh
        if torch.rand((), generator=self._source) < 0.5:
            return fresh
        place = int(torch.randint(self.size, (), generator=self._source))
        old, self._held[place] = self._held[place], fresh.clone()
        return old

    def state_dict(self) -> dict[str, object]:
        """Return the state for a checkpoint: the images and the random generator's state."""
        return {"held": list(self._held), "source": self._source.get_state()}

    def load_state_dict(self, state: Mapping[str, object], device: torch.device) -> None:
        """Restore the state that state_dict returned."""
        self._held = [image.to(device) for image in state["held"]]
        self._source.set_state(state["source"].cpu())


class CycleGAN:
    """The networks of a recipe, with their optimizers and replay pools.

    generator_ab translates an A to a B; discriminator_b separates real Bs from generated ones. step
    counts the training steps.
    """

    def __init__(self, recipe: Recipe, device: torch.device, channels_last: bool = False) -> None:
        recipe.validate()
        self.recipe = recipe
        self.device = device
        self.step = 0
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self.generator_ab = self._place(_new_generator(recipe, "ab"))
        self.generator_ba = self._place(_new_generator(recipe, "ba"))
        self.discriminator_a = self._place(_new_discriminator(recipe, "a"))
        self.discriminator_b = self._place(_new_discriminator(recipe, "b"))
        self._generators = _adam(recipe, self.generator_ab, self.generator_ba)
        self._discriminators = _adam(recipe, self.discriminator_a, self.discriminator_b)
        self._pool_a = ReplayPool(recipe.pool, stream(recipe.seed, "pool a"))
        self._pool_b = ReplayPool(recipe.pool, stream(recipe.seed, "pool b"))

    def train_step(self, real_a: Tensor, real_b: Tensor) -> Tensor:
        """Train all four networks once on real images, [N, 3, crop, crop] in -1..1.

        Returns the losses in the order of LOSSES, float [8], on the device. The cycle and identity
        losses are without their weights, as mean differences in -1..1.
        """
        real_a, real_b = self._send(real_a), self._send(real_b)
        self._set_rate(self.recipe.rate_at(self.step))
        generator_losses, fake_a, fake_b = self._train_generators(real_a, real_b)
        discriminator_losses = self._train_discriminators(
            (self.discriminator_a, real_a, self._send(self._pool_a.exchange(fake_a))),
            (self.discriminator_b, real_b, self._send(self._pool_b.exchange(fake_b))),
        )
        self.step += 1
        return torch.stack((*generator_losses, *discriminator_losses)).detach()

    @torch.no_grad()
    def there_and_back(self, real: Tensor, direction: str) -> tuple[Tensor, Tensor]:
        """Translate images ("ab" or "ba") and back; both results are [N, 3, H, W] in -1..1."""
        there, back = self.generator_ab, self.generator_ba
        if direction == "ba":
            there, back = back, there
        fake = translate(there, self._send(real))
        return fake, translate(back, fake)

    def state_dict(self) -> dict[str, object]:
        """Return the state that load_state_dict needs to continue without a difference."""
        return {
            "step": self.step,
            "recipe": asdict(self.recipe),
            **{name: part.state_dict() for name, part in self._parts().items()},
            "pool_a": self._pool_a.state_dict(),
            "pool_b": self._pool_b.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restore the state that state_dict returned.

        Raises RecipeError if it was trained by another recipe. The SCHEDULE may differ: a run may
        be extended, or continue in another phase.
        """
        for name, value in asdict(replace(self.recipe, **state["recipe"])).items():
            mine = getattr(self.recipe, name)
            if name not in SCHEDULE and value != mine:
                raise RecipeError(f"was trained with {name} {value}, not {mine}")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self._pool_a.load_state_dict(state["pool_a"], self.device)
        self._pool_b.load_state_dict(state["pool_b"], self.device)
        self.step = state["step"]

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {
            "generator_ab": self.generator_ab,
            "generator_ba": self.generator_ba,
            "discriminator_a": self.discriminator_a,
            "discriminator_b": self.discriminator_b,
            "generators_adam": self._generators,
            "discriminators_adam": self._discriminators,
        }

    def _place(self, network: nn.Module) -> nn.Module:
        return network.to(self.device, memory_format=self._format)

    def _send(self, x: Tensor) -> Tensor:
        return x.to(self.device).contiguous(memory_format=self._format)

    def _set_rate(self, rate: float) -> None:
        for group in (*self._generators.param_groups, *self._discriminators.param_groups):
            group["lr"] = rate

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.amp)

    def _noisy(self, x: Tensor, name: str) -> Tensor:
        """Return images with noise for a discriminator; name identifies the use in a step."""
        if self.recipe.noise == 0:
            return x
        # Each step has a stream of its own, so that a checkpoint needs no state of it.
        source = stream(self.recipe.seed, f"noise {name} {self.step}")
        noise = torch.randn(x.shape, generator=source)
        return x + self.recipe.noise * self._send(noise)

    def _train_generators(
        self, real_a: Tensor, real_b: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Train the generators, and return their six losses and the images they generated."""
        _freeze(True, self.discriminator_a, self.discriminator_b)
        with self._autocast():
            # Both images go through a generator as one batch. Instance norm treats each image
            # separately, so the result is that of two passes.
            fake_b, same_b = translate(self.generator_ab, torch.cat((real_a, real_b))).chunk(2)
            fake_a, same_a = translate(self.generator_ba, torch.cat((real_b, real_a))).chunk(2)
            again_a = translate(self.generator_ba, fake_b)
            again_b = translate(self.generator_ab, fake_a)
            losses = (
                _squared_error(self.discriminator_b(self._noisy(fake_b, "b")), 1),
                _squared_error(self.discriminator_a(self._noisy(fake_a, "a")), 1),
                F.l1_loss(again_a, real_a),
                F.l1_loss(again_b, real_b),
                F.l1_loss(same_a, real_a),
                F.l1_loss(same_b, real_b),
            )
        weight = self.recipe.cycle_at(self.step)
        weights = (1, 1, weight, weight, *(weight * self.recipe.identity,) * 2)
        total = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
        _descend(self._generators, total)
        return losses, fake_a.detach(), fake_b.detach()

    def _train_discriminators(
        self, *sides: tuple[PatchDiscriminator, Tensor, Tensor]
    ) -> tuple[Tensor, ...]:
        """Train each discriminator, on (discriminator, real images, generated images)."""
        _freeze(False, self.discriminator_a, self.discriminator_b)
        with self._autocast():
            # Half the sum slows the discriminators relative to the generators (7.1).
            losses = tuple(
                (
                    _squared_error(network(self._noisy(real, f"real {i}")), 1)
                    + _squared_error(network(self._noisy(fake, f"fake {i}")), 0)
                )
                / 2
                for i, (network, real, fake) in enumerate(sides)
            )
        _descend(self._discriminators, sum(losses))
        return losses


def translate(network: Generator, x: Tensor) -> Tensor:
    """Translate x, float32 [N, 3, H, W] in -1..1, by a generator to the same range.

    The generator takes 0..255, as when it is served.
    """
    return network((x + 1) * 127.5).float()


def weights_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a network's state dict for export: float32, on the CPU, contiguous."""
    return {key: weight.detach().cpu().float().contiguous() for key, weight in state.items()}


def _squared_error(output: Tensor, target: float) -> Tensor:
    """Return the least-squares loss of a discriminator's output."""
    return (output.float() - target).square().mean()


def _freeze(frozen: bool, *networks: nn.Module) -> None:
    for network in networks:
        network.requires_grad_(not frozen)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _new_generator(recipe: Recipe, name: str) -> Generator:
    layout = generator.Layout(recipe.ngf, recipe.blocks, recipe.resize)
    network = Generator(layout)
    seed = stream_seed(recipe.seed, f"weights {name}")
    network.load_state_dict(generator.random_state(layout, seed, recipe.gain))
    return network


def _new_discriminator(recipe: Recipe, name: str) -> PatchDiscriminator:
    network = PatchDiscriminator(recipe.ndf)
    discriminator.draw_weights(network, stream_seed(recipe.seed, f"weights {name}"), recipe.gain)
    return network


def _adam(recipe: Recipe, *networks: nn.Module) -> torch.optim.Adam:
    weights: Iterable[nn.Parameter] = itertools.chain(*(each.parameters() for each in networks))
    return torch.optim.Adam(weights, lr=recipe.rate, betas=(recipe.beta1, recipe.beta2))
