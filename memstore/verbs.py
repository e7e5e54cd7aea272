"""Verbs that an installed application adds to `memstore`, found by entry point so that the library
imports none.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from memstore.errors import MissingDependencyError


def encode(corpus: str, *, store: Any, **options: Any) -> Any:
    """Encode a corpus into a store, in this process: the job that `memstore encode --ray none`
    runs.

    Args:
        corpus: a file or folder; see `memstore encode --help` for the layouts.
        store: a `Store` or the path of one.
        options: the fields of `encoder_jobs.EncodeOptions` (`collection`, `mode`, `live_fraction`,
            …).

    Returns:
        `encoder_jobs.EncodeReport`: what was encoded and the version that holds it.

    Raises:
        MissingDependencyError: if the `jobs` extra is not installed.
    """
    for point in entry_points(group="memstore.verbs", name="encode"):
        try:
            run = point.load()
        except ModuleNotFoundError as err:
            raise MissingDependencyError(
                f"memstore.encode needs {err.name!r}; install it with: pip install 'memstore[jobs]'"
            ) from err
        return run(corpus, store=store, **options)
    raise MissingDependencyError("memstore.encode is not registered; reinstall memstore")
