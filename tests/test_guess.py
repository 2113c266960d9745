"""A folder of crops without a description: which pattern its names are read by."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telling import told

from xingaug.cli import main
from xingaug.data.guess import guess_dataset
from xingaug.data.readers import Dataset

PERSONS, CAMERAS, IMAGES = range(1, 8), (1, 2), range(3)


def touch(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def named(form: str, persons: object = PERSONS, cameras: object = CAMERAS) -> list[str]:
    return [form.format(p=p, c=c, i=i, n=f"n{chr(96 + p)}") for p in persons for c in cameras for i in IMAGES]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("form", "pattern", "cameras"),
    [
        ("{p:04d}_c{c}_{i:03d}.jpg", "{pid:d}_c{camid:d}_*", 2),
        ("{p:04d}_c{c}s1_{i:06d}_00.jpg", "{pid:d}_c{camid:d}s*", 2),
        ("{p:04d}C{c}T{i:04d}.jpg", "{pid:d}C{camid:d}T*", 2),
        ("person{p}/cam{c}/{i:05d}.png", "person{pid:d}/cam{camid:d}/*", 2),
        ("cam{c}/{p:04d}_{i:03d}.jpg", "cam{camid:d}/{pid:d}_*", 2),
        ("id_{p}_cam_{c}_frame_{i}.jpg", "id_{pid:d}_cam_{camid:d}_*", 2),
        ("img_{i:05d}_pid{p}_c{c}.jpg", "*_pid{pid:d}_c{camid:d}.*", 2),
        ("{p}-{c}-{i}{p}.bmp", "{pid:d}-{camid:d}-*", 2),
        ("n{n}/c{c}_{i:05d}.png", "{pid}/c{camid:d}_*", 2),
        ("{n}x_c{c}_{i}.jpg", "{pid}_c{camid:d}_*", 2),
        ("images/{p}/{c}{i}.jpeg", "*/{pid:d}/*", 1),
        ("{p:04d}_{c}{i}7.jpg", "{pid:d}_*", 1),
        ("{n}/{c}{i:05d}.png", "{pid}/*", 1),
        ("{p:04d}/{c}_{i}.jpg", "{pid:d}/*", 1),
        ("{p:04d}/{c}_{i:03d}_7.jpg", "{pid:d}/*", 1),
        ("{n}/clip{c}_{i:02d}.jpg", "{pid}/*", 1),
        ("{p:04d}/{p:04d}C{c}T0001F{i:03d}.jpg", "{pid:d}/*C{camid:d}T*", 2),
        ("{p:04d}/outdoor_cam{c}/{i:03d}.jpg", "{pid:d}/outdoor_cam{camid:d}/*", 2),
        ("front_cam{c}/{p:04d}/{i:03d}.jpg", "front_cam{camid:d}/{pid:d}/*", 2),
        ("{p:04d}/track{c}_frame{i:03d}.jpg", "{pid:d}/*", 1),
        ("video{c}/{p}_{i:03d}.jpg", "*/{pid:d}_*", 1),
    ],
)
def test_a_pattern_is_guessed(tmp_path: Path, form: str, pattern: str, cameras: int) -> None:
    names = named(form)
    guess = guess_dataset(touch(tmp_path / "crops", names))
    assert guess.config.train is not None
    assert guess.config.train.pattern == pattern
    assert f"'{pattern}' (guessed)" in guess.sentence
    train = Dataset(tmp_path / "crops", tmp_path / "crops", guess.config).read("train")
    assert train.names.tolist() == sorted(names)
    assert len(set(train.pids.tolist())) == len(PERSONS)
    assert len(set(train.camids.tolist())) == cameras


@settings(max_examples=40, deadline=None)
@given(
    order=st.permutations(["person", "camera", "number"]),
    words=st.tuples(st.sampled_from(["pid", "id", "person"]), st.sampled_from(["c", "cam", "camera"])),
    separator=st.sampled_from(["_", "-", "__", "."]),
    folders=st.booleans(),
    first=st.integers(1, 900),
)
def test_words_tell_person_and_camera_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], words: tuple[str, str], separator: str, folders: bool,
    first: int,
) -> None:  # fmt: skip
    root = tmp_path_factory.mktemp("crops")
    truth = {}
    for p in range(first, first + 4):
        for c in (1, 2):
            for i in range(3):
                parts = {"person": f"{words[0]}{p}", "camera": f"{words[1]}{c}", "number": f"{i:03d}"}
                texts = [parts[part] for part in order]
                name = "/".join([*texts[:-1], f"{texts[-1]}.jpg"]) if folders else separator.join(texts) + ".jpg"
                truth[name] = (p, c)
    guess = guess_dataset(touch(root, list(truth)))
    train = Dataset(root, root, guess.config).read("train")
    found = dict(zip(train.names.tolist(), zip(train.pids.tolist(), train.camids.tolist(), strict=True), strict=True))
    assert found == truth


def test_junk_and_distractors_of_the_gallery_are_no_persons(tmp_path: Path) -> None:
    form = "{p:04d}_c{c}s1_{i:06d}_00.jpg"
    names = [f"train/{name}" for name in named(form)] + [f"query/{name}" for name in named(form, (20, 21))]
    extras = named("-1_c{c}s1_{i:06d}_00.jpg", (1,)) + named("0000_c{c}s1_{i:06d}_00.jpg", (1,))
    names += [f"test/{name}" for name in named(form, (20, 21)) + extras]
    guess = guess_dataset(touch(tmp_path / "tree", names))
    assert "'{pid:d}_c{camid:d}s*' (guessed)" in guess.sentence
    gallery = Dataset(tmp_path / "tree", tmp_path / "tree", guess.config).read("gallery")
    assert sorted(set(gallery.pids.tolist())) == [0, 20, 21]
    names = [f"train/{name}" for name in [*named(form), *extras]]
    assert "give their pattern" in told(guess_dataset, touch(tmp_path / "junk", names))


def test_of_two_folders_that_may_be_the_person_none_is_taken(tmp_path: Path) -> None:
    root = touch(tmp_path / "nested", named("{p:04d}/{c}/{i}.jpg"))
    message = told(guess_dataset, root)
    assert 'may be the person; needed their pattern, such as --pattern "*/{pid}/*" or --pattern "{pid}/*/*"' in message
    train = guess_dataset(root, "{pid}/*/*").config.train
    assert train is not None
    assert train.pattern == "{pid}/*/*"


def test_images_beside_the_splits_are_counted(tmp_path: Path) -> None:
    names = [f"{folder}{name}" for folder in ("train/", "val/", "") for name in named("{p:04d}_c{c}_{i}.jpg")]
    assert "84 images outside these folders are left out" in guess_dataset(touch(tmp_path, names)).sentence


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    names = [f"{folder}/{name}" for folder in ("train", "gallery", "test") for name in named("{p:04d}_c{c}_{i}.jpg")]
    assert "gallery and test both mean gallery" in told(guess_dataset, touch(tmp_path, names))


def test_a_folder_is_checked_as_it_would_be_augmented(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = touch(tmp_path / "crops", [f"train/{name}" for name in named("{p:04d}_c{c}_{i}.jpg")])
    for path in root.rglob("*.jpg"):
        path.write_text(path.name)  # images of two persons must differ
    assert main(["check", str(root)]) == 0
    out, err = capsys.readouterr()
    assert out == "train: 42 images, 7 identities, 2 cameras\nno leaks\n"
    assert "the pattern '{pid:d}_c{camid:d}_*' (guessed)" in err
    described = "layout: pattern\nroot: .\ntrain: {folder: train, pattern: '*_c{pid:d}_{camid:d}*'}\n"
    (root / "dataset.yaml").write_text("names: {0: person}\n")  # another program's
    assert main(["check", str(root)]) == 0
    assert capsys.readouterr().out == out
    (root / "dataset.yaml").write_text(described.replace("{camid:d}", "*").replace("**", "*"))
    assert main(["check", str(root)]) == 0
    assert "2 identities" in capsys.readouterr().out
    (root / "dataset.yaml").write_text("layout: pattern\ntrain: {folder: train")
    assert main(["check", str(root)]) == 2
    assert "dataset.yaml" in capsys.readouterr().err


def test_a_pattern_can_be_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = touch(tmp_path / "nested", named("{p:04d}/{c}/{i}.jpg"))
    for path in root.rglob("*.jpg"):
        path.write_text(str(path))
    assert main(["check", str(root)]) == 2
    assert main(["check", str(root), "--pattern", "{pid}/{camid}/*"]) == 0
    assert "7 identities, 2 cameras" in capsys.readouterr().out
    (tmp_path / "above" / "tree" / "bounding_box_train").mkdir(parents=True)
    touch(tmp_path / "above", named("tree/bounding_box_train/{p:04d}_c{c}s1_00000{i}_00.jpg"))
    assert main(["check", str(tmp_path / "above")]) == 2
    assert "is no dataset, but" in capsys.readouterr().err


def test_folders_tell_splits(tmp_path: Path) -> None:
    form = "{p:04d}_c{c}_{i}.jpg"
    names = [f"crops/Train/{name}" for name in named(form)]
    names += [f"crops/probe/{name}" for name in named(form, (20, 21))] + ["crops/readme.txt"]
    names += [f"crops/test/{name}" for name in named(form, (20, 21))]
    guess = guess_dataset(touch(tmp_path, names))
    dataset = Dataset(tmp_path, tmp_path, guess.config)
    assert {name: len(split) for name, split in dataset.read_all().items()} == {"train": 42, "query": 12, "gallery": 12}
    assert "train in crops/Train, query in crops/probe, gallery in crops/test" in guess.sentence


def test_a_query_without_camera_is_matched_with_the_gallery(tmp_path: Path) -> None:
    names = [f"{split}/{p:04d}_{i}.jpg" for split in ("train", "query", "test") for p in PERSONS for i in IMAGES]
    splits = Dataset(tmp_path, tmp_path, guess_dataset(touch(tmp_path, names)).config).read_all()
    assert {name: set(split.camids.tolist()) for name, split in splits.items()} == {
        "train": {1}, "query": {1}, "gallery": {2}
    }  # fmt: skip


def test_zero_is_numbered_as_text(tmp_path: Path) -> None:
    guess = guess_dataset(touch(tmp_path, named("{p:04d}_c{c}_{i}.jpg", range(5), (0, 1))))
    train = Dataset(tmp_path, tmp_path, guess.config).read("train")
    assert (train.pids.min(), train.pids.max(), train.camids.min()) == (1, 5, 1)


def test_a_pattern_that_is_given_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, named("{p:04d}_c{c}_{i}.jpg"))
    guess = guess_dataset(tmp_path, "*_c{pid:d}_*")
    assert guess.config.train is not None
    assert guess.config.train.pattern == "*_c{pid:d}_*"
    assert "(given)" in guess.sentence


def test_what_cannot_be_guessed_is_told(tmp_path: Path) -> None:
    assert "no such folder" in told(guess_dataset, tmp_path / "none")
    assert "holds no image" in told(guess_dataset, touch(tmp_path / "empty", ["a.txt"]))
    numbers = touch(tmp_path / "numbers", [f"{i:05d}.jpg" for i in range(20)])
    message = told(guess_dataset, numbers)
    assert "no identities with several images each found in the names of its 20 images, such as" in message
    assert "00000.jpg; give their pattern" in message
    assert "unknown field {x}" in told(guess_dataset, numbers, "{pid:d}_{x}")
    assert "none of training images" in told(guess_dataset, touch(tmp_path / "test", ["query/1_1.jpg", "a/2_1.jpg"]))
