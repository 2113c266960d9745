"""Generator training: one step, the loop, and what it leaves on disk."""

import copy
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from training_runs import ALONE, GENERATOR, config, first_batch, stats_of, trainer

from xingaug.bench.launches import LaunchCounter
from xingaug.config import from_mapping
from xingaug.data.pairs import PairData
from xingaug.errors import BadInput, WorkFailed
from xingaug.generators import SIZES, XingGAN, load_generator
from xingaug.generators.discriminators import PatchDiscriminator, ResidualDiscriminator
from xingaug.generators.xinggan import XingGANConfig
from xingaug.programs import load_program, run_program
from xingaug.training import losses
from xingaug.training.batches import make_batch, rows_of_steps
from xingaug.training.config import TrainConfig
from xingaug.training.loop import plan, train
from xingaug.training.processes import Processes
from xingaug.training.steps import read, update_average
from xingaug.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("narrow_discriminators")


def test_overfits_one_batch(data: PairData) -> None:
    overfitting = trainer(steps=200, batch_size=2, lr=4e-3, discriminators={"start": 1.0})
    batch = first_batch(overfitting.config, data)
    first = overfitting.train_step(batch)["l1"]
    for _ in range(79):
        last = overfitting.train_step(batch)["l1"]
    assert last < 0.6 * first


@pytest.mark.parametrize("appearance", ["patch", "residual", "none"])
@pytest.mark.parametrize("shape", ["patch", "residual", "none"])
def test_discriminators_are_switched_on_their_own(appearance: str, shape: str, data: PairData) -> None:
    kinds = {"patch": PatchDiscriminator, "residual": ResidualDiscriminator}
    chosen = {name: kind for name, kind in (("appearance", appearance), ("shape", shape)) if kind != "none"}
    started = trainer(batch_size=2, discriminators={"appearance": appearance, "shape": shape, "start": 0.0})
    built = {name: type(loss.discriminator) for name, loss in started.discriminators.items()}
    assert built == {n: kinds[k] for n, k in chosen.items()}
    before = [p.detach().clone() for p in started.discriminators.parameters()]
    logged = started.train_step(first_batch(started.config, data))
    assert ({"adversarial", "feature_matching", "discriminators"} <= set(logged)) == bool(chosen)
    moved = [not torch.equal(p, q) for p, q in zip(started.discriminators.parameters(), before, strict=True)]
    assert sum(moved) >= 0.8 * len(moved)  # a bias may find both sides alike


def test_discriminators_that_no_loss_asks_are_not_trained() -> None:
    assert len(trainer(losses={"adversarial": 0.0}).discriminators) == 2
    assert not trainer(losses={"adversarial": 0.0, "feature_matching": 0.0}).discriminators


@pytest.mark.parametrize(("weight", "passes"), [(1.0, 4), (0.0, 3)])
def test_features_that_no_loss_asks_for_are_not_computed(weight: float, passes: int, data: PairData) -> None:
    chosen = {"appearance": "patch", "shape": "none", "start": 0.0}
    started = trainer(batch_size=2, losses={"feature_matching": weight}, discriminators=chosen)
    calls: list[object] = []
    (loss,) = started.discriminators.values()
    loss.discriminator.register_forward_hook(lambda *_: calls.append(1))
    started.train_step(first_batch(started.config, data))
    assert len(calls) == passes  # of the true images' features, of the generated; then of both for the discriminator


class Means(nn.Module):
    """Stands for a re-ID network."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


@pytest.mark.parametrize("loss", ["hinge", "bce", "least_squares"])
def test_every_loss_is_logged_and_counts_with_its_weight(loss: str, data: PairData) -> None:
    chosen = {"start": 0.0, "loss": loss, "pool": 3}
    weights = {"l1": 3.0, "structural": 2.0, "adversarial": 0.5, "feature_matching": 0.25, "identity": 4.0, "r1": 1.0}
    started = Trainer(config(batch_size=2, losses=weights, discriminators=chosen), ALONE, Means())
    logged = started.train_step(first_batch(started.config, data))
    weighted = sum(weight * logged[name] for name, weight in weights.items() if name != "r1")
    assert logged["total"] == pytest.approx(weighted, rel=1e-4)
    assert logged["r1"] > 0
    assert set(logged) == {"total", "gradient", "discriminators", *weights}
    assert len(started.pool.entries) == 2
    zero = trainer(batch_size=2, losses=dict.fromkeys(weights, 0.0) | {"l1": 1.0}, discriminators=chosen)
    assert {"l1", "total"} <= set(zero.train_step(first_batch(zero.config, data)))


def test_the_identity_network_may_be_an_exported_program(data: PairData, tmp_path: Path) -> None:
    shape = {"images": {0: torch.export.Dim("batch", min=1, max=64)}}
    example = (torch.rand(2, 3, 128, 64),)
    torch.export.save(torch.export.export(Means(), example, dynamic_shapes=shape), tmp_path / "net.pt2")
    named = trainer(batch_size=4, identity_network=str(tmp_path / "net.pt2"))
    given = Trainer(config(batch_size=4), ALONE, Means())
    batch = first_batch(named.config, data)
    assert named.train_step(batch) == pytest.approx(given.train_step(batch), rel=1e-4)


def test_a_program_computes_in_its_own_precision(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(1), nn.Linear(4 * 14 * 6, 5))
    torch.export.save(torch.export.export(network, (torch.rand(2, 3, 16, 8),)), tmp_path / "net.pt2")
    program = load_program(tmp_path / "net.pt2", "a feature network", torch.device("cpu"), True)
    images = torch.rand(2, 3, 16, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = run_program(program, "net.pt2", images)
    torch.testing.assert_close(found, network(images.float()))


def test_a_batch_in_parts_moves_the_weights_as_the_whole(data: PairData, monkeypatch: pytest.MonkeyPatch) -> None:
    # Statistics of a batch would tell the parts apart.
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda self, x: x)
    weights, logs = [], []
    for accumulate in (1, 4):
        # Nor discriminators, whose spectral norms count every pass.
        started = trainer(accumulate=accumulate, discriminators={"appearance": "none", "shape": "none"})
        logs.append(started.train_step(first_batch(started.config, data)))
        weights.append(torch.cat([p.detach().flatten() for p in started.generator.parameters()]))
    assert logs[0] == pytest.approx(logs[1], rel=1e-3)
    # Adam's first step is the sign of the gradient, which rounding can turn where it is nearly 0.
    assert ((weights[0] - weights[1]).abs() > 1e-6).float().mean() < 0.02


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains(precision: str, data: PairData) -> None:
    started = trainer(batch_size=2, precision=precision, lr=1e-2, warmup=0, steps=20, discriminators={"start": 0.8})
    batch = first_batch(started.config, data)
    first = started.train_step(batch)["l1"]
    for _ in range(9):
        last = started.train_step(batch)["l1"]
    assert last < first
    assert started.scaler_g.is_enabled() == (precision == "float16")
    state = started.state()
    assert bool(state["scaler_g"]) == (precision == "float16")


def test_a_compiled_generator_learns_the_same(data: PairData, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a C++ compiler at hand: traced as for inductor, run as it is.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain, compiled = trainer(batch_size=2), trainer(batch_size=2, compile=True)
    batch = first_batch(plain.config, data)
    assert compiled.generator.compiled is not None
    for _ in range(2):
        assert compiled.train_step(batch) == pytest.approx(plain.train_step(batch), rel=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_step_on_the_gpu_is_the_cpus(precision: str, data: PairData) -> None:
    asked = config(precision=precision, device="cuda", discriminators={"start": 0.0, "pool": 2})
    device = torch.device("cuda")
    on_gpu, on_cpu = Trainer(asked, Processes(0, 1, device)), trainer(discriminators={"start": 0.0, "pool": 2})
    rows = next(rows_of_steps(asked, data, 0, ALONE))
    logged = on_gpu.train_step(make_batch(data, rows, (128, 64), device))
    expected = on_cpu.train_step(make_batch(data, rows, (128, 64), torch.device("cpu")))
    tolerance = 1e-3 if precision == "float32" else 0.05
    for name in ("l1", "structural"):
        assert logged[name] == pytest.approx(expected[name], rel=tolerance)


def test_gradients_are_clipped(data: PairData, monkeypatch: pytest.MonkeyPatch) -> None:
    started = trainer(batch_size=2, clip=1e-3)
    started.train_step(first_batch(started.config, data))
    gradients = [p.grad for p in started.generator.parameters() if p.grad is not None]
    assert torch.stack([g.norm() for g in gradients]).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    asked = config(steps=100, lr=1.0, warmup=10, decay_start=0.6)
    rates = [asked.learning_rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:60] == [1.0] * 50
    assert rates[80] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(1 / 40)
    assert config(steps=10, lr=1.0, warmup=0, decay_start=1.0).learning_rate(9) == 1.0


@pytest.mark.parametrize("shared", [True, False])
def test_the_average_moves_every_tensor_once(shared: bool, data: PairData) -> None:
    started = trainer(batch_size=2, generator={**GENERATOR, "shared_projections": shared})
    before = [v.clone() for v in started.average.parameters()]
    started.train_step(first_batch(started.config, data))
    decay = 1 / 10  # at the first step
    for old, now, average in zip(before, started.generator.parameters(), started.average.parameters(), strict=True):
        torch.testing.assert_close(average, old.lerp(now, 1 - decay))


def test_averaged_weights_follow_and_counts_are_copied() -> None:
    network, average = (nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)) for _ in range(2))
    before = copy.deepcopy(average.state_dict())
    network(torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)) + 5)
    for step, decay, kept in ((0, 0.9, 0.1), (10**6, 0.9, 0.9)):  # the start is forgotten sooner
        update_average(average, network, step, decay)
        for name, value in average.state_dict().items():
            now = network.state_dict()[name]
            expected = kept * before[name] + (1 - kept) * now if value.is_floating_point() else now
            torch.testing.assert_close(value, expected, msg=name)
        before = copy.deepcopy(average.state_dict())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_reads_its_figures_at_once_and_nothing_else(
    accumulate: int, data: PairData, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = trainer(accumulate=accumulate, discriminators={"start": 0.0}, losses={"r1": 1.0})
    batch, reads = first_batch(started.config, data), []
    monkeypatch.setattr("xingaug.training.trainer.read", lambda figures: reads.append(1) or read(figures))
    with LaunchCounter() as counter:
        started.train_step(batch)
    assert not counter.reads
    assert len(reads) == 1


def test_discriminators_that_explode_leave_everything_as_it_was(
    data: PairData, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trainer(discriminators={"start": 0.0})
    batch = first_batch(one.config, data)
    one.train_step(batch)
    before = copy.deepcopy(one.state())
    plain = losses.ADVERSARIAL["hinge"]
    exploding = replace(plain, discriminator=lambda real, fake: plain.discriminator(real, fake) * 1e9)
    monkeypatch.setitem(losses.ADVERSARIAL, "hinge", exploding)
    with pytest.raises(WorkFailed, match=r"step 1: the loss exceeds loss_limit .*'discriminators'"):
        one.train_step(batch)
    for name in ("generator", "average", "discriminators"):
        for key, value in one.state()[name].items():
            assert torch.equal(value, before[name][key]), (name, key)


def test_a_loss_that_is_not_finite_or_explodes_stops_the_run_before_the_weights_move(data: PairData) -> None:
    started = trainer()
    batch = first_batch(started.config, data)
    next(started.generator.fusion.parameters()).data.fill_(float("nan"))  # type: ignore[union-attr]
    before = [p.detach().clone() for p in started.generator.parameters()]
    with pytest.raises(WorkFailed, match=r"step 0: the loss is not finite .*'l1': nan.*; images .* -> .* -> "):
        started.train_step(batch)
    for old, now in zip(before, started.generator.parameters(), strict=True):
        torch.testing.assert_close(old, now, equal_nan=True)
    strict = trainer(loss_limit=0.01)
    with pytest.raises(WorkFailed, match=r"step 0: the loss exceeds loss_limit 0\.01 .*images"):
        strict.train_step(batch)


def test_a_run_describes_itself_and_leaves_the_global_rng_alone(given: PairData, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    run = tmp_path / "run"
    path = train(config(tensorboard=True), run, progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    lines = stats_of(run)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert "discriminators" not in lines[0]
    assert {"l1", "structural", "adversarial", "feature_matching", "discriminators"} <= set(lines[-1])
    assert (run / "samples" / "000004.png").is_file()
    assert load_generator(path).size == (128, 64)
    assert not list(run.glob(".*"))
    assert yaml.safe_load((run / "config.yaml").read_text())["steps"] == 4
    environment = json.loads((run / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["processes"] == 1
    assert list((run / "tensorboard").glob("events.*"))


def test_without_tensorboard_the_run_says_so(
    given: PairData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    train(config(steps=1, tensorboard=True), tmp_path / "run", progress=False)
    assert "tensorboard is not installed" in capsys.readouterr().err
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_held_out_persons_pick_the_best_checkpoint(
    given: PairData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.2, 0.5, 0.3, 0.4, 0.1])
    trained_on: list[str] = []
    step = Trainer.train_step

    def noting(self: Trainer, batch: Any) -> dict[str, float]:
        trained_on.extend(batch.names)
        return step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", noting)
    monkeypatch.setattr("xingaug.training.loop.validate", lambda *_: {"ssim": next(scores)})
    asked = config(steps=5, validation={"identities": 1, "pairs": 3, "every": 1, "best": "ssim"}, checkpoint_minutes=0)
    train(asked, tmp_path / "run", progress=False)
    _, held = given.hold_out(1, asked.seed)
    assert held is not None
    assert not any(name in pair for pair in trained_on for name in held.names)
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["00000004.pt", "00000005.pt", "best.pt"]
    best = torch.load(folder / "best.pt", weights_only=True)
    assert (best["step"], best["best"]) == (2, 0.5)
    notes = json.loads((tmp_path / "run" / "best.json").read_text())
    assert (notes["step"], notes["validation"]) == (2, {"ssim": 0.5})
    stored = load_generator(tmp_path / "run" / "best.safetensors", dtype=None).state_dict()
    for name, value in best["average"].items():
        torch.testing.assert_close(stored[name], value, rtol=1e-2, atol=1e-3)
    logged = [line["validation_ssim"] for line in stats_of(tmp_path / "run") if "validation_ssim" in line]
    assert logged == [0.2, 0.5, 0.3, 0.4, 0.1]


def test_validation_measures_the_averaged_weights(given: PairData, tmp_path: Path) -> None:
    asked = config(steps=2, validation={"identities": 1, "pairs": 6, "every": 2})
    train(asked, tmp_path / "run", progress=False)
    last = stats_of(tmp_path / "run")[-1]
    assert 0 < last["validation_ssim"] < 1
    assert 0 < last["validation_person_ssim"] < 1


def test_one_batch_alone_when_asked(given: PairData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    step = Trainer.train_step

    def noting(self: Trainer, batch: Any) -> dict[str, float]:
        seen.append(batch.names)
        return step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", noting)
    train(config(), tmp_path / "run", progress=False, overfit_one_batch=True)
    assert seen == [seen[0]] * 4


def test_a_plan_writes_nothing(given: PairData, tmp_path: Path) -> None:
    asked = config(validation={"identities": 1})
    told = yaml.safe_load(plan(asked, tmp_path / "run"))
    assert told["config"]["steps"] == 4
    assert told["plan"]["images"] + told["plan"]["held_out_images"] == len(given)
    assert told["plan"]["pairs_drawn"] == 16
    assert told["plan"]["goes_on_from"] is None
    assert not (tmp_path / "run").exists()


def test_the_released_network_is_trained_by_the_same_loop(
    given: PairData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "xinggan", XingGANConfig(blocks=1, width=2))
    asked = config(steps=1, batch_size=2, generator="xinggan")
    assert isinstance(load_generator(train(asked, tmp_path / "run", progress=False)), XingGAN)


def test_a_named_generator_takes_a_size() -> None:
    tree = {"data": {"root": "x", "annotations": "y"}}
    assert config(**tree, generator="xinggan_pp", size=[256, 176]).network.size == (256, 176)
    with pytest.raises(BadInput, match="size: belongs to a named generator"):
        config(**tree, size=[256, 176])
    with pytest.raises(BadInput, match="pedestrians are drawn at"):
        config(generator="xinggan", size=[256, 176])


def test_training_goes_on_from_given_weights(given: PairData, tmp_path: Path) -> None:
    path = train(config(steps=1), tmp_path / "first", progress=False)
    start = trainer(start=str(path)).generator.state_dict()
    for name, value in load_generator(path, dtype=None).state_dict().items():
        assert torch.equal(start[name], value)
    other = config(start=str(path), generator={**GENERATOR, "width": 12})
    with pytest.raises(BadInput, match=r"generator '.*': has width 8, asked for 12"):
        train(other, tmp_path / "second", progress=False)
    with pytest.raises(BadInput, match=r"is XingGANPlusPlus, asked for another network"):
        trainer(start=str(path), generator="xinggan")
    with pytest.raises(BadInput, match="generator 'none': no such file"):
        train(config(start="none"), tmp_path / "second", progress=False)
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"steps": 0}, "steps: 0, needed at least 1"),
        ({"lr": 0.0}, "lr: 0.0, needed above 0, up to 1"),
        ({"lr": 1e6}, "lr: 1000000.0, needed above 0, up to 1"),
        ({"seed": -1}, "seed: -1, needed 0 to 4294967295"),
        ({"seed": 20240601123000}, "seed: 20240601123000, needed 0 to 4294967295"),
        (
            {"data": {"root": "x", "annotations": "y", "pairs": "z", "same_camera": 0.5}},
            "same_camera: 0.5, but data.pairs lists the pairs; needed 0",
        ),
        ({"ema_decay": 1.0}, r"ema_decay, betas: needed in \[0, 1\)"),
        ({"discriminators": {"start": 2.0}}, r"start: needed in \[0, 1\]"),
        ({"discriminators": {"loss": "wgan"}}, "expected one of hinge, bce, least_squares"),
        ({"losses": {"l1": -1.0}}, "losses: l1: -1.0, needed at least 0"),
        ({"photometric": {"hue": 0.7}}, "hue: 0.7, needed 0 to 0.5"),
        ({"perceptual": {"layers": []}}, "perceptual: layers: "),
        ({"perceptual": "nothing"}, "perceptual"),
        ({"validation": {"every": 0}}, "pairs: 1 to 100,000; every: at least 1"),
        ({"data": {"root": "x", "annotations": "y", "min_visible": 19}}, "min_visible: needed 1 to 18"),
        ({"generator": "huge"}, "generator: 'huge', expected one of xinggan"),
        ({"device": "nonsense"}, "device: 'nonsense' is not available here"),
    ],
)
def test_bad_values(bad: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        config(**bad)


def test_perceptual_must_be_written_out() -> None:
    from xingaug.config import from_mapping
    from xingaug.training.config import TrainConfig

    with pytest.raises(BadInput, match="key 'perceptual' is missing; expected one of none, vgg16, vgg19 or a mapping"):
        from_mapping(TrainConfig, {})


def test_a_run_without_a_loss_is_refused() -> None:
    nothing = {"l1": 0.0, "structural": 0.0}
    with pytest.raises(BadInput, match="losses: no term that has a weight and what it needs"):
        trainer(losses=nothing)
    trainer(losses=nothing, discriminators={"start": 0.0})  # theirs is one


def test_a_batch_that_cannot_be_shared_out() -> None:
    with pytest.raises(BadInput, match="batch_size: 4, needed a multiple of 3 processes times accumulate 1"):
        Trainer(config(), Processes(0, 3, torch.device("cpu")))
    with pytest.raises(BadInput, match="needed a multiple of 1 processes times accumulate 3"):
        trainer(accumulate=3)


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 10**9}, {"seed": 2**64}, {"data": {"identities": 10**9}}, {"validation": {"pairs": 10**9}},
     {"device": "meta"}, {"device": "hpu"}, {"identity_network": "~no-such-user/x.pt2"}],
)  # fmt: skip
def test_settings_that_would_fill_the_memory_or_fail_later_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        from_mapping(TrainConfig, {"perceptual": "none", **wrong})
