"""FAISS over the kernel features of a bank: which poses are worth being judged by OKS."""

import math
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
"""Most poses that are scanned one by one (our choice: 230 MB of features)."""

# Bytes of a pose in a large bank: 12 coordinates each; a count that FAISS's GPU index takes. "np" leaves out the
# training of polysemous codes, which takes minutes and would speed up a kind of search that is not used here.
_CODE_BYTES = 24
_TRAINING_ROWS = 65_536
_QUERIES_AT_ONCE = 32  # always so many, for rounding must not depend on how many are asked together


@dataclass(frozen=True)
class IndexSettings:
    """How candidates are found.

    Attributes:
        factory: what FAISS's `index_factory` makes, such as "Flat" or "IVF4096,PQ24np"; "auto" is "Flat" up to
            200,000 poses, and beyond them inverted lists of product-quantised features, as many as four times the root
            of the number of poses.
        candidates: poses that OKS judges for each query; 0 takes max(256, 8 k) of a scan and twice as many of lists.
        probes: inverted lists that are searched; 0 takes an eighth of them, at most 256.

    Raises:
        ValueError: a number below 0.
    """

    factory: str = "auto"
    candidates: int = 0
    probes: int = 0

    def __post_init__(self) -> None:
        """Checks the numbers."""
        for name in ("candidates", "probes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)}, needed 0 (automatic) or more")

    def factory_for(self, poses: int) -> str:
        """The factory string for a bank of so many poses."""
        if self.factory != "auto":
            return self.factory
        return "Flat" if poses <= FLAT_LIMIT else f"IVF{round(4 * math.sqrt(poses))},PQ{_CODE_BYTES}np"


class CandidateIndex:
    """A FAISS index by inner product; on the GPU where FAISS sees one and has such an index there."""

    def __init__(self, index: Any, settings: IndexSettings) -> None:
        """Takes over an index that is filled.

        Args:
            index: of `faiss`.
            settings: its probes and candidates.
        """
        faiss = _faiss()
        self.settings = settings
        self.on_cpu = index
        if hasattr(_plain(index), "nprobe"):
            lists = _plain(index).nlist
            _plain(index).nprobe = min(settings.probes or max(1, min(lists // 8, 256)), lists)
        self.searched = _on_gpu(faiss, index) if faiss.get_num_gpus() else index

    @classmethod
    def build(
        cls, chunks: Iterable[np.ndarray], sample: np.ndarray, poses: int, settings: IndexSettings
    ) -> "CandidateIndex":
        """Trains and fills an index.

        Args:
            chunks: (n, LENGTH) float32 features at a time, in the order of positions.
            sample: (m, LENGTH) of them to train with.
            poses: how many there are in all.
            settings: which index.

        Raises:
            BadInput: a factory string that FAISS does not know, or that cannot be trained with so few poses.
        """
        faiss = _faiss()
        factory = settings.factory_for(poses)
        try:
            index = faiss.index_factory(LENGTH, factory, faiss.METRIC_INNER_PRODUCT)
            if hasattr(_plain(index), "by_residual"):
                # Codes of the features themselves: a list's centre says little about a pose's 288 coordinates.
                _plain(index).by_residual = False
                _plain(index).cp.min_points_per_centroid = 1  # else FAISS writes to the terminal that it wants 39
            index.train(np.ascontiguousarray(sample))
        except RuntimeError as error:
            raise BadInput(f"index: {factory!r} does not fit {poses} poses: {_reason(error)}") from None
        for chunk in chunks:
            index.add(np.ascontiguousarray(chunk))
        return cls(index, settings)

    @classmethod
    def read(cls, path: Path, settings: IndexSettings) -> "CandidateIndex":
        """Opens an index that `write` wrote.

        Raises:
            BadInput: not readable by this FAISS.
        """
        try:
            return cls(_faiss().read_index(str(path)), settings)
        except RuntimeError as error:
            raise BadInput(f"{path}: FAISS cannot read it ({_reason(error)}); build the bank again") from None

    def write(self, path: Path) -> None:
        """Writes the index as FAISS does."""
        _faiss().write_index(self.on_cpu, str(path))

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Positions of candidates for the k best.

        Args:
            queries: (B, LENGTH) float32.
            k: at most the number of poses; so many are always found.

        Returns:
            (B, C) int64, C at least k; -1 where fewer than C were found.
        """
        scanned = isinstance(self.on_cpu, _faiss().IndexFlat)
        count = max(self.settings.candidates or (256 if scanned else 512), (8 if scanned else 16) * k)
        found = self._search(queries, min(count, self.on_cpu.ntotal))
        lacking = np.flatnonzero(found[:, k - 1] < 0)  # where the probed lists held fewer than k
        if len(lacking):
            searched = _faiss().downcast_index(self.searched)
            probes, searched.nprobe = searched.nprobe, searched.nlist
            found[lacking] = self._search(queries[lacking], found.shape[1])
            searched.nprobe = probes
        return found

    def _search(self, queries: np.ndarray, count: int) -> np.ndarray:
        found = np.empty((len(queries), count), np.int64)
        padded = np.zeros((_QUERIES_AT_ONCE, LENGTH), np.float32)
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            chunk = queries[start : start + _QUERIES_AT_ONCE]
            padded[: len(chunk)] = chunk
            found[start : start + len(chunk)] = self.searched.search(padded, count)[1][: len(chunk)]
        return found


def training_rows(poses: int) -> np.ndarray:
    """Positions, evenly spaced, that an index over so many poses is trained with."""
    return evenly_spaced(poses, min(poses, _TRAINING_ROWS))


def _faiss() -> Any:
    with warnings.catch_warnings():  # its SWIG types lack __module__, of which Python 3.12 warns
        warnings.simplefilter("ignore", DeprecationWarning)
        import faiss
    return faiss


def _plain(index: Any) -> Any:
    """The index behind wrappers, with the attributes of its own class."""
    return _faiss().downcast_index(index)


def _on_gpu(faiss: Any, index: Any) -> Any:
    options = faiss.GpuClonerOptions()
    options.useFloat16 = True
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index, options)
    except RuntimeError as error:
        warnings.warn(
            f"pose bank: searched on the CPU, FAISS has no such index on the GPU ({_reason(error)})", stacklevel=2
        )
        return index


def _reason(error: RuntimeError) -> str:
    """What FAISS says, without the place in its source."""
    return str(error).strip().rsplit(": ", 1)[-1].splitlines()[0]
