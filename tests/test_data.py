import email.message
import hashlib
import io
import os
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from dilib import data, downloads
from dilib.commands import reproduce
from dilib.downloads import Unreachable
from dilib.study.cells import Cell, Study


def write_images(root, classes=("cat", "dog"), mode="RGB", size=(40, 48)):
    for split in ("train", "test"):
        for value, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(3):
                Image.new(mode, size, 60 * value if mode == "L" else (60 * value, 0, 200)).save(folder / f"{index}.png")
    return f"folder:{root}"


def test_digits_are_whole_and_normalised():
    digits = data.load("digits")
    assert digits.train.pixels.shape == (1500, 1, 32, 32)
    assert digits.test.pixels.shape == (297, 1, 32, 32)
    images = digits.preprocessing.normalise(digits.train.pixels)
    assert abs(images.mean()) < 1e-2
    assert abs(images.std() - 1) < 1e-2
    assert torch.equal(digits.preprocessing.to_pixels(images), digits.train.pixels)


def test_scikit_learn_s_files_are_read_as_it_reads_them():
    bunch, (train, test, _) = load_digits(), data._digits()
    images = torch.from_numpy(bunch.images * 255 / 16).round().to(torch.uint8)
    pixels, labels = (torch.cat([getattr(part, kind) for part in (test, train)]) for kind in ("pixels", "labels"))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    assert torch.equal(pixels[order.argsort(), 0], images)
    assert labels[order.argsort()].tolist() == bunch.target.tolist()
    for name, picture in zip(("china", "flower"), load_sample_images().images, strict=True):
        with Image.open(data._of_scikit_learn(f"images/{name}.jpg")) as read:
            assert np.array_equal(np.asarray(read.convert("RGB")), picture)


def test_without_scikit_learn_the_digits_say_what_is_missing(monkeypatch):
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    with pytest.raises(Unreachable, match=r"come with scikit-learn; get it by pip install '\.\[study\]'"):
        data._digits()


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_anyones_image_folder(tmp_path, mode, channels):
    loaded = data.load(write_images(tmp_path / "pets", mode=mode), tmp_path / "cache")
    assert (loaded.title, loaded.classes) == ("pets", ("cat", "dog"))
    assert loaded.train.pixels.shape == (6, channels, 32, 32)
    assert loaded.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert loaded.train.pixels[5].float().mean((1, 2)).tolist() == ([60.0] if channels == 1 else [60.0, 0.0, 200.0])


def test_larger_images_are_cropped_at_their_centre(tmp_path):
    name = write_images(tmp_path / "pets")
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, 16:48] = 255
    Image.fromarray(picture).save(tmp_path / "pets/train/cat/0.png")
    assert data.load(name, tmp_path / "cache").train.pixels[0].min() == 255


def test_a_folder_may_name_itself(tmp_path):
    name = write_images(tmp_path / "pets")
    (tmp_path / "pets" / "title.txt").write_text("Pets (JPEG)\n")
    assert (data.title(name), data.slug(name)) == ("Pets (JPEG)", "folder-pets")


def test_a_title_is_one_line_of_at_most_80_characters(tmp_path):
    for text, expected in (
        ("  My\n own \t set\x1b[31m\u202e ", "My own set[31m"),
        ("x" * 200, "x" * 80),
        ("\x00 \n", "mine"),
    ):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / "title.txt").write_text(text)
        assert data.title(f"folder:{tmp_path / 'mine'}") == expected
    (tmp_path / "mine" / "title.txt").write_bytes(b"caf\xe9")
    assert data.title(f"folder:{tmp_path / 'mine'}") == "caf\N{REPLACEMENT CHARACTER}"


def test_a_changed_folder_is_decoded_again(tmp_path):
    name = write_images(tmp_path / "pets")
    data.load(name, tmp_path / "cache")
    Image.new("RGB", (32, 32), (9, 9, 9)).save(tmp_path / "pets/train/cat/0.png")
    assert data.load(name, tmp_path / "cache").train.pixels[0].unique().tolist() == [9]


def write(picture, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)


def test_16_bits_are_scaled_to_8(tmp_path):
    name = write_images(tmp_path / "pets", mode="L")
    steps = np.repeat(np.array([[0, 257, 32768, 65535]], np.uint16), 4, 0).repeat(8, 0).repeat(8, 1)
    write(Image.fromarray(steps), tmp_path / "pets/train/cat/0.png")
    image = data.load(name, tmp_path / "cache").train.pixels[0, 0]
    assert image[0, 4::8].tolist() == [0, 1, 128, 255]


def test_a_set_is_in_colour_if_any_image_is(tmp_path):
    name = write_images(tmp_path / "pets", mode="L")
    write(Image.new("RGB", (32, 32), (200, 10, 30)), tmp_path / "pets/train/dog/2.png")
    pixels = data.load(name, tmp_path / "cache").train.pixels
    assert pixels[5, :, 0, 0].tolist() == [200, 10, 30]
    assert pixels[4, :, 0, 0].tolist() == [60, 60, 60]


def test_pictures_are_turned_as_their_exif_data_say(tmp_path):
    name = write_images(tmp_path / "pets")
    upper_half = np.zeros((32, 32, 3), np.uint8)
    upper_half[:16] = 250
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    write(Image.fromarray(upper_half), tmp_path / "pets/train/cat/0.png", exif=exif)
    image = data.load(name, tmp_path / "cache").train.pixels[0, 0]
    assert (image[:, :16].max(), image[:, 16:].min()) == (0, 250), "the upper half is on the right"


def test_what_is_transparent_lies_on_white(tmp_path):
    name = write_images(tmp_path / "pets")
    see_through = np.zeros((32, 32, 4), np.uint8)
    see_through[16:] = (10, 20, 30, 255)
    write(Image.fromarray(see_through), tmp_path / "pets/train/cat/0.png")
    image = data.load(name, tmp_path / "cache").train.pixels[0]
    assert (image[:, 0, 0].tolist(), image[:, 31, 0].tolist()) == ([255, 255, 255], [10, 20, 30])


def test_a_channel_that_never_varies_stays_finite(tmp_path):
    """Its deviation is 0; it is taken for one grey level."""
    loaded = data.load(write_images(tmp_path / "pets"), tmp_path / "cache")  # green is 0 everywhere
    assert loaded.preprocessing.std[1] == round(1 / 255, 4)
    images = loaded.preprocessing.normalise(loaded.train.pixels)
    assert images.isfinite().all()
    assert torch.equal(loaded.preprocessing.to_pixels(images), loaded.train.pixels)


def test_images_in_sub_folders_of_a_class_are_its_images_and_hidden_folders_are_no_class(tmp_path):
    name = write_images(tmp_path / "pets")
    write(Image.new("RGB", (32, 32), (9, 9, 9)), tmp_path / "pets/train/cat/more/0.png")
    write(Image.new("RGB", (32, 32)), tmp_path / "pets/train/.ipynb_checkpoints/0.png")
    loaded = data.load(name, tmp_path / "cache")
    assert loaded.classes == ("cat", "dog")
    assert loaded.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert 9 in loaded.train.pixels[:4, 0, 0, 0].tolist()


def test_settings_know_folders_of_one_name_apart_and_copies_alike(tmp_path):
    """By what is in the images, and in which class; not by where the folder is, nor by time."""
    names = [write_images(tmp_path / place / "pets") for place in ("a", "b", "c", "d")]
    Image.new("RGB", (40, 48), (1, 1, 1)).save(tmp_path / "b/pets/train/cat/0.png")
    (tmp_path / "c/pets/train/cat/0.png").rename(tmp_path / "c/pets/train/dog/9.png")
    first, other_image, moved, copy = (data.identity(name, tmp_path / "cache") for name in names)
    assert first.startswith("folder-pets@")
    assert len({first, other_image, moved}) == 3
    assert first == copy
    studies = [Study.open("smoke", name, tmp_path / "results", tmp_path / "artifacts") for name in names[:2]]
    made = [study.result(Cell("count", {}, lambda: {"one": 1})) for study in studies]
    assert made[0]["settings"] != made[1]["settings"]
    assert [study.finished(Cell("count", {}, dict)) for study in studies] == [[], [made[1]]]


def test_images_that_change_places_are_noticed(tmp_path):
    """Even where sizes and times stay, as after unpacking an archive whose files have one time."""
    name = write_images(tmp_path / "pets")
    cat, dog = (tmp_path / f"pets/train/{kind}/0.bmp" for kind in ("cat", "dog"))
    for path, level in ((cat, 10), (dog, 20)):
        Image.new("RGB", (32, 32), (level,) * 3).save(path)
        os.utime(path, (1e9, 1e9))
    before = data.identity(name, tmp_path / "cache"), data.load(name, tmp_path / "cache").train.pixels[:, 0, 0, 0]
    content = cat.read_bytes(), dog.read_bytes()
    dog.write_bytes(content[0])
    cat.write_bytes(content[1])
    for path in (cat, dog):
        os.utime(path, (1e9, 1e9))
    data.files_digest.cache_clear()
    assert data.identity(name, tmp_path / "cache") != before[0]
    assert not torch.equal(data.load(name, tmp_path / "cache").train.pixels[:, 0, 0, 0], before[1])


def two_hundred_megapixels(root):
    name = write_images(root)
    Image.new("1", (20_000, 10_000)).save(root / "train/cat/0.png")
    return name


def only_in_test(root):
    name = write_images(root)
    write(Image.new("RGB", (32, 32)), root / "test/emu/0.png")
    return name


def beside_the_classes(root):
    name = write_images(root)
    write(Image.new("RGB", (32, 32)), root / "train/stray.png")
    return name


def floating_point(root):
    name = write_images(root)
    Image.fromarray(np.zeros((32, 32), np.float32)).save(root / "train/cat/0.tif")
    return name


def one_class(root):
    return write_images(root, classes=("cat",))


def unreadable(root):
    name = write_images(root)
    (root / "train/cat/1.png").write_bytes(b"no image")
    return name


def broken_link(root):
    name = write_images(root)
    (root / "train/cat/1.png").unlink()
    (root / "train/cat/1.png").symlink_to(root / "nowhere.png")
    return name


def empty_class(root):
    name = write_images(root)
    (root / "train/emu").mkdir()
    return name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: "minst", "unknown data set 'minst'; choose from digits, photographs, .* or folder:PATH"),
        (lambda root: f"folder:{root}", r"no image folder at .*expected .*train/CLASS/\*\.jpg"),
        (one_class, r"has 1 class folder\(s\); a classifier needs at least 2"),
        (unreadable, r"train/cat/1\.png can't be read as an image \(no format that is known\); repair or remove it"),
        (broken_link, r"train/cat/1\.png can't be read \(No such file or directory\); repair or remove it"),
        (
            two_hundred_megapixels,
            r"train/cat/0\.png can't be read as an image \(Image size \(200000000 pixels\) exceeds",
        ),
        (only_in_test, r"test has classes that train/ lacks \(emu\); add or remove them"),
        (beside_the_classes, r"train has images outside of class folders \(stray\.png\); put them into one"),
        (
            floating_point,
            r"train/cat/0\.tif can't be read as an image \(the range of its pixels is not known",
        ),
        (empty_class, "train: Found no valid file for the classes emu.*; put files ending in"),
    ],
)
def test_bad_names_and_folders_are_refused_in_one_line(tmp_path, make, message):
    with pytest.raises(ValueError, match=message) as error:
        data.load(make(tmp_path / "pets"), tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache").rglob("*.npy")) or make in (unreadable, floating_point)


def test_a_download_lands_whole_or_not_at_all(tmp_path):
    def breaks_off(target):
        (target / "half").write_text("half")
        raise OSError("connection reset")

    with pytest.raises(Unreachable, match=r"CIFAR-10 could not be downloaded \(connection reset\); connect"):
        downloads.fetched(tmp_path / "cifar10", breaks_off, "CIFAR-10")
    assert list(tmp_path.iterdir()) == []

    def works(target):
        (target / "whole").write_text("whole")

    assert (downloads.fetched(tmp_path / "cifar10", works, "CIFAR-10") / "whole").read_text() == "whole"
    again = downloads.fetched(tmp_path / "cifar10", breaks_off, "CIFAR-10")
    assert again == tmp_path / "cifar10", "it is there already"


@pytest.fixture
def network(monkeypatch):
    """A network that answers every request with an archive, and notes the addresses."""
    packed, asked = io.BytesIO(), []
    with tarfile.open(fileobj=packed, mode="w:gz") as file:
        file.addfile(tarfile.TarInfo("inner/empty.bin"))

    def answered(request, *_, **__):
        asked.append(request.full_url)
        response = io.BytesIO(packed.getvalue())
        response.info = email.message.Message
        return response

    monkeypatch.setattr(torch.hub, "urlopen", answered)
    return hashlib.sha256(packed.getvalue()).hexdigest(), asked


def test_downloads_are_checked_by_sha256_and_come_by_https(tmp_path, network):
    sha256, asked = network
    whole = downloads.fetched(tmp_path / "a", downloads.archive("https://a.example/x.tgz", sha256), "A")
    assert [path.name for path in whole.rglob("*")] == ["inner", "empty.bin"]
    with pytest.raises(Unreachable, match=r"^B could not be downloaded \(invalid hash value"):
        downloads.fetched(tmp_path / "b", downloads.archive("https://b.example/x.tgz", "0" * 64), "B")
    with pytest.raises(ValueError, match=r"^http://c.example/x.tgz is not an HTTPS address"):
        downloads.fetched(tmp_path / "c", downloads.archive("http://c.example/x.tgz", sha256), "C")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert asked == ["https://a.example/x.tgz", "https://b.example/x.tgz"]


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100", "flowers102", "cub200"])
def test_every_data_set_is_asked_for_by_https_and_another_file_is_refused(tmp_path, network, monkeypatch, name):
    def no_package(*_):
        raise OSError("no apt-get")

    monkeypatch.setattr(data, "debian_package", no_package)
    with pytest.raises(Unreachable, match="invalid hash value"):
        data.load(name, tmp_path)
    assert network[1]
    assert all(address.startswith("https://") for address in network[1])
    assert list(tmp_path.iterdir()) == []


def test_fashion_mnist_that_cannot_be_had_says_what_was_tried(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(data, "download", unreachable)
    monkeypatch.setattr(data, "debian_package", unreachable)
    with pytest.raises(Unreachable, match=r"tried its authors' repository .*no route.* and Debian's package") as error:
        data.load("fashion_mnist", tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_the_laptop_default_falls_back_to_digits_and_says_so(tmp_path, monkeypatch, capsys):
    def unreachable(_):
        raise Unreachable("Fashion-MNIST could not be had")

    monkeypatch.setattr(data, "_fetch_fashion_mnist", unreachable)
    places = ["--results", str(tmp_path / "results"), "--artifacts", str(tmp_path / "artifacts")]
    study = reproduce._open_study(reproduce._parse(places))
    assert study.dataset == "digits"
    assert "could not be had\nGoing on with digits instead." in capsys.readouterr().err
    assert reproduce.main(["--dataset", "fashion_mnist", *places]) == 2, "asked for by name, it is not replaced"
