"""Files of weights that others have written: what is read, and how what is not is named."""

import argparse
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from xingaug.errors import BadInput
from xingaug.tensors import read_tensors, state_dict_of

NUMPY = {"rank1": np.float64(0.91), "mAP": np.float32(0.5), "epoch": np.int64(60), "best": np.bool_(True)}


def complaint(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        read_tensors(path, "weights")
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert not any(word in message for word in ("weights_only", "pickle", "torch.load", "PytorchStreamReader"))
    return message


@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_and_arrays_of_numpy_are_read(tmp_path: Path, zipped: bool) -> None:
    saved = {"state_dict": {"a": torch.arange(3.0)}, **NUMPY, "cmc": np.arange(4.0)}
    torch.save(saved, tmp_path / "model.pth.tar-60", _use_new_zipfile_serialization=zipped)
    found = read_tensors(tmp_path / "model.pth.tar-60", "weights")
    assert {name: found[name] for name in NUMPY} == NUMPY
    assert found["cmc"].tolist() == [0, 1, 2, 3]
    assert found["state_dict"]["a"].tolist() == [0, 1, 2]


def test_safetensors_are_told_by_their_content(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "weights.pth")
    assert read_tensors(tmp_path / "weights.pth", "weights")["a"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "it is a Git LFS pointer"),
        (b"<!DOCTYPE html><html><title>Virus scan warning</title>", "it is a web page"),
        (b"\xef\xbb\xbf\n <HTML>", "it is a web page"),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "it is a text file"),
        (b"404: Not Found", "it is a text file"),
        (b"\x1f\x8b\x08\x00", "it is packed with gzip"),
        (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file"),
        (b"\x89PNG\r\n", "it is a picture"),
        (b"PK\x03\x04 cut off", "it is cut off or damaged"),
        (b"\x80\x02}q\x00", "it is cut off or damaged"),
        (bytes(range(256)), "it is cut off or damaged"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    assert f"needed weights ({said}" in complaint(tmp_path / "a.pth")


def test_other_archives_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("word/document.xml", "x")
    assert "a zip archive that torch has not written" in complaint(tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        archive.writestr("b/data.pkl", "x")
        archive.writestr("b/constants.pkl", "x")
    assert "a TorchScript program" in complaint(tmp_path / "b.pth")
    with zipfile.ZipFile(tmp_path / "c.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("c/data.pkl", "x")
    assert "it is compressed" in complaint(tmp_path / "c.pth")
    plain = (tmp_path / "a.pth").read_bytes()
    needed = plain.index(b"PK\x01\x02") + 6  # version of zip that is needed to read the file
    (tmp_path / "d.pth").write_bytes(plain[:needed] + b"\xff" + plain[needed + 1 :])
    assert "it is cut off or damaged" in complaint(tmp_path / "d.pth")


@pytest.mark.parametrize("held", [argparse.Namespace(lr=1), os.system, torch.nn.Linear(1, 1), Path("a")])
def test_no_code_is_run(tmp_path: Path, held: object) -> None:
    torch.save({"args": held}, tmp_path / "a.pth")
    assert "such objects could run code; save the state dict alone" in complaint(tmp_path / "a.pth")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    assert "no such file; needed weights" in complaint(tmp_path / "none.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    assert "a pipe" in complaint(tmp_path / "pipe.pth")
    assert "a directory" in complaint(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_one_line(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(3), "n": np.float64(1)}, path, _use_new_zipfile_serialization=data.draw(st.booleans()))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        read_tensors(path, "weights")
    except BadInput as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017 - some damage goes unnoticed
        assert str(error).isprintable()  # noqa: PT017


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ([torch.ones(1)], "holds a list"),
        ({}, "holds a dict"),
        ({"a": 1}, "'a' holds an int"),
        ({1: torch.ones(1)}, "'1' holds a Tensor"),
        ({"a\x1b[2J": 1}, "'a?[2J' holds an int"),
        ({"state_dict": {"a": torch.tensor([1.0, float("nan")])}}, "'a' has values that are not finite"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "'a' is sparse, quantised or complex"),
    ],
)
def test_no_state_dict(tmp_path: Path, saved: object, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        state_dict_of(tmp_path / "a.pth", saved, "weights")
    assert said in str(caught.value)
    assert str(caught.value).isprintable()
