"""Which queries can be matched: those whose person is in the gallery from another camera."""

import numpy as np


def matchable_queries(q_pids: np.ndarray, q_camids: np.ndarray, g_pids: np.ndarray, g_camids: np.ndarray) -> np.ndarray:
    """Queries with a true match by the Market-1501 protocol: an image of the same person from another camera.

    Args:
        q_pids: (Q,) identities of the queries.
        q_camids: (Q,) their cameras.
        g_pids: (G,) identities of the gallery.
        g_camids: (G,) its cameras.

    Returns:
        (Q,) bool.
    """
    views: dict[int, set[int]] = {}
    for pid, camid in zip(g_pids.tolist(), g_camids.tolist(), strict=True):
        views.setdefault(pid, set()).add(camid)
    pairs = zip(q_pids.tolist(), q_camids.tolist(), strict=True)
    return np.array([bool(views.get(pid, set()) - {camid}) for pid, camid in pairs], bool)


def explain_no_match(q_pids: np.ndarray, g_pids: np.ndarray) -> str:
    """One line on why none of the queries can be matched, and what is needed."""
    shared = len(np.intersect1d(q_pids, g_pids))
    known = len(np.unique(q_pids))
    if not shared:
        return f"no query can be matched: none of the {known} people in query is in the gallery; needed the same people"
    return (
        f"no query can be matched: {shared} of the {known} people in query are in the gallery, but none of them from "
        "another camera; needed images of two cameras at least"
    )
