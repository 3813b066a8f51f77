"""The example that makes an image folder of desktop icons, on two small themes of its own."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcil.data import Data
from fcil.data.families.folder import FOLDER

SCRIPT = Path(__file__).parent.parent / "docs" / "examples" / "icon_folder.py"


@pytest.fixture
def script(monkeypatch):
    """The script with one family in each part."""
    spec = importlib.util.spec_from_file_location("icon_folder", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(
        module, "TRAIN", {"old": ("old-package", "Old", "Old-dark"), "older": ("older-package", "Older")}
    )
    monkeypatch.setattr(module, "TEST", {"new": ("new-package", "New")})
    monkeypatch.setattr(module, "LEAST_TEST", 1)
    return module


def pixels(seed, size=32):
    return np.random.default_rng(seed).integers(0, 200, (size, size, 3), np.uint8)


@pytest.fixture
def draw(tmp_path):
    def write(place, seed, size=32):
        path = tmp_path / "themes" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(seed, size)).save(path)
        return path

    return write


@pytest.fixture
def themes(draw):
    """Two icons in all themes, so that none is missing; the seeds are the designs."""
    for seed, theme in enumerate(("Old", "Older", "New")):
        draw(f"{theme}/32x32/actions/cut.png", seed)
        draw(f"{theme}/32x32/actions/paste.png", 10 + seed)
    return draw


def made(script, tmp_path, least=3):
    script.main([str(tmp_path / "out"), f"--themes={tmp_path / 'themes'}", "--size=32", f"--least={least}"])
    return sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png"))


CUT = ["test/cut/new.png", "train/cut/old.png", "train/cut/older.png"]
PASTE = [name.replace("cut", "paste") for name in CUT]


def test_themes_are_split_and_the_family_folder_reads_them(script, themes, tmp_path, capsys):
    assert made(script, tmp_path) == sorted(CUT + PASTE)
    for seed, name in enumerate(("train/cut/old", "train/cut/older", "test/cut/new")):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / f"{name}.png")), pixels(seed))
    listing = FOLDER.listing(tmp_path / "out", Data(name="folder", root=str(tmp_path / "out")))
    assert listing.classes == ("cut", "paste")
    assert (len(listing.train.labels), len(listing.test.labels)) == (4, 2)
    printed = capsys.readouterr().out
    assert "train: 4 images; old 2, older 2" in printed
    assert "test: 2 images; new 2" in printed
    assert "2 classes" in printed


def test_a_class_needs_its_number_of_families_and_a_test_family(script, themes, tmp_path):
    themes("Old/32x32/actions/copy.png", 20)
    themes("Older/32x32/actions/copy.png", 21)  # no test family
    themes("Old/32x32/actions/undo.png", 30)
    themes("New/32x32/actions/undo.png", 32)  # two families
    assert made(script, tmp_path, least=2) == sorted([*CUT, *PASTE, "test/undo/new.png", "train/undo/old.png"])


def test_a_recolouring_counts_as_its_family_and_only_fills_gaps(script, themes, tmp_path):
    themes("Old-dark/64x64/actions/cut.png", 40, 64)
    themes("Old-dark/32x32/actions/undo.png", 41)
    themes("New/32x32/actions/undo.png", 42)
    assert made(script, tmp_path, least=2) == sorted([*CUT, *PASTE, "test/undo/new.png", "train/undo/old.png"])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "train/cut/old.png")), pixels(0))


def test_a_design_that_a_test_theme_copied_stays_in_training_only(script, themes, tmp_path):
    themes("New/32x32/actions/cut.png", 1)  # Older's
    themes("Older/32x32/actions/paste.png", 10)  # Old's
    assert made(script, tmp_path, least=2) == ["test/paste/new.png", "train/paste/old.png"]


def test_the_same_design_with_other_brightness_is_a_copy(script, themes, tmp_path):
    path = themes("New/32x32/actions/cut.png", 1)
    Image.fromarray(pixels(1) // 2 + 20).save(path)
    assert made(script, tmp_path) == PASTE


def test_names_linked_to_the_same_files_are_one_class(script, themes, tmp_path):
    for theme in ("Old", "Older", "New"):
        folder = tmp_path / "themes" / theme / "32x32" / "actions"
        (folder / "scissors.png").symlink_to("cut.png")
    assert made(script, tmp_path) == sorted(CUT + PASTE)


def test_one_linked_image_is_left_out_and_its_class_stays_if_enough_are_left(script, themes, tmp_path):
    (tmp_path / "themes/Old/32x32/actions/scissors.png").symlink_to("cut.png")
    for seed, theme in enumerate(("Older", "New")):
        themes(f"{theme}/32x32/actions/scissors.png", 50 + seed)
    expected = [*CUT, *PASTE, "test/scissors/new.png", "train/scissors/older.png"]
    assert made(script, tmp_path, least=2) == sorted(expected)


def test_symbolic_small_blank_and_dangling_icons_are_skipped(script, themes, tmp_path):
    for seed, theme in enumerate(("Old", "Older", "New")):
        themes(f"{theme}/32x32/actions/copy-symbolic.png", 60 + seed)
        themes(f"{theme}/symbolic/32/redo.png", 70 + seed)
        themes(f"{theme}/16x16/actions/undo.png", 80 + seed, 16)
        folder = tmp_path / "themes" / theme / "32x32" / "actions"
        (folder / "link.png").symlink_to("copy-symbolic.png")
        (folder / "gone.png").symlink_to("nowhere.png")
        Image.new("RGB", (32, 32), (250, 250, seed + 240)).save(folder / "white.png")
    assert made(script, tmp_path) == sorted(CUT + PASTE)


def test_the_largest_image_is_taken_and_transparency_is_white(script, themes, tmp_path):
    themes("Old/24x24@2x/actions/cut.png", 90, 48)
    half = np.dstack([pixels(91, 64), np.full((64, 64), 255, np.uint8)])
    half[:32, :, 3] = 0
    path = tmp_path / "themes/Old/64/actions/cut.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(half).save(path)
    made(script, tmp_path)
    image = np.asarray(Image.open(tmp_path / "out" / "train/cut/old.png"))
    assert image.shape == (32, 32, 3)
    assert (image[:13] == 255).all()  # a Lanczos filter reaches three pixels over the edge
    assert (image[19:] < 255).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "themes" / "New").rename(root / "elsewhere"), "apt install new-package"),
        (lambda root: (root / "themes/Old/32x32/actions/cut.svg").write_text("<svg/>"), "apt install librsvg2-bin"),
        (lambda root: (root / "out" / "train").mkdir(parents=True), "name a new folder"),
    ],
)
def test_what_is_missing_is_named(spoil, message, script, themes, tmp_path, monkeypatch):
    monkeypatch.setattr(script.shutil, "which", lambda name: None)
    spoil(tmp_path)
    with pytest.raises(SystemExit, match=message):
        made(script, tmp_path)


def test_too_many_families_asked_for_is_an_error(script, themes, tmp_path):
    with pytest.raises(SystemExit, match="lower --least"):
        made(script, tmp_path, least=4)
