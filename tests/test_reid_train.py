"""Trainings: reproducible, resumable, and with p = 0 the same as without augmentation."""

import json
import os
import random
import shutil
import signal

import numpy as np
import pytest
import torch
import yaml
from reid_world import StandIn, settings, write_tree
from safetensors.torch import load_file

from reid_integration import loop as loop_module
from reid_integration import train as train_module
from reid_integration.compare import main as compare_main
from reid_integration.config import reid_config
from reid_integration.train import TrainResult, run
from reid_integration.train import main as train_main
from xingaug.errors import BadInput, WorkFailed, guarded
from xingaug.files import claimed_directory
from xingaug.generators import store
from xingaug.images import read_image


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("data") / "world")


def finish(tree, out, **changes):
    return run(reid_config(settings(tree, out, **changes)), generator=StandIn())


def without_times(history):
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in history]


@pytest.mark.parametrize("loss", ["softmax", "triplet"])
def test_p_0_trains_exactly_as_without_augmentation(tree, tmp_path, loss):
    changes = {"loss__name": loss, "sampler__train_sampler": "RandomIdentitySampler"}
    plain = finish(tree, tmp_path / "plain", **changes)
    zero = finish(tree, tmp_path / "zero", augment={"p": 0}, **changes)
    half = finish(tree, tmp_path / "half", augment="xinggan_pose", **changes)
    assert without_times(plain.history) == without_times(zero.history)
    assert plain.reid.figures() == zero.reid.figures()
    assert without_times(plain.history) != without_times(half.history)
    assert plain.synthetic_share == zero.synthetic_share == 0
    assert 0 < half.synthetic_share < 1
    assert half.sources["generator"] == "stand-in"


def test_batches_of_one_identity_have_no_triplets(tree, tmp_path, monkeypatch):
    def one_identity(engine, batch, epoch, iteration):
        return step(engine, {**batch, "pid": torch.zeros_like(batch["pid"])}, epoch, iteration)

    step = loop_module.step
    monkeypatch.setattr(loop_module, "step", one_identity)
    result = finish(tree, tmp_path / "run", loss__name="triplet")
    assert [entry["loss_t"] for entry in result.history] == [0.0] * 4
    with pytest.raises(BadInput, match=r"data.sources: 1 identity; the triplet loss needs at least two"):
        finish(
            write_tree(tmp_path / "one", identities=1), tmp_path / "alone", loss__name="triplet", train__batch_size=4
        )


@pytest.mark.parametrize(
    ("layers", "used"), [("open_layers", {"fixbase_epoch": 1}), ("new_layers", {"staged_lr": True})]
)
def test_layers_that_the_model_lacks_are_named(tree, tmp_path, layers, used):
    changes = {f"train__{key}": value for key, value in {layers: ["classifier", "nope"], **used}.items()}
    with pytest.raises(BadInput, match=rf"train.{layers}: 'nope', expected some of the model's: conv1, "):
        finish(tree, tmp_path / "run", **changes)


def test_a_gpu_that_is_not_there_is_told(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match="use_gpu: true, but torch finds no CUDA device"):
        finish(tree, tmp_path / "run", use_gpu=True)


@pytest.mark.parametrize("written", ["data: [1]\n", "steps: 3\n", "data: null\n"])
def test_the_directory_of_another_kind_of_run_is_told(tree, tmp_path, written):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(written)
    with pytest.raises(BadInput, match=r"run: was made with .*; give another data.save_dir, or remove it first"):
        finish(tree, tmp_path / "run")


def test_the_same_run_twice_and_no_trace_in_the_global_rng(tree, tmp_path):
    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = state()
    first = finish(tree, tmp_path / "a", augment="xinggan_pose")
    assert state() == before
    torch.rand(1)
    second = finish(tree, tmp_path / "b", augment="xinggan_pose")
    other = finish(tree, tmp_path / "c", augment="xinggan_pose", train__seed=2)
    assert without_times(first.history) == without_times(second.history)
    assert first.reid.to_mapping() == second.reid.to_mapping()
    assert without_times(first.history) != without_times(other.history)


def test_run_directory_explains_itself(tree, tmp_path):
    result = finish(tree, tmp_path / "run", augment={"p": 1.0})
    assert {path.name for path in result.directory.iterdir()} == {
        "config.yaml", "stats.jsonl", "tensorboard", "model.safetensors", "result.json",
    }  # fmt: skip
    resolved = yaml.safe_load((result.directory / "config.yaml").read_text())
    assert reid_config(resolved) == reid_config(settings(tree, tmp_path / "run", augment={"p": 1.0}))
    assert [entry["iteration"] for entry in result.history] == [1, 2, 3, 4]
    assert [entry["epoch"] for entry in result.history] == [0, 0, 0, 1]
    assert all(entry["synthetic"] == 1 and entry["loss"] > 0 and "acc" in entry for entry in result.history)
    again = TrainResult.load(result.directory)
    assert again.history == result.history
    assert again.to_mapping() == result.to_mapping()
    with pytest.raises(BadInput, match="holds a finished run"):
        finish(tree, tmp_path / "run")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html><title>Virus scan warning</title>")
    with pytest.raises(
        BadInput, match=r"model.load_weights: .*page.pth: .*web page"
    ):  # told first, whatever lies there
        finish(tree, tmp_path / "run", model={"load_weights": str(tmp_path / "page.pth")})


def test_a_directory_of_something_else_is_left_alone(tree, tmp_path):
    other = tmp_path / "precious"
    other.mkdir()
    (other / "config.yaml").write_text("lr: 1\n")
    with pytest.raises(BadInput, match=r"precious: was made with .*more; give another data\.save_dir"):
        finish(tree, other)
    assert [path.name for path in other.iterdir()] == ["config.yaml"]
    assert (other / "config.yaml").read_text() == "lr: 1\n"


def test_saved_weights_give_the_same_figures(tree, tmp_path):
    trained = finish(tree, tmp_path / "run")
    weights = str(trained.directory / "model.safetensors")
    tested = finish(tree, tmp_path / "test", model__load_weights=weights, test__evaluate=True)
    assert tested.iterations == 0
    assert tested.reid.figures() == trained.reid.figures()


def test_weights_may_be_a_torchreid_checkpoint(tree, tmp_path):
    trained = finish(tree, tmp_path / "run")
    state = {f"module.{key}": value for key, value in load_file(trained.directory / "model.safetensors").items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "model.pth.tar-3")
    tested = finish(tree, tmp_path / "test", model__load_weights=str(tmp_path / "model.pth.tar-3"), test__evaluate=True)
    assert tested.reid.figures() == trained.reid.figures()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__load_weights": "nowhere.safetensors"}, "nowhere.safetensors: no such file"),
        ({"test__evaluate": True}, "nothing to evaluate without model.load_weights"),
        ({"model__name": "osnet_x9"}, "model.name: Unknown model: osnet_x9"),
        ({"model__pretrained": True}, "osnet_x0_25_imagenet.pth is not there, and nothing is downloaded"),
        ({"data__targets": "nowhere"}, "no dataset 'nowhere'"),
        ({"augment": {"sampler": "nearest"}}, "augment.sampler: unknown 'nearest'"),
        ({"augment": {"annotations": "nowhere.npz"}}, "nowhere.npz: no such annotation file"),
    ],
)
def test_bad_inputs_stop_before_anything_is_written(tree, tmp_path, monkeypatch, changes, message):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    with pytest.raises(BadInput) as caught:
        finish(tree, tmp_path / "run", **changes)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_model_are_refused(tree, tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(BadInput, match="not the weights of this model"):
        finish(tree, tmp_path / "run", model__load_weights=str(tmp_path / "other.pth"))


def test_iterations_share_one_schedule_whatever_the_epoch_length(tree, tmp_path):
    changes = {"train__max_iterations": 6, "train__max_epoch": 3, "train__lr": 0.1, "train__optim": "sgd"}
    schedule = {"train__lr_scheduler": "multi_step", "train__stepsize": [1, 2]}
    for name, batch_size in (("short", 12), ("long", 6)):
        result = finish(tree, tmp_path / name, train__batch_size=batch_size, **changes, **schedule)
        rates = [entry["lr"] for entry in result.history]
        assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_epochs_and_evaluation_between_them(tree, tmp_path):
    changes = {"train__max_iterations": None, "train__max_epoch": 3, "train__lr_scheduler": "single_step"}
    result = finish(tree, tmp_path / "run", **changes, train__stepsize=1, test__eval_freq=1, test__start_eval=2)
    assert (result.iterations, result.epochs) == (9, 3)
    assert [entry["lr"] for entry in result.history][::3] == pytest.approx([3e-4, 3e-5, 3e-6])
    lines = [json.loads(line) for line in (result.directory / "stats.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "mAP" in line] == [6, 9]
    silent = finish(tree, tmp_path / "silent", **changes, train__stepsize=1)
    assert without_times(silent.history) == without_times(result.history)  # evaluating does not disturb training


def test_a_diverged_run_fails(tree, tmp_path):
    with pytest.raises(WorkFailed, match=r"the loss is .*; lower train.lr"):
        finish(tree, tmp_path / "run", train__lr=1e30, train__optim="sgd")
    assert not (tmp_path / "run" / "result.json").exists()


def test_train_command(tree, tmp_path, capsys, monkeypatch):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings(tree, tmp_path / "run")))
    assert train_main(["--config", str(path), "train.max_iterations=2", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["iterations"] == 2
    assert set(json.loads(out)["results"]["world"]) >= {"mAP", "rank1", "rank5", "rank10", "mINP"}
    assert train_main(["--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert (
        train_main(["--config", str(path), "train.lr=1e30", "train.optim=sgd", f"data.save_dir={tmp_path / 'x'}"]) == 1
    )
    monkeypatch.setattr(store, "load_generator", lambda name, device: StandIn())
    overrides = ["augment=xinggan_pose", f"data.save_dir={tmp_path / 'posed'}"]
    assert train_main(["--config", str(path), *overrides]) == 0
    assert "mAP" in capsys.readouterr().out


def one_camera(tree, out):
    """The tree with nobody's second camera."""
    copied = shutil.copytree(tree, out)
    for path in (copied / "bounding_box_test").glob("*_c2s1_*.jpg"):
        path.unlink()
    return copied


def test_people_who_cannot_be_matched_are_told_before_training(tree, tmp_path, monkeypatch):
    copied = one_camera(tree, tmp_path / "one")
    monkeypatch.setattr(loop_module, "step", lambda *_: pytest.fail("trained"))
    with pytest.raises(BadInput, match=r"data\.targets: .*one: no query can be matched: 6 of the 6 people"):
        finish(copied, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_whatever_fails_in_an_evaluation_the_weights_are_there(tree, tmp_path, monkeypatch):
    config = reid_config(settings(tree, tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "evaluate_model", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(config)
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert not (tmp_path / "run" / "result.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "step", lambda *_: pytest.fail("trained again"))
        result = run(config)
    assert result.iterations == 4
    assert len(result.history) == 4
    for name, value in load_file(tmp_path / "run" / "model.safetensors").items():
        assert torch.equal(value, weights[name])


def test_a_broken_image_in_a_worker_is_one_line(tree, tmp_path, capsys):
    copied = shutil.copytree(tree, tmp_path / "broken")
    image = sorted((copied / "bounding_box_train").iterdir())[5]
    image.write_bytes(image.read_bytes()[:300])
    path = tmp_path / "run.yaml"
    for workers in (0, 1):
        path.write_text(yaml.safe_dump(settings(copied, tmp_path / f"run{workers}", data__workers=workers)))
        assert train_main(["--config", str(path)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {image}: ")
        assert error.count("\n") == 1


def test_a_worker_that_was_killed_is_one_line(capsys):
    def command():
        raise RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed. ")

    assert guarded(command) == 1
    assert capsys.readouterr().err == (
        "error: a process that loads images was ended from outside, perhaps for lack of memory; use fewer workers\n"
    )


def test_nothing_of_training_matters_where_only_a_test_is_asked_for(tree, tmp_path):
    trained = finish(tree, tmp_path / "run")
    only = {"model__load_weights": str(tmp_path / "run" / "model.safetensors"), "test__evaluate": True}
    for number, changes in enumerate((
        {"train__batch_size": 1024},
        {"train__batch_size": 1024, "sampler__train_sampler": "RandomIdentitySampler"},
        {"sampler__synthetic_share": 0.5},
        {"augment": {"annotations": "nowhere.npz"}},
    )):  # fmt: skip
        assert finish(tree, tmp_path / str(number), **only, **changes).reid.mAP == trained.reid.mAP


def test_two_trainings_do_not_share_a_directory(tree, tmp_path):
    with claimed_directory(tmp_path / "run", "training"), pytest.raises(BadInput, match="another process is training"):
        finish(tree, tmp_path / "run")
    assert finish(tree, tmp_path / "run").iterations == 4


def test_the_learning_rate_warms_up_below_its_schedule(tree, tmp_path):
    plain = finish(tree, tmp_path / "plain", train__max_iterations=6)
    warm = finish(tree, tmp_path / "warm", train__max_iterations=6, train__warmup_iterations=4)
    ratios = [a["lr"] / b["lr"] for a, b in zip(warm.history, plain.history, strict=True)]
    assert ratios == pytest.approx([0.1, 0.325, 0.55, 0.775, 1, 1])


def test_the_average_of_the_weights_is_tested_and_saved(tree, tmp_path):
    last = finish(tree, tmp_path / "last", train__lr=1e-2, train__optim="sgd")
    mean = finish(tree, tmp_path / "mean", train__lr=1e-2, train__optim="sgd", train__ema=0.9)
    assert [entry["loss"] for entry in mean.history] == [entry["loss"] for entry in last.history]
    weights = [load_file(run_.directory / "model.safetensors") for run_ in (last, mean)]
    assert weights[0].keys() == weights[1].keys()
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("main", [train_main, compare_main])
def test_help_shows_an_example(main, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "example: python -m reid_integration." in capsys.readouterr().out


def test_ranked_results_are_drawn(tree, tmp_path):
    result = finish(tree, tmp_path / "run", test={"visrank": True, "visrank_topk": 2, "rerank": True})
    sheets = sorted((result.directory / "visrank_world").glob("*.jpg"))
    assert len(sheets) == result.reid.queries == 6
    assert read_image(sheets[0]).shape[1] > 3 * 16


class StoppedError(Exception):
    """In the place of a killed process."""


def be_stopped():
    raise StoppedError


def be_terminated():
    for _ in range(2):  # as `timeout` does
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("augment", "minutes", "stop"), [(None, 60, be_terminated), ({"p": 0.5, "reuse": 2}, 0, be_stopped)]
)
def test_a_stopped_run_goes_on_to_the_same_figures(tree, tmp_path, monkeypatch, capsys, augment, minutes, stop):
    asked = {"train__max_iterations": 12, "train__checkpoint_minutes": minutes, "augment": augment}
    asked |= {"train__ema": 0.5, "train__warmup_iterations": 9} if augment is None else {}
    whole = run(reid_config(settings(tree, tmp_path / "whole", **asked)), generator=StandIn())
    config = reid_config(settings(tree, tmp_path / "stopped", **asked))
    step = loop_module.step

    def stops(engine, batch, epoch, iteration):
        if iteration == 8:  # in the third epoch of three steps
            stop()
        return step(engine, batch, epoch, iteration)

    monkeypatch.setattr(loop_module, "step", stops)
    if stop is be_terminated:
        assert guarded(lambda: run(config, generator=StandIn())) == 128 + signal.SIGTERM
    else:
        with pytest.raises(StoppedError):
            run(config, generator=StandIn())
    monkeypatch.setattr(loop_module, "step", step)
    assert (tmp_path / "stopped" / "checkpoint.pt").exists()
    with (tmp_path / "stopped" / "stats.jsonl").open("a") as stats:
        stats.write('{"iteration": 8, "torn')
    capsys.readouterr()
    again = run(config, progress=True, generator=StandIn())
    assert f"{tmp_path / 'stopped'}: continues after iteration " in capsys.readouterr().err
    assert again.reid.to_mapping() == whole.reid.to_mapping()
    assert without_times(again.history) == without_times(whole.history)
    for name in ("iterations", "epochs", "synthetic_share", "skipped"):
        assert getattr(again, name) == getattr(whole, name)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not (tmp_path / "stopped" / "checkpoint.pt").exists()
    assert list((tmp_path / "stopped" / "tensorboard").glob("events*"))


def test_a_run_does_not_go_on_with_another_generator(tree, tmp_path, monkeypatch):
    config = reid_config(settings(tree, tmp_path / "run", train__checkpoint_minutes=0, augment={"p": 1.0}))
    monkeypatch.setattr(train_module, "_evaluate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(config, generator=StandIn())
    other = StandIn()
    other.content_hash = "other"
    with pytest.raises(BadInput, match="started with other generator; remove the folder to start again"):
        run(config, generator=other)


def test_a_damaged_checkpoint_is_named(tree, tmp_path, monkeypatch):
    config = reid_config(settings(tree, tmp_path / "run", train__checkpoint_minutes=0))
    monkeypatch.setattr(train_module, "_evaluate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(config)
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"checkpoint\.pt: cannot be read .*, needed a checkpoint of this run"):
        run(config)


def evaluations(out):
    entries = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    return [entry["iteration"] for entry in entries if "mAP" in entry]


def test_every_state_is_evaluated_once(tree, tmp_path, monkeypatch):
    # P x K batches are fewer than the loader promises (2 an epoch): the second person stands alone after the first one.
    uneven = write_tree(tmp_path / "data" / "uneven", identities=2)
    train = uneven / "bounding_box_train"
    for k in range(4, 12):
        (train / f"0002_c1s1_{k:06d}_00.jpg").write_bytes((train / "0002_c1s1_000000_00.jpg").read_bytes())
    changes = {"sampler__train_sampler": "RandomIdentitySampler", "train__max_iterations": None, "train__max_epoch": 2}
    assert finish(uneven, tmp_path / "run", **changes, test__eval_freq=1).iterations == 2
    assert evaluations(tmp_path / "run") == [1, 2]

    def stopped(*_, **__):
        raise KeyboardInterrupt

    only = {"model__load_weights": str(tmp_path / "run" / "model.safetensors"), "test__evaluate": True}
    with monkeypatch.context() as patch:
        patch.setattr(TrainResult, "to_mapping", stopped)
        with pytest.raises(KeyboardInterrupt):
            finish(uneven, tmp_path / "only", **only)
    finish(uneven, tmp_path / "only", **only)
    assert len(evaluations(tmp_path / "only")) == 1
