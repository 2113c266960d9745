"""FAISS over the kernel features of a bank: finds the candidates that are then ranked by OKS."""

import math
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xingaug.errors import BadInput
from xingaug.poses.kernel import LENGTH
from xingaug.poses.spacing import evenly_spaced

FLAT_LIMIT = 200_000
"""Most poses that are searched by an exhaustive scan (our choice: 230 MB of features)."""

# Bytes per pose in a large bank: 12 coordinates each. "np" skips the training of polysemous codes, which takes minutes
# and only speeds up a kind of search that is not used here.
_CODE_BYTES = 24
_TRAINING_ROWS = 65_536
_MOST_ON_GPU = 2048  # most candidates that FAISS can return on a GPU
_MOST_CANDIDATES = 65_536
_QUERIES_AT_ONCE = 32  # constant, because rounding must not depend on the number of queries
_NUMBER = r"([1-9]\d{0,8})"
_FACTORY = re.compile(
    rf"(?:(?:OPQ|PCA){_NUMBER}(?:_{_NUMBER})?,)?(?:IVF{_NUMBER},)?"
    rf"(?:Flat|HNSW{_NUMBER}(?:,Flat)?|PQ{_NUMBER}(?:x{_NUMBER})?(?:np)?|SQ(?:4|6|8|fp16))"
)
"""The indexes that are accepted: with some others FAISS ends the process or fills the memory without an error."""


@dataclass(frozen=True)
class IndexSettings:
    """How candidates are found.

    Attributes:
        factory: a string for FAISS's `index_factory`, such as "Flat" or "IVF4096,PQ24np"; "auto" is "Flat" up to
            200,000 poses, and beyond that IVF with product quantisation and four times the square root of the number
            of poses as lists. Accepted are Flat, HNSW, PQ and SQ, optionally after IVF, and after OPQ or PCA.
        candidates: poses ranked by OKS for each query; 0 is max(256, 8 k) with a scan and twice as many with lists.
        probes: inverted lists that are searched; 0 is an eighth of them, at most 256.

    Raises:
        ValueError: a number below 0, or more candidates than 65,536.
    """

    factory: str = "auto"
    candidates: int = 0
    probes: int = 0

    def __post_init__(self) -> None:
        """Checks the numbers."""
        for name in ("candidates", "probes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)}, needed 0 (automatic) or more")
        if self.candidates > _MOST_CANDIDATES:
            raise ValueError(f"candidates: {self.candidates}, needed at most {_MOST_CANDIDATES}")

    def factory_for(self, poses: int) -> str:
        """The factory string for a bank of `poses` poses."""
        if self.factory != "auto":
            return self.factory
        return "Flat" if poses <= FLAT_LIMIT else f"IVF{round(4 * math.sqrt(poses))},PQ{_CODE_BYTES}np"


class CandidateIndex:
    """A FAISS inner-product index; an exhaustive scan runs on the GPU if FAISS sees one."""

    def __init__(self, index: Any, settings: IndexSettings) -> None:
        """Wraps a filled index.

        Args:
            index: the FAISS index.
            settings: its probes and candidates.
        """
        faiss = _faiss()
        self.settings = settings
        self.on_cpu = index
        lists = faiss.try_extract_index_ivf(index)
        if lists is not None:
            lists.nprobe = min(settings.probes or max(1, min(lists.nlist // 8, 256)), lists.nlist)
        self.scans = isinstance(faiss.downcast_index(index), faiss.IndexFlat)
        # FAISS on a GPU does not support codes without residual, which the large indexes use.
        self.searched = _on_gpu(faiss, index) if self.scans and faiss.get_num_gpus() else index

    @classmethod
    def build(
        cls, chunks: Iterable[np.ndarray], sample: np.ndarray, poses: int, settings: IndexSettings
    ) -> "CandidateIndex":
        """Trains and fills an index.

        Args:
            chunks: (n, LENGTH) float32 features at a time, in the order of positions.
            sample: (m, LENGTH) features to train with.
            poses: total number of poses.
            settings: the kind of index.

        Raises:
            BadInput: a factory string that FAISS does not know, or that cannot be trained with so few poses.
        """
        factory = settings.factory_for(poses)
        require_factory(factory, poses)
        faiss = _faiss()
        try:
            index = faiss.index_factory(LENGTH, factory, faiss.METRIC_INNER_PRODUCT)
            lists = faiss.try_extract_index_ivf(index)
            if lists is not None:
                # Encode the features themselves: a list's centre says little about a pose's 288 coordinates.
                if hasattr(lists, "by_residual"):
                    lists.by_residual = False
                lists.cp.min_points_per_centroid = 1  # else FAISS prints a warning that it wants 39
            index.train(np.ascontiguousarray(sample))
            for chunk in chunks:
                index.add(np.ascontiguousarray(chunk))
        except RuntimeError as error:
            raise BadInput(f"index: {factory!r} does not fit {poses} poses: {_reason(error)}") from None
        return cls(index, settings)

    @classmethod
    def read(cls, path: Path, poses: int, settings: IndexSettings) -> "CandidateIndex":
        """Opens an index written by `write`.

        Raises:
            BadInput: not readable by this FAISS, or not over `poses` poses.
        """
        faiss = _faiss()
        try:
            index = faiss.read_index(str(path))
        except (RuntimeError, MemoryError) as error:
            raise BadInput(f"{path}: FAISS cannot read it ({_reason(error)}); build the bank again") from None
        if (index.d, index.ntotal, index.metric_type) != (LENGTH, poses, faiss.METRIC_INNER_PRODUCT):
            raise BadInput(f"{path}: of {index.ntotal} vectors of {index.d}, not of this bank; build the bank again")
        return cls(index, settings)

    def write(self, path: Path) -> None:
        """Writes the index in FAISS's format."""
        _faiss().write_index(self.on_cpu, str(path))

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Positions of candidates for the k best.

        Args:
            queries: (B, LENGTH) float32.
            k: at most the number of poses.

        Returns:
            (B, C) int64, C at least k; padded with -1 if fewer than C were found.
        """
        count = max(self.settings.candidates or (256 if self.scans else 512), (8 if self.scans else 16) * k)
        count = min(count, self.on_cpu.ntotal)
        searched = self.searched if count <= _MOST_ON_GPU else self.on_cpu
        found = np.empty((len(queries), count), np.int64)
        padded = np.zeros((_QUERIES_AT_ONCE, LENGTH), np.float32)
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            chunk = queries[start : start + _QUERIES_AT_ONCE]
            padded[: len(chunk)] = chunk
            found[start : start + len(chunk)] = searched.search(padded, count)[1][: len(chunk)]
        return found


def require_factory(factory: str, poses: int) -> None:
    """Raises `BadInput` unless FAISS can build this index, of a size that suits the number of poses."""
    found = _FACTORY.fullmatch(factory) if len(factory) < 100 else None
    if found is None:
        known = "needed such as Flat, HNSW32, PQ24np or IVF256,PQ24np"
        raise BadInput(f"index: {factory!r:.100} does not fit {poses} poses: not known; {known}")
    before, kept, lists, links, parts, bits = (int(number) if number else None for number in found.groups())
    for name, value, least, most in (
        ("OPQ or PCA", before, 1, LENGTH), ("OPQ or PCA", kept, 1, LENGTH),
        ("IVF", lists, 1, min(poses, _TRAINING_ROWS)), ("HNSW", links, 4, 64),
        ("PQ", parts, 1, LENGTH), ("bits of PQ", bits, 4, 8),
    ):  # fmt: skip
        if value is not None and not least <= value <= most:
            raise BadInput(
                f"index: {factory!r} does not fit {poses} poses: {value} after {name}, needed {least} to {most}"
            )


def training_rows(poses: int) -> np.ndarray:
    """Evenly spaced positions of the poses that an index over `poses` poses is trained with."""
    return evenly_spaced(poses, min(poses, _TRAINING_ROWS))


def _faiss() -> Any:
    with warnings.catch_warnings():  # its SWIG types lack __module__, which Python 3.12 warns about
        warnings.simplefilter("ignore", DeprecationWarning)
        import faiss
    return faiss


def _on_gpu(faiss: Any, index: Any) -> Any:
    options = faiss.GpuClonerOptions()
    options.useFloat16 = True
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index, options)


def _reason(error: Exception) -> str:
    """FAISS's error message, without its source location."""
    return (str(error).strip().rsplit(": ", 1)[-1].splitlines() or [type(error).__name__])[0]
