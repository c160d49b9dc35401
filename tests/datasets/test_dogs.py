"""Stanford Dogs from a small tree in the canonical layout."""

import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import types

import numpy as np
import pooch
import pytest
from PIL import Image
from scipy.io import savemat

import datasets
from datasets import DataError, dogs, keep
from datasets.task import mixed
from tests.conftest import arrays, tiny

RED, GREEN, BLUE, GREY = (200, 10, 20), (10, 200, 20), (20, 10, 200), (90, 90, 90)
TRAIN = {"n01-Pug/n01_1.jpg": 1, "n02-Collie/n02_1.jpg": 2, "n01-Pug/n01_2.jpg": 1, "n99-Dingo/n99_7.jpg": 120}
TEST = {"n02-Collie/n02_3.jpg": 2, "n01-Pug/n01_9.jpg": 1}


def save_list(path, pictures):
    """As in lists.tar: a column of cells, and a column of numbers."""
    cells = np.empty((len(pictures), 1), object)
    cells[:, 0] = list(pictures)
    savemat(path, {"file_list": cells, "labels": np.array([list(pictures.values())], float).T})


@pytest.fixture
def tree(tmp_path):
    """A folder with Images/ and the two lists: six pictures of one colour or two."""
    pictures = {name: Image.new("RGB", (50, 30), GREY) for name in (*TRAIN, *TEST)}
    halves = Image.new("RGB", (200, 100), RED)  # twice as wide as high: left half red, right half blue
    halves.paste(BLUE, (100, 0, 200, 100))
    pictures["n02-Collie/n02_1.jpg"] = halves
    pictures["n01-Pug/n01_2.jpg"] = Image.new("L", (300, 500), 90)
    pictures["n99-Dingo/n99_7.jpg"] = halves.transpose(Image.Transpose.ROTATE_270)  # red above, blue below
    for name, picture in pictures.items():
        path = tmp_path / "Images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, "JPEG", quality=95)
    Image.new("RGBA", (64, 64), (*GREEN, 255)).save(tmp_path / "Images" / "n02-Collie/n02_3.jpg", "PNG")
    save_list(tmp_path / "train_list.mat", TRAIN)
    save_list(tmp_path / "test_list.mat", TEST)
    return tmp_path


def load(tree, size=16):
    return datasets.load("dogs", size, tree)


def listed(rows):
    """In the order of the list."""
    return rows[np.argsort(mixed(len(rows)))]


def near(pixels, colour):
    """JPEG changes colours a little."""
    return np.abs(pixels.astype(int) - colour).max() <= 4


@pytest.mark.parametrize("size", [16, 33, 128])
def test_pictures_are_scaled_whole(tree, size):
    task = load(tree, size)
    assert task.x_train.shape == (4, size * size, 3) and task.x_test.shape == (2, size * size, 3)
    assert task.x_train.dtype == task.x_test.dtype == np.uint8
    assert listed(task.y_train).tolist() == [0, 1, 0, 119] and listed(task.y_test).tolist() == [1, 0]
    assert (task.order == np.arange(size * size)).all()
    assert task.y_train.dtype == np.int64 and task.classes == 120 and task.tokens is None
    grey, left_right, monochrome, above_below = listed(task.x_train).reshape(4, size, size, 3)
    half = size // 2
    assert near(grey, GREY) and near(monochrome, GREY)
    assert near(left_right[:, : half - 1], RED) and near(left_right[:, half + 2 :], BLUE)
    assert near(above_below[: half - 1], RED) and near(above_below[half + 2 :], BLUE)
    assert near(listed(task.x_test)[0], GREEN) and near(listed(task.x_test)[1], GREY)


def test_scaling_averages_over_what_a_pixel_covers(tree):
    lines = np.zeros((320, 320, 3), np.uint8)
    lines[:, ::2] = 255
    Image.fromarray(lines).save(tree / "Images" / "n01-Pug/n01_1.jpg", "PNG")
    assert near(listed(load(tree).x_train)[0], (128, 128, 128))


def turned():
    """Its EXIF data say that the camera was turned: shown, red is left and blue right."""
    picture = Image.new("RGB", (100, 200), BLUE)
    picture.paste(RED, (0, 100, 100, 200))
    picture.getexif()[0x0112] = 6
    return picture, {"exif": picture.getexif()}


def sixteen_bits():
    levels = np.full((100, 200), 60_000, np.uint16)
    levels[:, :100] = 20_000
    return Image.fromarray(levels), {}


def clear(mode, left, **options):
    """The right half lets a viewer's white through."""
    picture = Image.new("RGBA", (200, 100), (*left, 255))
    picture.paste((0, 0, 0, 0), (100, 0, 200, 100))
    return picture.convert(mode), options


def clear_grey():
    levels = np.full((100, 200), 700, np.uint16)
    levels[:, :100] = 20_000
    return Image.fromarray(levels), {"transparency": 700}


def half_clear():
    return Image.new("RGBA", (9, 9), (*GREEN, 128)), {}


def printed():
    picture = Image.new("CMYK", (200, 100), (0, 0, 0, 0))
    picture.paste((0, 255, 255, 0), (0, 0, 100, 100))
    return picture, {}


def palette():
    picture = Image.new("RGB", (200, 100), RED)
    picture.paste(GREY, (100, 0, 200, 100))
    return picture.quantize(2), {}


WHITE, MIXED = (255, 255, 255), tuple((c + 255) // 2 for c in GREEN)


@pytest.mark.parametrize(
    "form, picture, left, right",
    [
        ("JPEG", turned(), RED, BLUE),
        ("PNG", turned(), RED, BLUE),
        ("PNG", sixteen_bits(), (78,) * 3, (234,) * 3),
        ("PNG", clear_grey(), (78,) * 3, WHITE),
        ("PNG", clear("RGBA", RED), RED, WHITE),
        ("PNG", clear("LA", GREY), GREY, WHITE),
        ("PNG", (Image.new("L", (9, 9), 7), {"transparency": 7}), WHITE, WHITE),
        ("PNG", half_clear(), MIXED, MIXED),
        ("PNG", palette(), RED, GREY),
        ("PNG", (Image.new("1", (9, 9), 1), {}), WHITE, WHITE),
        ("JPEG", printed(), (255, 0, 0), WHITE),
        ("JPEG", (Image.new("RGB", (9, 9), RED), {"exif": b"Exif\0\0nothing"}), RED, RED),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_picture_is_scaled_as_a_viewer_shows_it(form, picture, left, right, tree):
    picture, options = picture
    picture.save(tree / "Images" / "n01-Pug/n01_1.jpg", form, **options)
    shown = listed(load(tree, 32).x_train)[0].reshape(32, 32, 3)
    assert near(shown[:, :15], left) and near(shown[:, 18:], right)


@pytest.mark.parametrize("ending", [".JPG", ".Jpg", ".jpeg", ".JPEG", ".MAT"])
def test_endings_may_be_written_otherwise(ending, tree, invoke):
    expected = load(tree)
    (tree / "pixels-16.npy").unlink()
    for path in [*tree.rglob(f"*{ending.lower().replace('e', '')}")]:
        path.rename(path.with_suffix(ending))
    task = load(tree)
    assert all((getattr(task, name) == getattr(expected, name)).all() for name in task._fields[:4])
    assert f"8 files, {0.0:.1f} MB, in {tree}" in invoke("data", "list", "--data-dir", tree).stdout


def test_a_folder_that_is_there_is_not_told_as_missing(tree):
    for path in [*tree.rglob("*.jpg")]:
        path.rename(path.with_suffix(".gif"))
    with pytest.raises(DataError, match=r"^[^ ]*/Images/n[^ ]*\.jpg is missing: "):
        load(tree)


def test_the_first_pictures_are_of_many_breeds(tree):
    """The lists are sorted by breed."""
    for path, split in (tree / "train_list.mat", TRAIN), (tree / "test_list.mat", TEST):
        entries = {f"n{label:03}/{split is TEST}{i}.jpg": label for label in range(1, 121) for i in range(2)}
        save_list(path, entries)
    first = [list(split.values())[:60] for split in dogs.read_lists(tree)]
    assert all(len(set(labels)) > 40 and max(labels) > 100 for labels in first)
    assert dogs.read_lists(tree) == dogs.read_lists(tree)


def test_the_default_size_is_128(tree):
    assert datasets.load("dogs", data_dir=tree).x_train.shape == (4, 16_384, 3)


def test_other_sizes_are_refused(tree):
    for size in 15, 129:
        with pytest.raises(ValueError, match=f"--size: {size} .* 16 to 128"):
            load(tree, size)


def test_archives_give_the_same_as_the_tree(tree, tmp_path_factory, monkeypatch):
    packed = tmp_path_factory.mktemp("packed")
    for name, members in {"IMAGES": ["Images"], "LISTS": ["test_list.mat", "train_list.mat"]}.items():
        file = getattr(dogs, name)
        with tarfile.open(packed / file.name, "w") as tar:
            for member in members:
                tar.add(tree / member, f"./{member}")
        expected = file._replace(sha256=pooch.file_hash(str(packed / file.name)))
        monkeypatch.setattr(dogs, name, expected)
    task, same = load(tree), load(packed)
    assert all((getattr(task, name) == getattr(same, name)).all() for name in task._fields[:4])
    assert {path.name for path in packed.iterdir()} == {"images.tar", "lists.tar", "pixels-16.npy"}
    for name in "images.tar", "lists.tar":
        (packed / "pixels-16.npy").unlink(missing_ok=True)
        with open(packed / name, "r+b") as file:
            file.write(b"x")
        with pytest.raises(DataError, match=f"{name} is not the original"):
            load(packed)


def test_scaled_pictures_are_kept(tree, monkeypatch):
    first = load(tree)
    assert sorted(path.name for path in tree.glob("pixels*")) == ["pixels-16.npy"]
    monkeypatch.setattr(dogs, "scale", lambda *_: pytest.fail("scaled again"))
    second = load(tree)
    assert all((getattr(first, name) == getattr(second, name)).all() for name in first._fields[:4])


def test_what_is_kept_is_kept_by_size(tree):
    load(tree, 16)
    assert load(tree, 20).x_train.shape == (4, 400, 3)
    assert sorted(path.name for path in tree.glob("pixels*")) == ["pixels-16.npy", "pixels-20.npy"]


def replace(tree):
    Image.new("RGB", (50, 30), GREEN).save(tree / "Images" / "n01-Pug" / "n01_9.jpg", "JPEG")


def test_what_is_kept_follows_the_pictures(tree, monkeypatch):
    load(tree)
    replace(tree)
    scaled, scale = [], dogs.scale
    monkeypatch.setattr(dogs, "scale", lambda data, place, size: scaled.append(place) or scale(data, place, size))
    assert near(listed(load(tree).x_test)[1], GREEN)
    assert scaled == [tree / "Images" / "n01-Pug" / "n01_9.jpg"]  # and no other
    for path in tree.rglob("*.jpg"):  # a copy of the folder has other times
        os.utime(path, (0, 0))
    assert near(listed(load(tree).x_test)[1], GREEN) and len(scaled) == 1
    shutil.rmtree(tree / "Images")  # what is gone has not changed
    assert near(listed(load(tree).x_test)[1], GREEN) and len(scaled) == 1


@pytest.fixture
def read_only(tree, tmp_path_factory, monkeypatch):
    """`tree` takes no files, the user's cache does."""
    make = tempfile.TemporaryFile

    def refuse(dir):
        if tree == dir:
            raise OSError(30, "Read-only file system", str(dir))
        return make(dir=dir)

    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


def test_pixels_of_read_only_data_are_kept_in_the_users_cache(tree, read_only, monkeypatch):
    before = sorted(tree.rglob("*"))
    first = load(tree)
    [kept] = read_only.rglob("pixels*")
    assert kept.name == "pixels-16.npy" and sorted(tree.rglob("*")) == before
    monkeypatch.setattr(dogs, "scale", lambda *_: pytest.fail("scaled again"))
    assert (load(tree).x_train == first.x_train).all()
    monkeypatch.undo()  # scale, too
    kept.write_bytes(kept.read_bytes()[:-5] + b"\7" * 5)
    monkeypatch.setenv("XDG_CACHE_HOME", str(read_only))
    with pytest.raises(DataError, match=rf"{re.escape(str(kept))} is damaged .*: delete it"):
        datasets.check("dogs", tree)


def test_pixels_that_came_with_read_only_data_are_used(tree, monkeypatch, request):
    load(tree)
    cache = request.getfixturevalue("read_only")
    monkeypatch.setattr(dogs, "scale", lambda *_: pytest.fail("scaled again"))
    load(tree)
    assert [*cache.iterdir()] == []


def test_where_nothing_can_be_kept_it_is_told_before_anything_is_scaled(tree, read_only, monkeypatch):
    monkeypatch.setattr(dogs, "scale", lambda *_: pytest.fail("scaled"))
    file = read_only / "file"
    file.write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    says = rf"cannot be kept beside the data, nor in {file}/.* \(Not a directory\): set XDG_CACHE_HOME"
    with pytest.raises(DataError, match=says):
        load(tree)


def test_too_little_room_is_told_before_anything_is_scaled(tree, monkeypatch):
    monkeypatch.setattr(dogs, "scale", lambda *_: pytest.fail("scaled"))
    needed = 6 * (3 * 32 + 16 + 3 * 16**2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=needed - 1))
    with pytest.raises(DataError) as error:
        load(tree)
    assert str(error.value) == (
        f"the scaled pictures need {needed:,} bytes, and {tree} has {needed - 1:,} free: make room there, or "
        "choose a smaller --size"
    )


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def python_objects(path):
    np.save(path, np.array([{}], object), allow_pickle=True)


@pytest.mark.parametrize("harm", [cut, empty, python_objects])
@pytest.mark.parametrize("reader", [load, lambda tree: datasets.check("dogs", tree)], ids=["load", "check"])
def test_what_is_kept_and_damaged_is_named(harm, reader, tree):
    load(tree)
    harm(tree / "pixels-16.npy")
    with pytest.raises(DataError, match=rf"{re.escape(str(tree))}/pixels-16.npy is damaged .*: delete it") as error:
        reader(tree)
    assert "\n" not in str(error.value)


def test_what_is_kept_and_may_not_be_read_is_no_damage(tree, monkeypatch):
    """Deleting it would not help."""

    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    load(tree)
    monkeypatch.setattr(np.lib.format, "open_memmap", refuse)
    with pytest.raises(PermissionError):
        load(tree)


def other_size(path):
    np.save(path, np.zeros(6, dogs.record(17)))


def earlier_form(path):
    np.save(path, np.zeros(6, [("label", "u1"), ("pixels", "u1", (256, 3))]))


def fewer(path):
    np.save(path, np.load(path)[:-1])


def other_names(path):
    """The labels are the same, the pictures are not."""
    others = {name.replace("n01_1", "n01_8"): label for name, label in TRAIN.items()}
    Image.new("RGB", (20, 20), GREEN).save(path.parent / "Images" / "n01-Pug/n01_8.jpg", "PNG")
    save_list(path.parent / "train_list.mat", others)


def other_order(path):
    save_list(path.parent / "train_list.mat", dict(reversed(TRAIN.items())))


def other_labels(path):
    save_list(path.parent / "test_list.mat", dict.fromkeys(TEST, 77))


@pytest.mark.parametrize("harm", [other_size, earlier_form, fewer, other_names, other_order, other_labels])
def test_what_is_kept_of_other_lists_is_made_anew(harm, tree):
    load(tree)
    harm(tree / "pixels-16.npy")
    with pytest.raises(DataError, match="pixels-16.npy is of other pictures or lists than are here: delete it"):
        datasets.check("dogs", tree)
    task = load(tree)
    (tree / "pixels-16.npy").unlink()
    expected = load(tree)
    assert all((getattr(task, name) == getattr(expected, name)).all() for name in task._fields[:4])


def test_check_notices_pixels_that_were_overwritten(tree):
    load(tree, 20)
    path = tree / "pixels-20.npy"
    path.write_bytes(path.read_bytes()[:-5] + b"\7" * 5)
    with pytest.raises(DataError, match=r"pixels-20.npy is damaged \(its SHA-256 is another\): delete it"):
        datasets.check("dogs", tree)


def test_check_notices_a_picture_that_was_replaced(tree):
    load(tree)
    replace(tree)
    with pytest.raises(DataError, match="pixels-16.npy is of other pictures or lists"):
        datasets.check("dogs", tree)


def test_a_large_picture_is_no_fault(tree, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 * 200 - 1)  # Pillow warns above it, and fails above twice it
    image = tree / "Images" / "n01-Pug" / "n01_2.jpg"
    Image.new("L", (200, 100), 90).save(image, "PNG")
    load(tree)
    Image.new("L", (200, 200), 90).save(image, "PNG")
    with pytest.raises(DataError) as error:
        load(tree)
    assert str(error.value) == f"{image} has more than 39,998 pixels: save it smaller"


@pytest.mark.parametrize("harm", ["cut", "text", "empty", "other format"])
def test_a_picture_that_does_not_decode_is_named(harm, tree):
    path = tree / "Images" / "n99-Dingo" / "n99_7.jpg"
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif harm == "other format":
        Image.new("RGB", (9, 9)).save(path, "BMP")
    else:
        path.write_bytes(b"no picture" if harm == "text" else b"")
    says = r"does not decode \(.*\)" if harm == "cut" else "is no JPEG or PNG"
    remedy = "restore it" if harm == "cut" else "restore it, or save it as one"
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} {says}: {remedy}$"):
        load(tree)
    assert {path.name for path in tree.iterdir()} == {"Images", "train_list.mat", "test_list.mat"}


def test_check_decodes_what_is_kept_too(tree):
    load(tree)
    (tree / "Images" / "n99-Dingo" / "n99_7.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="n99_7.jpg is no JPEG or PNG"):
        datasets.check("dogs", tree)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError("3 requested and 0 written")])
def test_a_disk_that_is_full_is_told_and_leaves_nothing(error, tree, monkeypatch, invoke):
    """The second error is NumPy's."""

    def full(file, array):
        file.write(b"half")
        raise error

    monkeypatch.setattr(np, "save", full)
    ended = invoke(*tiny("dogs", tree, "none", tree / "run"), "--size", 16)
    assert ended.status == 1 and ended.stderr == f"Error: {tree / 'pixels-16.npy'}: No space left on device\n"
    assert list(tree.glob("pixels*")) == []


def test_what_a_killed_process_left_is_removed(tree):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    here, elsewhere = keep.host(), f"{keep.host()}-2"
    left, working, others = (
        tree / f"pixels-16.npy.{name}.{pid}.0a1b2c3d.tmp"
        for name, pid in ((here, ended.pid), (here, os.getppid()), (elsewhere, ended.pid))
    )
    for path in left, working, others:
        path.write_bytes(b"half")
    load(tree)
    assert sorted(tree.glob("pixels*")) == sorted([working, others, tree / "pixels-16.npy"])


def test_two_hosts_write_two_files(tree, monkeypatch):
    """Their processes may have the same number, and two containers the same name."""
    written, hosts = [], []
    monkeypatch.setattr(os, "replace", lambda source, target: written.append(source.name))
    for name in "a.b", "a.b", "c":
        monkeypatch.setattr(platform, "node", lambda name=name: name)
        keep.save(tree / "pixels-16.npy", np.zeros(3))
        hosts.append(keep.host())
    assert len(set(written)) == 3 and len(set(hosts)) == 2 and hosts[0].startswith("a-b")
    assert all(name.startswith(f"pixels-16.npy.{host}.{os.getpid()}.") for name, host in zip(written, hosts))


def test_a_missing_picture_is_named(tree):
    (tree / "Images" / "n01-Pug" / "n01_9.jpg").unlink()
    with pytest.raises(DataError) as error:
        load(tree)
    command = f"python cli.py data fetch dogs --data-dir {tree}"
    assert str(error.value) == (
        f"{tree}/Images/n01-Pug/n01_9.jpg is missing: restore it, or get images.tar with: {command}"
    )
    (tree / "test_list.mat").unlink()
    with pytest.raises(DataError, match="/test_list.mat is missing: restore it, or get lists.tar with: python"):
        load(tree)


def test_unpacked_files_are_not_fetched(tree, invoke, monkeypatch):
    monkeypatch.setattr(pooch, "retrieve", lambda *_, **__: pytest.fail("fetched"))
    ended = invoke("data", "fetch", "dogs", "--data-dir", tree)
    assert ended.status == 0
    assert ended.stdout == (
        f"{tree} has train_list.mat and test_list.mat already, unpacked\n{tree} has Images/ already, unpacked\n"
    )


def test_what_is_unpacked_in_part_is_fetched(tree, invoke, monkeypatch):
    fetched = []

    def retrieve(url, known_hash, name, folder, downloader):
        (folder / name).write_bytes(b"")
        fetched.append(name)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    (tree / "Images" / "n01-Pug" / "n01_9.jpg").unlink()
    assert invoke("data", "fetch", "dogs", "--data-dir", tree).status == 0 and fetched == ["images.tar"]
    (tree / "images.tar").unlink()
    (tree / "test_list.mat").unlink()
    assert invoke("data", "fetch", "dogs", "--data-dir", tree).status == 0
    assert fetched == ["images.tar", "lists.tar", "images.tar"]


def test_the_list_judges_pictures_by_the_lists(tree, invoke):
    def line():
        [line] = [line for line in invoke("data", "list", "--data-dir", tree).stdout.splitlines() if "dogs" in line]
        return line

    assert line().startswith("dogs     8 files, ")
    (tree / "Images" / "n01-Pug" / "n01_9.jpg").unlink()
    assert line().startswith(f"dogs     incomplete: {tree}/Images/n01-Pug/n01_9.jpg is missing; 794.1 MB by: ")
    for name in dogs.SPLITS:
        (tree / name).unlink()
    assert line().startswith(
        f"dogs     incomplete: {tree} has neither lists.tar nor train_list.mat and test_list.mat"
    )


@pytest.mark.parametrize(
    "pictures, says",
    [
        ({**TEST, "n01-Pug/n01_3.jpg": 0}, "entry 2, n01-Pug/n01_3.jpg, has label 0, not 1 to 120"),
        ({"n01-Pug/n01_3.jpg": 1.7}, "entry 0, n01-Pug/n01_3.jpg, has label 1.7, not 1 to 120"),
        ({"n01-Pug/n01_3.jpg": 121}, "entry 0, n01-Pug/n01_3.jpg, has label 121, not 1 to 120"),
        ({"../../etc/passwd": 1}, "holds the path ../../etc/passwd, which leaves its folder"),
        ({**TEST, **dict(list(TRAIN.items())[:1])}, "both list n01-Pug/n01_1.jpg"),
        ({}, "has 0 pictures and 0 labels"),
    ],
)
def test_a_wrong_list_is_named(pictures, says, tree):
    save_list(tree / "test_list.mat", pictures)
    with pytest.raises(DataError, match=rf"{re.escape(str(tree))}.*test_list.mat.*{re.escape(says)}"):
        load(tree)


def test_a_picture_listed_twice_is_told(tree):
    names = np.array([["n01-Pug/n01_1.jpg"], ["n01-Pug/n01_1.jpg"]], object)
    savemat(tree / "train_list.mat", {"file_list": names, "labels": [[1], [1]]})
    with pytest.raises(DataError, match="train_list.mat lists a picture twice"):
        load(tree)


def test_lists_of_one_picture_will_do(tree):
    save_list(tree / "test_list.mat", {"n01-Pug/n01_9.jpg": 1})
    assert near(load(tree).x_test[0], GREY) and load(tree).y_test.tolist() == [0]


@pytest.mark.parametrize("harm", ["cut", "text", "empty", "no labels", "unlike lengths"])
def test_a_damaged_list_is_named(harm, tree):
    path = tree / "train_list.mat"
    buffer = io.BytesIO()
    savemat(buffer, {"file_list": np.array(["a.jpg", "b.jpg"], object), "labels": [[1]]})
    data = {
        "cut": path.read_bytes()[:-40],
        "text": b"no list" * 100,
        "empty": b"",
        "no labels": buffer.getvalue().replace(b"labels", b"labelz"),
        "unlike lengths": buffer.getvalue(),
    }[harm]
    path.write_bytes(data)
    says = (
        "has 2 pictures and 1 label" if harm == "unlike lengths" else "is damaged, or holds no file_list and labels"
    )
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} {says}: restore it$"):
        load(tree)


def test_check_counts_beside_the_official_numbers(tree, monkeypatch):
    part = "dogs: 4 training and 2 test sequences (a part: the whole has 12,000 and 8,580), 3 of 120 classes"
    assert datasets.check("dogs", tree) == part
    monkeypatch.setitem(datasets.TASKS, "dogs", datasets.TASKS["dogs"]._replace(whole=(4, 2)))
    assert datasets.check("dogs", tree) == "dogs: 4 training and 2 test sequences, 3 of 120 classes"


@pytest.mark.parametrize("aux, size", [("none", 16), ("r", 16), ("p", 16), ("rp", 16), ("r", 128)])
def test_each_auxiliary_loss_trains(tree, invoke, aux, size):
    ended = invoke(*tiny("dogs", tree, aux, tree / "run"), "--size", size, "--valid", 0)
    assert ended.status == 0 and "on 2 sequences" in ended.stdout
    assert arrays(tree / "run")["params/classifier.W3"].shape == (120, 6)
