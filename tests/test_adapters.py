"""torchvision v2 and albumentations: the transform's own images and keypoints, in their libraries' types."""

from typing import Any

import albumentations
import numpy as np
import pytest
import torch
from posing import SIZE, images_of, keys_of, make, persons
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from xingaug.augment import for_albumentations, for_torchvision
from xingaug.augment.output import XingPoseOutput
from xingaug.images import bytes_to_unit, unit_to_bytes

COUNT = 12


def bytes_of(count: int = COUNT) -> np.ndarray:
    """uint8 (count, H, W, 3)."""
    return unit_to_bytes(images_of(count)).numpy()


def expected(epoch: int = 0, **arguments: Any) -> XingPoseOutput:
    return make(**arguments)(
        bytes_to_unit(torch.from_numpy(bytes_of())), persons(COUNT), keys=keys_of(COUNT), epoch=epoch
    )


# torchvision


def tv_sample(row: int | None = None, dtype: torch.dtype = torch.uint8) -> dict[str, Any]:
    images = torch.from_numpy(bytes_of()).movedim(-1, 1)
    images, joints, keys = images if dtype == torch.uint8 else images.to(dtype) / 255, persons(COUNT), keys_of(COUNT)
    which: Any = slice(None) if row is None else row
    return {
        "image": tv_tensors.Image(images[which]),
        "keypoints": tv_tensors.KeyPoints(joints.xy[which], canvas_size=SIZE),
        "visibility": joints.visibility[which],
        "key": keys[which],
        "label": 7,
    }


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_torchvision_samples_one_by_one_and_as_a_batch(dtype: torch.dtype) -> None:
    transform, out = for_torchvision.RenderPose(make()), expected()
    batch = transform(tv_sample(dtype=dtype))
    singles = [transform(tv_sample(row, dtype)) for row in range(COUNT)]
    unit = batch["image"] / 255 if dtype == torch.uint8 else batch["image"]
    assert torch.allclose(unit.as_subclass(torch.Tensor), out.images, atol=0.51 / 255)
    assert torch.equal(batch["is_synthetic"], out.is_synthetic)
    assert torch.equal(batch["keypoints"].as_subclass(torch.Tensor), out.keypoints.xy)
    for row, single in enumerate(singles):
        assert isinstance(single["image"], tv_tensors.Image)
        assert isinstance(single["keypoints"], tv_tensors.KeyPoints)
        assert single["image"].dtype == dtype
        assert single["is_synthetic"] is bool(out.is_synthetic[row])
        assert (single["image"].float() - batch["image"][row].float()).abs().max() <= 1 + 1e-6
        assert torch.equal(single["keypoints"], batch["keypoints"][row])
        assert single["label"] == 7


def test_torchvision_transforms_follow() -> None:
    chain = v2.Compose([for_torchvision.RenderPose(make(p=1)), v2.RandomHorizontalFlip(p=1)])
    sample, out = chain(tv_sample(0, torch.float32)), expected(p=1)
    assert torch.allclose(sample["image"].as_subclass(torch.Tensor), out.images[0].flip(-1), atol=1e-5)
    assert torch.allclose(sample["keypoints"][:, 0], SIZE[1] - 1 - out.keypoints.xy[0, :, 0], atol=1)


class Samples(Dataset):
    """Renders in the workers."""

    def __init__(self, transform: for_torchvision.RenderPose) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, row: int) -> tuple[torch.Tensor, bool]:
        sample = self.transform(tv_sample(row))
        return sample["image"].as_subclass(torch.Tensor), sample["is_synthetic"]


def test_workers_that_persist_see_the_epoch() -> None:
    transform = for_torchvision.RenderPose(make())
    loader = DataLoader(Samples(transform), batch_size=4, num_workers=2, persistent_workers=True)
    for epoch in (0, 1, 5):
        transform.set_epoch(epoch)
        images, flags = (torch.cat(parts) for parts in zip(*loader, strict=True))
        out = expected(epoch)
        assert torch.equal(flags, out.is_synthetic)
        assert torch.allclose(images.float() / 255, out.images, atol=1.51 / 255)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(3, 32, 16)}, "sample: image is Tensor, needed a mapping whose 'image' is Image"),
        ({"key": None}, "sample: key is NoneType, needed a mapping whose 'key' is str or list or tuple"),
        ({"visibility": None}, "sample: visibility is NoneType"),
        ({"visibility": torch.ones(18, dtype=torch.int64)}, "visibility: torch.int64, needed floating point"),
        (
            {"keypoints": tv_tensors.KeyPoints(torch.zeros(18, 2), canvas_size=(64, 32))},
            r"canvas size \(64, 32\), needed the image's, \(32, 16\)",
        ),
    ],
)
def test_torchvision_samples_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        for_torchvision.RenderPose(make())({**tv_sample(0), **change})


# albumentations


def compose(transform: for_albumentations.RenderPose, *more: Any) -> albumentations.Compose:
    return albumentations.Compose([transform, *more], keypoint_params=for_albumentations.KEYPOINTS)


def album_sample(row: int) -> dict[str, Any]:
    joints = persons(COUNT)[row]
    return {
        "image": bytes_of()[row], "keypoints": joints.xy.numpy(), "visibility": joints.visibility.numpy(),
        "key": keys_of(COUNT)[row],
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_albumentations_samples(dtype: type) -> None:
    transform, out = for_albumentations.RenderPose(make()), expected()
    chain = compose(transform)
    for row in range(COUNT):
        sample = album_sample(row)
        if dtype is np.float32:
            sample["image"] = sample["image"].astype(np.float32) / 255
        found = chain(**sample)
        assert found["image"].dtype == dtype
        unit = found["image"] / 255 if dtype is np.uint8 else found["image"]
        np.testing.assert_allclose(unit, out.images[row].movedim(0, -1).numpy(), atol=0.51 / 255)
        np.testing.assert_allclose(found["keypoints"], out.keypoints.xy[row].numpy(), atol=1e-4)
        np.testing.assert_allclose(found["visibility"], out.keypoints.visibility[row].numpy())


def test_albumentations_own_randomness_is_neither_used_nor_moved() -> None:
    chains = [compose(for_albumentations.RenderPose(make()), albumentations.RandomBrightnessContrast(p=1))]
    chains.append(albumentations.Compose([albumentations.RandomBrightnessContrast(p=1)]))
    for chain in chains:
        chain.set_random_seed(4)
    row = int((~expected().is_synthetic).nonzero()[0, 0])
    sample = album_sample(row)
    assert np.array_equal(chains[0](**sample)["image"], chains[1](image=sample["image"])["image"])


def test_a_replay_gives_the_same_pose_and_pixels_and_refuses_another_image() -> None:
    flip = albumentations.HorizontalFlip(p=0.5)
    chain = albumentations.ReplayCompose(
        [for_albumentations.RenderPose(make()), flip], keypoint_params=for_albumentations.KEYPOINTS
    )
    for row in range(COUNT):  # rendered and real ones, flipped and not
        found = chain(**album_sample(row))
        again = albumentations.ReplayCompose.replay(found["replay"], **album_sample(row))
        for name in ("image", "keypoints", "visibility"):
            np.testing.assert_array_equal(again[name], found[name])
    with pytest.raises(ValueError, match="not the recorded image"):
        albumentations.ReplayCompose.replay(found["replay"], **album_sample(0))
    with pytest.raises(ValueError, match="augment: None, and nothing to replay"):
        compose(for_albumentations.RenderPose())(**album_sample(0))


@pytest.mark.parametrize("more", ["mask", "depth"])
def test_what_cannot_follow_a_pose_is_refused(more: str) -> None:
    chain = albumentations.Compose(
        [for_albumentations.RenderPose(make())], keypoint_params=for_albumentations.KEYPOINTS,
        additional_targets={"depth": "image"},
    )  # fmt: skip
    with pytest.raises(ValueError, match="renders `image` alone; masks and additional targets cannot follow"):
        chain(**album_sample(0), **{more: 255 - bytes_of()[0]})


def test_keypoints_of_a_smaller_frame_are_noticed_one_by_one() -> None:
    chain = compose(for_albumentations.RenderPose(make()))
    for row in range(4):
        sample = album_sample(row)
        sample["image"] = np.repeat(np.repeat(sample["image"], 2, axis=0), 2, axis=1)
        if row < 3:
            chain(**sample)
    with pytest.raises(ValueError, match="top left quarter of images of 64x32; they belong to a smaller frame"):
        chain(**sample)


def test_albumentations_epoch_is_set() -> None:
    transform = for_albumentations.RenderPose(make())
    transform.set_epoch(3)
    chain = compose(transform)
    changed = [not np.array_equal(chain(**album_sample(row))["image"], bytes_of()[row]) for row in range(COUNT)]
    assert changed == expected(3).is_synthetic.tolist()


def test_albumentations_keypoints_that_do_not_fit() -> None:
    transform, sample = for_albumentations.RenderPose(make()), album_sample(0)
    bare = albumentations.Compose([transform], keypoint_params=albumentations.KeypointParams(format="xy"))
    del sample["visibility"]
    with pytest.raises(ValueError, match=r"keypoints: \(18, 5\), needed 18 with their visibility; give Compose"):
        bare(**sample)
    with pytest.raises(ValueError, match=r"keypoints: \(17, 6\), needed 18"):
        compose(transform)(**{**album_sample(0), "keypoints": sample["keypoints"][:17], "visibility": np.ones(17)})


@pytest.mark.parametrize("module", [for_torchvision, for_albumentations])
def test_a_sample_stays_one_sample(module: Any) -> None:
    with pytest.raises(ValueError, match="mode 'append', needed 'replace'"):
        module.RenderPose(make(mode="append"))
