"""CycleGAN's training step: four networks, their losses, two optimisers and two replay pools.

The recipe is that of Zhu et al. (2017), sections 4 and 7.1. Where it leaves a choice, this file
says what was chosen.

The pictures here are in -1..1, which is what the generators give and the discriminators see. The
generators take 0..255, as the module that is served does (generator.ScaledGenerator), so what is
trained is what is exported: `translate` converts before the first layer, in every use alike. The
instance norm after that layer takes the factor out again.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import discriminator
import generator
from discriminator import PatchDiscriminator
from generator import Generator
from pictures import Cut, stream, stream_seed

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


# What a run may go on with in another way than it was begun.
SCHEDULE = ("steps", "decay_from", "cycle", "cycle_end")


class RecipeError(ValueError):
    """A recipe that cannot be trained by. The text names the setting and what is allowed."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the pictures. The defaults are the published.

    ngf, blocks, resize (generator.Layout) and ndf shape the networks; gain is the standard
    deviation of their first weights. batch, crop, load_size and jitter (pictures.Cut) make the
    samples: the published 286 and 256 are here 143 and 128, to train on a CPU too, and jitter,
    which is not published, varies the scale; 1 is none. cycle weighs the cycle losses, identity the
    identity losses, times cycle. The weight goes from cycle to cycle_end in a straight line until
    step decay_from; the published one stays. What a B cannot hold of an A must be brought back at
    first, so that the two agree, and may be given up later, as Wang and Lin propose ("CycleGAN with
    Better Cycles", 2018).
    noise is the standard deviation of what is added to every picture that a discriminator sees, in
    -1..1; 0 is none, as published. Where all of B has something that no generator hits exactly, as
    the one white of smooth paper, a discriminator would soon know every picture, and teach nothing
    (Arjovsky and Bottou, "Towards Principled Methods for Training GANs", 2017).
    Adam's rate is `rate` until step decay_from, then falls to 0 at `steps`, in a straight line.
    amp is mixed precision: bfloat16, whose range needs no scaling of the losses.
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
        """Raise RecipeError for the first setting that makes no sense."""
        smallest = discriminator.SMALLEST_PICTURE
        rules = (
            (self.steps >= 1, f"steps is {self.steps}, wanted at least 1"),
            (
                0 <= self.decay_from <= self.steps,
                f"decay_from is {self.decay_from}, wanted 0..{self.steps}, the number of steps",
            ),
            *((getattr(self, name) >= 1, f"{name} is below 1") for name in ("ngf", "ndf", "batch")),
            *((getattr(self, name) >= 0, f"{name} is below 0") for name in ("blocks", "pool")),
            *(
                (getattr(self, name) >= 0, f"{name} is below 0")
                for name in ("cycle", "cycle_end", "identity", "noise")
            ),
            (
                self.crop >= smallest and self.crop % 4 == 0,
                f"crop is {self.crop}, wanted a multiple of 4 from {smallest} on",
            ),
            (
                self.load_size >= self.crop,
                f"load_size is {self.load_size}, wanted at least the crop, {self.crop}",
            ),
            (self.jitter >= 1, f"jitter is {self.jitter}, wanted at least 1"),
            (self.rate > 0, f"rate is {self.rate}, wanted above 0"),
        )
        for holds, otherwise in rules:
            if not holds:
                raise RecipeError(otherwise)

    def cut(self) -> Cut:
        """How the samples are cut."""
        return Cut(self.crop, self.load_size, self.jitter)

    def rate_at(self, step: int) -> float:
        """Adam's rate in a step; the first step is 0."""
        if step < self.decay_from:
            return self.rate
        return self.rate * (self.steps - step) / (self.steps - self.decay_from)

    def cycle_at(self, step: int) -> float:
        """The weight of the cycle losses in a step; the first step is 0."""
        done = min(step / self.decay_from, 1) if self.decay_from else 1
        return self.cycle + done * (self.cycle_end - self.cycle)


class ReplayPool:
    """The last generated pictures, so that a discriminator sees old ones too.

    Until `size` pictures are held, each one given comes back and is kept. From then on, in half the
    cases, one that is held comes back and the new one takes its place (section 4 of the paper,
    after Shrivastava et al., 2017). A size of 0 gives back what it is given.
    """

    def __init__(self, size: int, source: torch.Generator) -> None:
        self.size = size
        self._source = source
        self._held: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._held)

    def exchange(self, fresh: Tensor) -> Tensor:
        """Pictures for the discriminator in exchange for fresh ones, [N, 3, H, W] both."""
        if self.size == 0:
            return fresh
        return torch.stack([self._exchange_one(picture) for picture in fresh])

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
        """What a checkpoint keeps: the pictures and the state of the random generator."""
        return {"held": list(self._held), "source": self._source.get_state()}

    def load_state_dict(self, state: Mapping[str, object], device: torch.device) -> None:
        """Go on from what state_dict gave."""
        self._held = [picture.to(device) for picture in state["held"]]
        self._source.set_state(state["source"].cpu())


class CycleGAN:
    """The networks of a recipe, and what training them needs.

    generator_ab makes a B of an A; discriminator_b tells a real B from a generated one. step is the
    number of training steps done.
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
        """Train all four networks once on real pictures, [N, 3, crop, crop] in -1..1.

        Gives the losses in the order of LOSSES, float [8], on the device; the cycle and identity
        losses without their weights, so that they can be read as mean differences in -1..1.
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
        """Pictures translated ("ab" or "ba"), and those translated back; [N, 3, H, W] in -1..1."""
        there, back = self.generator_ab, self.generator_ba
        if direction == "ba":
            there, back = back, there
        fake = translate(there, self._send(real))
        return fake, translate(back, fake)

    def state_dict(self) -> dict[str, object]:
        """All that load_state_dict needs to go on as if there had been no break."""
        return {
            "step": self.step,
            "recipe": asdict(self.recipe),
            **{name: part.state_dict() for name, part in self._parts().items()},
            "pool_a": self._pool_a.state_dict(),
            "pool_b": self._pool_b.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from what state_dict gave.

        Raises RecipeError when that was trained by another recipe. The SCHEDULE may differ: a run
        may be made longer, or go on in another phase.
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
        """What a discriminator sees of pictures; name tells apart the uses in one step."""
        if self.recipe.noise == 0:
            return x
        # A stream for each step, so that a resumed run needs none of its state.
        source = stream(self.recipe.seed, f"noise {name} {self.step}")
        noise = torch.randn(x.shape, generator=source)
        return x + self.recipe.noise * self._send(noise)

    def _train_generators(
        self, real_a: Tensor, real_b: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """One step of the generators. Gives their six losses and the pictures that they made."""
        _freeze(True, self.discriminator_a, self.discriminator_b)
        with self._autocast():
            # A generator's two pictures go through it as one batch. Instance norm looks at each
            # picture by itself, so the result is that of two passes.
            fake_b, same_b = translate(self.generator_ab, torch.cat((real_a, real_b))).chunk(2)
            fake_a, same_a = translate(self.generator_ba, torch.cat((real_b, real_a))).chunk(2)
            again_a = translate(self.generator_ba, fake_b)
            again_b = translate(self.generator_ab, fake_a)
            losses = (
                _judged(self.discriminator_b(self._noisy(fake_b, "b")), 1),
                _judged(self.discriminator_a(self._noisy(fake_a, "a")), 1),
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
        """One step of each discriminator, on (discriminator, real pictures, generated pictures)."""
        _freeze(False, self.discriminator_a, self.discriminator_b)
        with self._autocast():
            # Half the sum, which slows the discriminators down against the generators (7.1).
            losses = tuple(
                (
                    _judged(network(self._noisy(real, f"real {i}")), 1)
                    + _judged(network(self._noisy(fake, f"fake {i}")), 0)
                )
                / 2
                for i, (network, real, fake) in enumerate(sides)
            )
        _descend(self._discriminators, sum(losses))
        return losses


def translate(network: Generator, x: Tensor) -> Tensor:
    """A generator's picture of x, float32 [N, 3, H, W], in -1..1 both.

    The generator itself takes 0..255, as it will when it is served.
    """
    return network((x + 1) * 127.5).float()


def weights_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's state dict as it is saved for export: float32, on the CPU, contiguous."""
    return {key: weight.detach().cpu().float().contiguous() for key, weight in state.items()}


def _judged(verdict: Tensor, wanted: float) -> Tensor:
    """The least-squares loss: how far a discriminator's verdict is from the one wanted."""
    return (verdict.float() - wanted).square().mean()


def _freeze(frozen: bool, *networks: nn.Module) -> None:
    for network in networks:
        network.requires_grad_(not frozen)


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


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
