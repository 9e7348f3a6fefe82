import csv
import dataclasses
import functools
import multiprocessing.connection
import os
import re
import signal
import termios
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from torchherd_tools import testing
from torchherd_tools.models import checkpoint, export, formats, generator
from torchherd_tools.training import discriminator, report, train
from torchherd_tools.training import folders as image_folders
from torchherd_tools.training.cyclegan import (
    LOSSES,
    CycleGAN,
    Recipe,
    RecipeError,
    ReplayPool,
    translate,
    weights_of,
)

RECIPE = Recipe(
    steps=20, decay_from=10, ngf=4, blocks=1, ndf=4, crop=32, load_size=36, pool=3, seed=7
)
FLAGS = [
    *("--steps", "20", "--ngf", "4", "--blocks", "1", "--ndf", "4"),
    *("--crop", "32", "--load-size", "36", "--pool", "3", "--seed", "7", "--threads", "1"),
]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders A and B: smooth images, reddish in A, bluish in B."""
    made = []
    source = np.random.default_rng(0)
    for name, tint in (("a", (1, 0.6, 0.4)), ("b", (0.4, 0.6, 1))):
        folder = tmp_path_factory.mktemp(name)
        for i in range(5):
            noise = (source.integers(0, 256, (5, 6, 3)) * tint).astype(np.uint8)
            Image.fromarray(noise).resize((60, 48)).save(folder / f"{i}.png")
        made.append(folder)
    return made


def begin(run, folders, recipe=RECIPE, **options):
    a, b = (
        image_folders.ImageFolder(folder, recipe.cut(), recipe.seed, name)
        for folder, name in zip(folders, "AB", strict=True)
    )
    return train.Training(run, CycleGAN(recipe, CPU, **options), a, b)


def networks(training):
    """Return all weights of a run by name."""
    names = ("generator_ab", "generator_ba", "discriminator_a", "discriminator_b")
    return {
        f"{name}.{key}": weight
        for name in names
        for key, weight in getattr(training.gan, name).state_dict().items()
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, weight in expected.items():
        assert torch.equal(found[key], weight), key


@pytest.fixture(scope="module")
def straight(folders, tmp_path_factory):
    """A run of 20 steps without a break."""
    training = begin(tmp_path_factory.mktemp("straight"), folders)
    training.train(20)
    return training


@pytest.fixture
def refuse(capsys):
    """Runs the command in this process and returns its one line on stderr."""

    def run(*arguments):
        assert train.main([*map(str, arguments), *FLAGS]) == 1
        message = capsys.readouterr().err
        assert message.startswith("train: ")
        assert message.count("\n") == 1
        return message

    return run


def test_the_same_seed_gives_the_same_weights(straight, folders, tmp_path):
    again = begin(tmp_path, folders)
    again.train(20)
    assert_same(networks(again), networks(straight))
    other = begin(tmp_path, folders, dataclasses.replace(RECIPE, seed=8))
    assert not torch.equal(*(each.gan.generator_ab.model[1].weight for each in (other, straight)))


@pytest.mark.parametrize("breaks", [(7,), (1, 13)])
def test_a_resumed_run_equals_one_without_a_break(straight, folders, tmp_path, breaks):
    training = begin(tmp_path, folders)
    for step in (*breaks, 20):
        training.train(step)
        training = begin(tmp_path, folders)
        training.resume()
        assert training.gan.step == step
    assert_same(networks(training), networks(straight))
    columns = [[row[0], *row[2:]] for row in report.read_losses(tmp_path / "losses.csv")]
    expected = report.read_losses(straight.run / "losses.csv")
    assert columns == [[row[0], *row[2:]] for row in expected]


def test_channels_last_and_amp_train(folders, tmp_path):
    recipe = dataclasses.replace(RECIPE, amp=True, batch=2, identity=0.0)
    ends = []
    for run, stops in (("straight", (4,)), ("broken", (2, 4))):
        for step in stops:
            training = begin(tmp_path / run, folders, recipe, channels_last=True)
            if (tmp_path / run / train.CHECKPOINT).exists():
                training.resume()
            training.train(step)
        ends.append(networks(training))
    assert_same(*ends)
    assert all(weight.dtype == torch.float32 for weight in ends[0].values())


def test_training_lowers_the_cycle_losses(folders, tmp_path):
    recipe = dataclasses.replace(RECIPE, steps=100, decay_from=100, rate=1e-3)
    training = begin(tmp_path, folders, recipe)
    training.train(100)
    first, last = (
        dict(zip(report.COLUMNS, row, strict=True))
        for row in report.read_losses(tmp_path / "losses.csv")
    )
    assert last["cycle_a"] < 0.9 * first["cycle_a"]
    assert last["cycle_b"] < 0.9 * first["cycle_b"]


def test_files_of_a_run(straight):
    names = {path.name for path in straight.run.iterdir()}
    assert names == {train.CHECKPOINT, "losses.csv", "losses.png", "samples.png"}
    with (straight.run / "losses.csv").open() as lines:
        (row,) = csv.DictReader(lines)
    assert row["step"] == "20"
    assert float(row["rate"]) == pytest.approx(RECIPE.rate / 10)
    assert all(0 < float(row[name]) < 3 for name in LOSSES)
    with Image.open(straight.run / "samples.png") as image:
        assert image.size == (report.SAMPLES * 32, 6 * 32)
    with Image.open(straight.run / "losses.png") as image:
        assert len(image.getcolors(1 << 20)) > len(LOSSES)


def test_exported_module_is_the_trained_generator(straight, tmp_path, capsys):
    out = tmp_path / "model.pt"
    assert train.main([str(straight.run), "--export", str(out)]) == 0
    assert "after 20 steps" in capsys.readouterr().out
    weights = straight.run / train.GENERATOR
    written = checkpoint.read(weights).state()
    assert_same(written, weights_of(straight.gan.generator_ab.state_dict()))
    by_hand = tmp_path / "by_hand.pt"
    assert export.main([str(weights), "-o", str(by_hand), "--method", "script"]) == 0
    x = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        trained = translate(straight.gan.generator_ab, x * 2 - 1) / 2 + 0.5
    for path in (out, by_hand):
        torch.testing.assert_close(formats.load_torchscript(path)(x), trained, rtol=0, atol=1e-4)
    weights.unlink()


def test_generators_are_trained_on_what_the_served_module_gives_them():
    # Instance norm hides a wrong scale, so the numbers in front of the first layer are compared.
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = []
    network = generator.Generator(generator.Layout(4, 1))
    network.register_forward_pre_hook(lambda _, inputs: seen.append(*inputs))
    with torch.no_grad():
        translate(network, x * 2 - 1)
        generator.ScaledGenerator(network)(x)
    torch.testing.assert_close(*seen)


def test_losses_and_gradients_are_those_of_the_paper():
    gan, other = CycleGAN(RECIPE, CPU), CycleGAN(RECIPE, CPU)
    source = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 3, 32, 32, generator=source) * 2 - 1 for _ in range(2))
    losses = gan.train_step(a, b)

    ab, ba = other.generator_ab, other.generator_ba
    critic_a, critic_b = other.discriminator_a, other.discriminator_b
    mse, l1 = (lambda x, y: ((x - y) ** 2).mean()), (lambda x, y: (x - y).abs().mean())
    fake_b, fake_a = translate(ab, a), translate(ba, b)
    adversarial = [mse(critic_b(fake_b), 1), mse(critic_a(fake_a), 1)]
    cycle = [l1(translate(ba, fake_b), a), l1(translate(ab, fake_a), b)]
    identity = [l1(translate(ba, a), a), l1(translate(ab, b), b)]
    (sum(adversarial) + 10 * sum(cycle) + 5 * sum(identity)).backward()
    critic_a.zero_grad()
    critic_b.zero_grad()
    losses_of_critics = [
        (mse(critic(real), 1) + mse(critic(fake.detach()), 0)) / 2
        for critic, real, fake in ((critic_a, a, fake_a), (critic_b, b, fake_b))
    ]
    sum(losses_of_critics).backward()

    torch.testing.assert_close(
        losses, torch.stack([*adversarial, *cycle, *identity, *losses_of_critics])
    )
    for name in ("generator_ab", "generator_ba", "discriminator_a", "discriminator_b"):
        found, expected = getattr(gan, name), getattr(other, name)
        for mine, wanted in zip(found.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, wanted.grad, rtol=1e-3, atol=1e-5)


def test_initial_networks_are_as_published():
    gan = CycleGAN(dataclasses.replace(RECIPE, ngf=16, ndf=16), CPU)
    for key, weight in networks(train.Training(None, gan, None, None)).items():
        if key.endswith(".bias"):
            assert not weight.any(), key
        else:
            assert weight.std().item() == pytest.approx(0.02, rel=0.1), key
    assert not torch.equal(gan.generator_ab.model[1].weight, gan.generator_ba.model[1].weight)


def test_a_patch_is_70_pixels():
    network = discriminator.PatchDiscriminator(4)
    assert discriminator.receptive_field(network) == 70
    # Only the convolutions: instance norm spreads a change over the whole image.
    convolutions = torch.nn.Sequential(
        *(layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d))
    )
    x = torch.zeros(1, 3, 256, 256, requires_grad=True)
    convolutions(x)[0, 0, 15, 15].backward()
    seen = x.grad.abs().sum((0, 1)).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [70, 70]


@pytest.mark.parametrize(("side", "patches"), [(32, 2), (128, 14), (256, 30)])
def test_discriminator_rates_patches(side, patches):
    network = discriminator.PatchDiscriminator(4)
    assert network(torch.zeros(2, 3, side, side)).shape == (2, 1, patches, patches)


def image(value):
    return torch.full((1, 3, 2, 2), float(value))


def test_a_full_replay_pool_returns_old_images():
    pool = ReplayPool(50, torch.Generator().manual_seed(0))
    for i in range(50):
        assert torch.equal(pool.exchange(image(i)), image(i))
    given = [int(pool.exchange(image(i))[0, 0, 0, 0]) for i in range(50, 1050)]
    assert len(pool) == 50
    fresh = sum(i == value for i, value in enumerate(given, 50))
    assert 450 < fresh < 550
    # Each image is returned at most once, and only images that were stored.
    assert len(set(given)) == len(given)
    assert set(given) <= set(range(1050))


def test_the_weight_of_the_cycle_losses_falls_until_the_rate_does():
    recipe = dataclasses.replace(RECIPE, steps=20, decay_from=10, cycle=10.0, cycle_end=2.0)
    assert [recipe.cycle_at(step) for step in (0, 5, 10, 19)] == [10, 6, 2, 2]
    assert {Recipe().cycle_at(step) for step in (0, 50_000, 199_999)} == {10}
    flags = ["run", "--export", "x.pt", "--cycle", "3"]
    assert train.read_recipe(train.parse(flags)).cycle_at(150_000) == 3


def test_noise_is_the_same_after_a_break_and_affects_the_discriminators(folders, tmp_path):
    recipe = dataclasses.replace(RECIPE, noise=0.5)
    ends = []
    for run, stops in (("straight", (4,)), ("broken", (2, 4))):
        for step in stops:
            training = begin(tmp_path / run, folders, recipe)
            if (tmp_path / run / train.CHECKPOINT).exists():
                training.resume()
            training.train(step)
        ends.append(networks(training))
    assert_same(*ends)
    silent = begin(tmp_path / "silent", folders)
    silent.train(4)
    name = "discriminator_b.model.0.weight"
    assert not torch.equal(networks(silent)[name], ends[0][name])


def test_replay_pool_keeps_a_copy_and_can_be_empty():
    pool = ReplayPool(1, torch.Generator().manual_seed(0))
    x = image(1)
    pool.exchange(x)
    x.zero_()
    assert torch.equal(pool.state_dict()["held"][0], image(1)[0])
    x = image(2)
    assert ReplayPool(0, torch.Generator()).exchange(x) is x


def test_rate_is_constant_and_then_falls_to_zero():
    recipe = Recipe(steps=100, decay_from=50, rate=1.0)
    assert [recipe.rate_at(step) for step in (0, 49, 50, 75, 99, 100)] == [1, 1, 1, 0.5, 0.02, 0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 0, "decay_from": 0}, "steps is 0"),
        ({"decay_from": 21}, "decay_from is 21, want 0..20"),
        ({"crop": 30}, "crop is 30, want a multiple of 4 and at least 32"),
        ({"crop": 34}, "crop is 34"),
        ({"load_size": 31}, "load_size is 31, want at least the crop, 32"),
        ({"jitter": 0.9}, "jitter is 0.9"),
        ({"ngf": 0}, "ngf is below 1"),
        ({"pool": -1}, "pool is below 0"),
        ({"rate": 0.0}, "rate is 0.0"),
    ],
)
def test_invalid_recipes_are_rejected(change, says):
    with pytest.raises(RecipeError, match=re.escape(says)):
        dataclasses.replace(RECIPE, **change).validate()


def test_each_image_occurs_once_in_an_epoch(folders):
    folder = image_folders.ImageFolder(folders[0], image_folders.Cut(36, 36, 1.0), 1, "A")
    samples = [folder.sample(i) for i in range(10)]
    assert folder._order(0) != folder._order(1)
    assert sorted(folder._order(0)) == sorted(folder._order(1)) == list(range(5))
    for sample in samples:
        assert sample.shape == (3, 36, 36) and sample.min() >= -1 and sample.max() <= 1


def test_crops_of_an_image(folders):
    folder = image_folders.ImageFolder(folders[0], image_folders.Cut(32, 48, 1.25), 1, "A")
    whole = image_folders.to_unit(folder._images[0])
    assert whole.shape == (3, 48, 60)
    top_left, bottom_right = whole[:, :32, :32], whole[:, 16:, 28:]
    cut = functools.partial(folder._cut, folder._images[0])
    assert torch.equal(cut(0, 0, 0, 0.5), top_left)
    assert torch.equal(cut(0, 0.999, 0.999, 0.5), bottom_right)
    assert torch.equal(cut(0, 0, 0, 0.49), top_left.flip(2))
    larger = torch.nn.functional.interpolate(
        whole[None, :, :40, :40], (32, 32), mode="bilinear", antialias=True
    )
    assert torch.equal(cut(0.999, 0, 0, 0.5), larger[0])


def test_crops_differ_between_epochs(folders):
    folder = image_folders.ImageFolder(folders[0], image_folders.Cut(32, 40, 1.2), 1, "A")
    cuts = [folder.sample(5 * epoch + folder._order(epoch).index(0)) for epoch in range(3)]
    assert not torch.equal(cuts[0], cuts[1])
    assert not torch.equal(cuts[1], cuts[2])


def test_samples_depend_only_on_the_seed_and_their_index(folders):
    cut = image_folders.Cut(32, 40, 1.2)
    one, same, other = (image_folders.ImageFolder(folders[0], cut, seed, "A") for seed in (1, 1, 2))
    same.sample(3)
    assert torch.equal(one.sample(12), same.sample(12))
    assert not torch.equal(one.sample(12), other.sample(12))
    assert torch.equal(one.batch(6, 2)[1], one.sample(13))


def test_a_broken_image_is_skipped_and_counted(folders, tmp_path, capsys):
    for name, content in (("broken.jpg", b"not an image"), ("cut.png", None), ("notes.txt", b"")):
        whole = (folders[0] / "0.png").read_bytes()
        (tmp_path / name).write_bytes(whole[:200] if content is None else content)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "whole.png").write_bytes((folders[0] / "0.png").read_bytes())
    folder = train.open_folder(tmp_path, RECIPE, "A")
    assert folder.names == ["deep/whole.png"]
    output = capsys.readouterr()
    assert output.out == "A: 1 images, 2 skipped\n"
    assert f"skipped {tmp_path}/broken.jpg: UnidentifiedImageError" in output.err
    assert f"skipped {tmp_path}/cut.png: " in output.err
    assert output.err.count("\n") == 2


def test_unusable_folders_are_rejected(refuse, folders, tmp_path):
    empty, broken = tmp_path / "empty", tmp_path / "broken"
    for folder in (empty, broken):
        folder.mkdir()
    (broken / "x.jpg").write_bytes(b"not an image")
    run = tmp_path / "run"
    assert "empty: holds no images; " in refuse(run, "--a", empty, "--b", folders[1])
    assert "none: no such folder; " in refuse(run, "--a", folders[0], "--b", tmp_path / "none")
    with pytest.raises(image_folders.FolderError, match="none of its 1 images can be read"):
        train.open_folder(broken, RECIPE, "A")
    assert not run.exists()


def test_a_full_gpu_is_reported(refuse, folders, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(CycleGAN, "train_step", full)
    message = refuse(tmp_path, "--a", folders[0], "--b", folders[1])
    assert "the GPU ran out of memory with --batch 1, --crop 32, --ngf 4" in message


def test_a_missing_gpu_is_reported(refuse, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = refuse(tmp_path, "--a", folders[0], "--b", folders[1], "--device", "cuda")
    assert "no CUDA device" in message


def test_losses_that_are_not_finite_stop_the_run(folders, tmp_path):
    training = begin(tmp_path, folders)
    training.train(2)
    before = (tmp_path / train.CHECKPOINT).read_bytes()
    with torch.no_grad():
        training.gan.generator_ab.model[1].weight.fill_(torch.nan)
    with pytest.raises(train.TrainError, match="not finite"):
        training.train(4)
    assert (tmp_path / train.CHECKPOINT).read_bytes() == before


def test_a_run_does_not_replace_another(refuse, straight, folders):
    message = refuse(straight.run, "--a", folders[0], "--b", folders[1])
    assert "exists already; give --resume" in message


def test_only_the_same_run_is_resumed(straight, folders, tmp_path):
    other = begin(straight.run, folders, dataclasses.replace(RECIPE, ngf=8))
    with pytest.raises(train.TrainError, match="was trained with ngf 4, not 8"):
        other.resume()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "new.png").write_bytes((folders[0] / "0.png").read_bytes())
    other = begin(straight.run, [tmp_path / "a", folders[1]])
    with pytest.raises(train.TrainError, match="trained on other images A"):
        other.resume()
    longer = begin(straight.run, folders, dataclasses.replace(RECIPE, steps=30, cycle=3.0))
    longer.resume()
    assert longer.gan.step == 20


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_other_files_are_rejected_as_checkpoints(refuse, folders, tmp_path, content):
    path = tmp_path / train.CHECKPOINT
    if content is None:
        torch.save(generator.random_state(generator.Layout(4, 1), 0), path)
    else:
        path.write_bytes(content)
    message = refuse(tmp_path, "--a", folders[0], "--b", folders[1], "--resume")
    assert f"{path}: not a checkpoint" in message


def test_export_needs_a_checkpoint(refuse, tmp_path):
    assert "no such file; train first" in refuse(tmp_path, "--export", tmp_path / "model.pt")


@pytest.mark.parametrize(
    "arguments", [(), ("--a", "a"), ("--a", "a", "--b", "b", "--threads", "0")]
)
def test_usage_errors(capsys, arguments):
    with pytest.raises(SystemExit, match="2"):
        train.main(["run", *arguments])
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_to_resume(folders, tmp_path, number):
    run = tmp_path / "run"
    arguments = [str(run), *FLAGS, "--log-every", "1"]
    arguments += ["--a", str(folders[0]), "--b", str(folders[1])]
    # A run of 20 steps could end before the signal; this one cannot. Its rate is constant in the
    # part that is compared.
    arguments += ["--steps", "100000", "--decay-from", "100000"]
    stdout, stderr = tmp_path / "stdout", tmp_path / "stderr"
    os.mkfifo(stdout)
    process = testing.start(train.main, arguments, stdout=stdout, stderr=stderr)
    with stdout.open() as lines:
        assert any(" 3/100000 [" in line for line in lines)
        os.kill(process.pid, number)
        lines.read()
    process.join(60)
    message = stderr.read_text()
    assert process.exitcode == 128 + number
    assert message.startswith(f"train: {signal.Signals(number).name} at step ")
    recipe = dataclasses.replace(RECIPE, steps=100000, decay_from=100000)
    resumed = begin(run, folders, recipe)
    resumed.resume()
    step = resumed.gan.step
    assert step >= 3
    resumed.train(step + 2)
    unbroken = begin(tmp_path / "unbroken", folders, recipe)
    unbroken.train(step + 2)
    assert_same(networks(resumed), networks(unbroken))


def test_losses_of_a_crashed_run_are_kept_up_to_its_checkpoint(tmp_path):
    path = tmp_path / "losses.csv"
    log = report.LossLog(path, 0)
    for step in (10, 20, 30):
        log.append(step, 1.5, 2e-4, [0.25] * 8)
    with path.open("a") as out:
        out.write("40,2.0,0.0002,0.25,0.25,0.25,0.25,0.25,0.25,0.25,")
    report.LossLog(path, 20).append(30, 1.5, 2e-4, [0.5] * 8)
    rows = report.read_losses(path)
    assert [row[0] for row in rows] == [10, 20, 30]
    assert rows[2] == [30, 1.5, 2e-4, *[0.5] * 8]


def test_progress_is_lines_without_a_terminal(capsys):
    with report.Progress(98, 8000) as progress:
        progress.advance()
        progress.show(100, [0.1 * i for i in range(8)])
    line = capsys.readouterr().out
    assert re.match(r"\s*1%\D* 100/8000 \[00:\d\d<.*step/s, adversarial 0\.000/0\.100, cycle", line)
    assert line.count("\n") == 1


def test_progress_is_a_bar_on_a_terminal(folders, tmp_path):
    terminal, inside = os.openpty()
    termios.tcsetwinsize(inside, (24, 120))
    a, b = map(str, folders)
    arguments = [str(tmp_path), "--a", a, "--b", b, *FLAGS, "--log-every", "10"]
    process = testing.start(train.main, arguments, stdout=Path(os.ttyname(inside)))
    shown = b""
    while terminal in (ready := multiprocessing.connection.wait([terminal, process.sentinel])):
        shown += os.read(terminal, 4096)
    assert ready == [process.sentinel]
    process.join()
    os.close(terminal)
    os.close(inside)
    assert process.exitcode == 0
    for part in (b"20/20", b"\r", b"cycle"):
        assert part in shown
