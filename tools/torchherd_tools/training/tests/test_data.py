import csv
import re
import subprocess

import numpy as np
import pytest
from PIL import Image

from torchherd_tools import files
from torchherd_tools.training import data, looks, sources


def photograph(seed, size=(72, 48)):
    """Return a smooth colour image, another for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path):
    """A folder of ten images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(10):
        photograph(seed).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def make(tmp_path, capsys):
    """Runs the command in this process; returns its status, output and the manifest's rows."""

    def run(*arguments, out="out"):
        sizes = ("--min-side", "32", "--max-side", "64", "--look", "ink")
        status = data.main([str(tmp_path / out), *sizes, *map(str, arguments)])
        manifest = tmp_path / out / "manifest.csv"
        rows = list(csv.DictReader(manifest.open())) if manifest.exists() else []
        return status, capsys.readouterr(), rows

    return run


@pytest.mark.parametrize("look", looks.LOOKS)
def test_a_look_changes_the_image_and_keeps_its_size(look):
    image = np.array(photograph(0, (90, 61)))
    rendered = looks.render(image, look, 1)
    assert rendered.shape == image.shape and rendered.dtype == np.uint8
    assert np.abs(rendered.astype(int) - image).mean() > 8
    assert rendered.std() > 8
    assert np.array_equal(rendered, looks.render(image, look, 1))
    # Only ink has no random texture.
    assert np.array_equal(rendered, looks.render(image, look, 2)) == (look == "ink")


def test_looks_differ_from_each_other():
    image = np.array(photograph(0))
    rendered = [looks.render(image, look, 1).astype(int) for look in looks.LOOKS]
    for i, one in enumerate(rendered):
        for other in rendered[:i]:
            assert np.abs(one - other).mean() > 8


def test_sectors_of_the_oil_filter_are_rotations_of_each_other():
    sectors = looks._sectors(5)
    np.testing.assert_allclose(sectors.sum((1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(sectors[0], sectors[4][:, ::-1], atol=1e-6)
    np.testing.assert_allclose(sectors[0], sectors[2].T, atol=1e-6)


def test_folders_match_the_manifest(make, photos, tmp_path):
    status, output, rows = make("--photos", photos, "--held-out", 0.2)
    assert (status, output.err) == (0, "")
    assert "4 in a, 4 in b, 1 in held-out/a, 1 in held-out/b; 0 skipped" in output.out
    assert len(rows) == 10
    for row in rows:
        source = photos.parent / row["source"]
        assert row["sha256"] == files.sha256(source.read_bytes())
        assert row["file"].startswith(row["set"] + "/")
        assert row["look"] == ("ink" if row["set"].endswith("b") else "")
        assert row["licence"] == sources.NOT_RECORDED
        with Image.open(tmp_path / "out" / row["file"]) as image:
            assert image.size == (64, 43) == (int(row["width"]), int(row["height"]))
    found = {
        path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("out/**/*.p*")
    }
    assert found == {row["file"] for row in rows}


def test_split_is_disjoint_and_depends_on_the_seed(make, photos):
    splits = [
        make("--photos", photos, "--seed", seed, out=out)[2]
        for seed, out in ((1, "one"), (1, "again"), (2, "two"))
    ]
    for rows in splits:
        assert len({row["source"] for row in rows}) == len(rows) == 10
        assert {row["set"] for row in rows} == set(data.SETS)
    assert splits[0] == splits[1]
    assert splits[0] != splits[2]


def test_quarters_of_large_photographs_stay_with_the_whole(make, photos):
    photograph(30, (200, 130)).save(photos / "large.png")
    status, _, rows = make("--photos", photos, "--quarters")
    large = [row for row in rows if row["source"] == "photos/large.png"]
    assert status == 0 and len(rows) == 15
    assert [row["part"] for row in large] == ["whole"] + [
        f"{down} {across}" for down in ("upper", "lower") for across in ("left", "right")
    ]
    assert len({row["set"] for row in large}) == 1
    assert {(row["width"], row["height"]) for row in large[1:]} == {("64", "41")}


def test_quarters_are_the_four_corners():
    image = photograph(0, (40, 20))
    quarters = data._quarters(image)
    rows = [("upper left", "upper right"), ("lower left", "lower right")]
    joined = np.vstack([np.hstack([np.array(quarters[name]) for name in row]) for row in rows])
    assert np.array_equal(joined, np.array(image))


def test_photographs_can_be_held_out_by_name(make, photos):
    status, output, rows = make("--photos", photos, "--hold-out", "*/3.png", "*/4.png")
    assert status == 0
    assert "3 in held-out/a" in output.out
    sets = {row["source"]: row["set"] for row in rows}
    assert sets["photos/3.png"] == sets["photos/4.png"] == "held-out/a"


def test_split_ignores_the_order_of_the_sources(photos):
    found, _ = data.read_photographs(sources.from_folder(photos, None), 32, 64)
    forwards, backwards = data.split(found, 0.2, 5), data.split(found[::-1], 0.2, 5)
    assert forwards == backwards


def test_one_photograph_in_several_sizes_is_kept_once(make, photos):
    photograph(3, (144, 96)).save(photos / "larger.png")
    (photos / "copy.png").write_bytes((photos / "5.png").read_bytes())
    status, output, rows = make("--photos", photos)
    assert status == 0
    assert len(rows) == 10
    assert "photos/larger.png" in [row["source"] for row in rows]
    assert re.search(r"3\.png: looks like \S+larger\.png", output.err)
    assert output.out.endswith("2 skipped\n")


def test_cuts_for_several_screens_are_one_photograph(tmp_path):
    names = ("x/1920x1080.png", "x/1080x1920.png", "x/5120x2880.jpg", "x/other.png", "y/10x10.png")
    found = [sources.Source(tmp_path / name, name, "") for name in names]
    kept = [source.origin for source in data.largest_versions(found)]
    assert kept == ["x/5120x2880.jpg", "x/other.png", "y/10x10.png"]


def test_unusable_files_are_skipped_and_counted(make, photos):
    (photos / "broken.jpg").write_bytes(b"not an image")
    photograph(20, (31, 80)).save(photos / "small.png")
    (photos / "readme.txt").write_text("not an image by its name")
    status, output, rows = make("--photos", photos)
    assert status == 0 and len(rows) == 10
    assert output.out.endswith("2 skipped\n")
    assert "broken.jpg: UnidentifiedImageError" in output.err
    assert "small.png: is 31x80, smaller than --min-side 32" in output.err


def test_licences_go_into_the_manifest(make, photos, tmp_path):
    lines = tmp_path / "licences.csv"
    lines.write_text('pattern,licence\n3.png,"CC0, by A"\n*.png,CC BY 4.0 by B\n')
    _, _, rows = make("--photos", photos, "--licences", lines)
    found = {row["source"]: row["licence"] for row in rows}
    assert found.pop("photos/3.png") == "CC0, by A"
    assert set(found.values()) == {"CC BY 4.0 by B"}


def test_an_image_without_a_licence_must_be_left_out(make, photos, tmp_path):
    lines = tmp_path / "licences.csv"
    lines.write_text("pattern,licence\n[0-8].png,CC0\n")
    status, output, _ = make("--photos", photos, "--licences", lines)
    assert status == 1
    assert output.err == f"data: {photos}/9.png: no line of {lines} matches it; add one\n"
    status, _, rows = make("--photos", photos, "--licences", lines, "--leave-out", "*/9.png")
    assert status == 0 and len(rows) == 9


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("file,licence\n", "the first line must be: pattern,licence"),
        ("", "the first line must be: pattern,licence"),
        ("pattern,licence\na.png,CC0\nb.png\n", "line 3: want a pattern and a licence"),
    ],
)
def test_invalid_licence_files_are_rejected(make, photos, tmp_path, content, says):
    lines = tmp_path / "licences.csv"
    lines.write_text(content)
    status, output, _ = make("--photos", photos, "--licences", lines)
    assert status == 1 and says in output.err


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A root folder in which the package "views" is installed; dpkg is replaced."""
    root = tmp_path / "root"
    folder, doc = root / "usr/share/backgrounds", root / "usr/share/doc/views"
    folder.mkdir(parents=True)
    doc.mkdir(parents=True)
    photograph(0).save(folder / "hill.jpg")
    (folder / "link.jpg").symlink_to("hill.jpg")
    (doc / "copyright").write_text("CC0")

    def run(command, **_):
        if command[-1] != "views":
            return subprocess.CompletedProcess(command, 1, "", "no such package")
        paths = ["/." if path == root else f"/{path.relative_to(root)}" for path in root.rglob("*")]
        shown = "1.2-3" if command[0] == "dpkg-query" else "\n".join(paths)
        return subprocess.CompletedProcess(command, 0, shown, "")

    monkeypatch.setattr(sources.subprocess, "run", run)
    return root


def test_images_of_a_debian_package(package):
    (found,) = sources.from_debian("views", package)
    assert found.origin == "views 1.2-3: /usr/share/backgrounds/hill.jpg"
    assert found.licence == "see /usr/share/doc/views/copyright of views 1.2-3"


COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Source: somewhere

Files: *
Copyright: 2019, The Project <project@example.org>
License: GPL-2+

Files: wild/hill.jpg
       town/*
Copyright: 2020, Anna "Ann" Hill <ann@example.org>,
           2021 Bo
License: CC-BY-4.0
 The text of the licence.

Files: debian/*
Copyright: 2022, A Packager
License: Expat

License: CC-BY-4.0
 The text again.
"""


def test_each_image_of_a_package_has_its_own_licence(package):
    folder = package / "usr/share/backgrounds"
    (folder / "town" / "old").mkdir(parents=True)
    photograph(1).save(folder / "valley.png")
    photograph(2).save(folder / "town" / "old" / "square.png")
    (package / "usr/share/doc/views/copyright").write_text(COPYRIGHT)
    found = {each.path.name: each.licence for each in sources.from_debian("views", package)}
    assert found == {
        "hill.jpg": 'CC-BY-4.0, (c) 2020, Anna "Ann" Hill; 2021 Bo',
        "square.png": 'CC-BY-4.0, (c) 2020, Anna "Ann" Hill; 2021 Bo',
        "valley.png": "GPL-2+, (c) 2019, The Project",
    }


def test_an_unusable_package_is_rejected(package):
    with pytest.raises(sources.SourceError, match="others: not installed"):
        sources.from_debian("others", package)
    (package / "usr/share/doc/views/copyright").unlink()
    with pytest.raises(sources.SourceError, match="copyright is missing"):
        sources.from_debian("views", package)
    (package / "usr/share/backgrounds/hill.jpg").unlink()
    with pytest.raises(sources.SourceError, match="holds no images"):
        sources.from_debian("views", package)


def test_photographs_of_scikit_image_exist():
    for source in sources.from_skimage():
        assert source.path.is_file() and source.licence


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_photographs_are_rejected(make, photos, count):
    for path in sorted(photos.iterdir())[count:]:
        path.unlink()
    status, output, _ = make("--photos", photos)
    assert status == 1
    assert ("holds no images" if count == 0 else "only 3 photographs") in output.err
    assert output.err.count("\n") == 1


def test_a_folder_in_use_is_not_changed(make, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    status, output, _ = make("--photos", photos)
    assert status == 1 and "exists and is not empty" in output.err


@pytest.mark.parametrize("arguments", [(), ("--skimage", "--held-out", "1"), ("--max-side", "9")])
def test_usage_errors(make, capsys, arguments):
    with pytest.raises(SystemExit, match="2"):
        make(*arguments)
    assert "usage:" in capsys.readouterr().err
