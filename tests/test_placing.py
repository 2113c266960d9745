import pytest
import torch
from skeletons import hide, random_people

from xingaug.keypoints import Keypoints
from xingaug.poses.descriptor import shapes_of, torsos_of
from xingaug.poses.placing import place

FRAME = (128, 64)


def moved(people: Keypoints, scale: float, x: float, y: float) -> Keypoints:
    return Keypoints(people.xy * scale + torch.tensor([x, y]), people.visibility)


def torso(keypoints: Keypoints) -> tuple[torch.Tensor, torch.Tensor]:
    middle, length = torsos_of(keypoints.xy.numpy(), keypoints.visibility.numpy())
    return torch.from_numpy(middle).float(), torch.from_numpy(length).float()


def test_frame_leaves_a_pose_where_it_stood():
    poses, sources = random_people(5, seed=1), moved(random_people(5), 0.5, 10, 20)
    assert place(poses, sources, FRAME, "frame") is poses


def test_source_gives_the_pose_the_sources_torso():
    poses, sources = random_people(20, seed=1, missing=0.2), moved(random_people(20), 0.5, 16, 30)
    placed = place(poses, sources, FRAME, "source")
    for found, expected in zip(torso(placed), torso(sources), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    before, after = (shapes_of(kp.xy.numpy(), kp.visibility.numpy()) for kp in (poses, placed))
    torch.testing.assert_close(torch.from_numpy(after.xy), torch.from_numpy(before.xy), atol=1e-4, rtol=0)
    assert torch.equal(placed.visibility, poses.visibility)


@pytest.mark.parametrize(("scale", "x", "y"), [(1, 25, 0), (1, -25, 40), (2, -40, -60), (5, -100, -100)])
def test_a_pose_stays_inside_the_frame(scale, x, y):
    poses, sources = random_people(20, seed=1, missing=0.2), moved(random_people(20), scale, x, y)
    placed = place(poses, sources, FRAME, "source")
    assert (placed.inside(FRAME) | ~placed.present).all()
    before, after = (shapes_of(kp.xy.numpy(), kp.visibility.numpy()) for kp in (poses, placed))
    torch.testing.assert_close(torch.from_numpy(after.xy), torch.from_numpy(before.xy), atol=1e-4, rtol=0)
    if scale > 1:  # as large as the frame allows
        xy = placed.xy.where(placed.present[..., None], torch.nan)
        extent = (xy.nan_to_num(-1e9).amax(1) - xy.nan_to_num(1e9).amin(1)) / torch.tensor([63.0, 127.0])
        torch.testing.assert_close(extent.amax(1), torch.ones(20), atol=1e-3, rtol=0)


def test_without_a_torso_a_pose_stays_as_it_was():
    hips = ("right_hip", "left_hip")
    poses, sources = random_people(2, seed=1), moved(random_people(2), 0.5, 10, 20)
    assert torch.equal(place(hide(poses, *hips), sources, FRAME, "source").xy, poses.xy)
    assert torch.equal(place(poses, hide(sources, *hips), FRAME, "source").xy, poses.xy)


def test_an_empty_batch_and_an_unknown_fit():
    people = random_people(2)
    assert len(place(people[:0], people[:0], FRAME, "source")) == 0
    with pytest.raises(ValueError, match="fit: 'body', needed one of frame, source"):
        place(people, people, FRAME, "body")
