"""Third-party networks as ONNX files or `torch.export` programs, and the devices that they run on."""

import logging
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xingaug.errors import BadInput, first_line
from xingaug.files import with_home
from xingaug.inputs import open_regular

MAX_PROGRAM_BYTES = 8_000_000_000
"""Largest network that is read (our choice)."""

_DEVICES = ("cpu", "cuda", "mps", "xpu")


def put_in_eval_mode(network: nn.Module) -> None:
    """As `network.eval()`, for networks that may hold a program of torch.export, which stays as it was exported.

    One module after the other: a program raises, wherever it stands, and the modules after it would be left.
    """
    for module in network.modules():
        with suppress(NotImplementedError):
            module.eval()


def load_program(path: str | Path, what: str, device: torch.device | str = "cpu", gradients: bool = False) -> nn.Module:
    """Loads a network without the code that defined it.

    Loading a torch.export program can run code from the file, so load only files that you trust; for third-party files
    use ONNX, which runs only its own operators. The network is in the mode in which it was exported and has neither
    `train()` nor `eval()`.

    Args:
        path: written by `torch.export.save`, usually `.pt2`; or an ONNX file, `.onnx`, which onnxruntime runs.
        what: what the file should hold, for error messages, such as "a pose estimator".
        device: the device to run on, whatever device it was exported on.
        gradients: whether gradients are needed, which an ONNX file does not provide.

    Returns:
        A module that is called with the program's input tensors.

    Raises:
        BadInput: no such file, or no program that this torch or onnxruntime can load.
    """
    path = Path(with_home(str(path)))
    if not path.is_file():
        raise BadInput(f"{path}: no such file; needed {what} saved by torch.export.save")
    open_regular(path, "network", MAX_PROGRAM_BYTES).close()
    if path.suffix.lower() == ".onnx":
        if gradients:
            raise BadInput(f"{path}: no gradient goes through an ONNX file; needed {what} saved by torch.export.save")
        return OnnxNetwork(path, what, torch.device(device))
    if not zipfile.is_zipfile(path):  # checked here, because torch.export takes seconds to import
        raise BadInput(f"{path}: no program of torch.export; needed {what} saved by torch.export.save")
    from torch import export
    from torch.export import passes

    try:
        with _silence():
            program = export.load(path)
            return passes.move_to_device_pass(program, torch.device(device)).module()
    except OSError:
        raise
    except Exception as error:  # a damaged file can raise anything
        reason = first_line(error)
        raise BadInput(f"{path}: cannot be loaded as {what} saved by torch.export.save ({reason})") from None


class OnnxNetwork(nn.Module):
    """An ONNX file with one input and one output as a module; without gradients."""

    def __init__(self, path: Path, what: str, device: torch.device) -> None:
        """Args: `path`: the file; `what`: what it should hold, for messages; `device`: the device to run on."""
        super().__init__()
        self._session = onnx_session(path, device, what)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type not in _ONNX_TYPES:
            raise BadInput(
                f"{path}: takes {len(inputs)} tensors and gives {len(outputs)}, needed {what}: one of float each"
            )
        self._input, self._type = inputs[0].name, _ONNX_TYPES[inputs[0].type]
        self.shape = tuple(n if isinstance(n, int) and n > 0 else None for n in inputs[0].shape)
        """Shape of its input; None for a dynamic dimension."""

    def forward(self, images: Tensor) -> Tensor:
        """The network's output for (B, 3, H, W), float32 on the images' device."""
        try:
            (found,) = self._session.run(None, {self._input: images.detach().cpu().numpy().astype(self._type)})
            return torch.from_numpy(np.array(found, np.float32)).to(images.device)
        except Exception as error:  # onnxruntime's errors have no other common class
            raise RuntimeError(first_line(error)) from None


_ONNX_TYPES: dict[str, type[np.floating]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def onnx_session(path: Path, device: torch.device, what: str) -> Any:
    """An ONNX file, ready to run with onnxruntime.

    Args:
        path: the file.
        device: cpu or cuda.
        what: what the file should hold, for messages.

    Raises:
        BadInput: onnxruntime is missing, lacks the requested CUDA, or cannot load the file.
    """
    try:
        import onnxruntime
    except ImportError:
        raise BadInput(f"{what}: onnxruntime is not installed; pip install 'xingaug[pose]'") from None
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type != "cpu":
        _require_cuda(what, device, onnxruntime.get_available_providers())
        providers = [("CUDAExecutionProvider", {"device_id": device.index or 0}), *providers]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only, which include what the warnings before them say
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no other common class
        raise BadInput(f"{path}: not a network that onnxruntime can load ({first_line(error)})") from None
    if device.type != "cpu":  # onnxruntime falls back to the CPU if CUDA's libraries do not load
        _require_cuda(what, device, session.get_providers())
    return session


def _require_cuda(what: str, device: torch.device, providers: list[str]) -> None:
    if device.type != "cuda" or "CUDAExecutionProvider" not in providers:
        has = ", ".join(p.removesuffix("ExecutionProvider") for p in providers)
        hint = "install onnxruntime-gpu in its place, or use cpu"
        raise BadInput(f"{what}: device '{device}' needs onnxruntime with CUDA, this one has {has}; {hint}")


def input_shape(program: nn.Module) -> tuple[int | None, ...]:
    """The input shape of a network from `load_program`, None for dynamic dimensions; () if the file has none."""
    if isinstance(program, OnnxNetwork):
        return program.shape
    graph = getattr(program, "graph", None)
    for node in graph.nodes if graph is not None else ():
        value = node.meta.get("val") if node.op == "placeholder" else None
        if isinstance(value, Tensor):
            return tuple(n if type(n) is int else None for n in value.shape)
    return ()


def device_problem(name: str) -> str | None:
    """Why torch cannot compute on a device, in half a sentence; None if it can."""
    try:
        device = torch.device(name)
        if device.type not in _DEVICES:
            return f"'{name}' is not known here"
        torch.ones(1, device=device).add(1).item()
    except Exception as error:  # a missing device or driver can raise anything
        return f"'{name}' cannot be used ({first_line(error)})"
    return None


def run_program(program: nn.Module, path: str | Path, images: Tensor) -> Tensor:
    """Applies a program to images.

    Args:
        program: the result of `load_program`.
        path: its file, for error messages.
        images: (B, 3, H, W); passed to the program in float32, regardless of autocast.

    Returns:
        The program's output.

    Raises:
        BadInput: the program does not accept these images, or does not return one tensor.
    """
    shape = tuple(images.shape)
    try:
        with torch.autocast(images.device.type, enabled=False):  # an exported graph requires its dtypes
            result = program(images.float())
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        hint = "export it for this size and any batch"
        raise BadInput(f"{path}: does not take images {shape} ({first_line(error)}); {hint}") from None
    if not isinstance(result, Tensor):
        raise BadInput(f"{path}: returns a {type(result).__name__} for images {shape}, needed one tensor")
    return result


@contextmanager
def _silence() -> Iterator[None]:
    """Silences torch's logs and warnings before an error, which says the same."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
