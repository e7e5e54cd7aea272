"""The rate-distortion plot of a comparison. Needs the `plot` extra."""

from __future__ import annotations

from pathlib import Path

from memstore.codec.comparison.table import Comparison, Row
from memstore.errors import ConfigError, MissingDependencyError, StorageError

FORMATS = ("svg", "png", "pdf")
_MARKERS = "osD^vP*Xph<>"


def check_plot(path: Path) -> None:
    """Refuse, before any work, a plot that cannot be drawn.

    Raises:
        ConfigError: if the suffix is not that of a format.
        MissingDependencyError: if matplotlib is not installed.
    """
    if path.suffix[1:] not in FORMATS:
        raise ConfigError(f"{path}: wanted a plot named .{', .'.join(FORMATS)}")
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as err:
        raise MissingDependencyError(
            f"a plot needs {err.name!r}; install it with: pip install 'memstore[plot]'",
            extra="plot",
        ) from err


def plot(comparison: Comparison, path: Path) -> None:
    """Draw relative MSE over bytes per token, a line a family; the suffix names the format.

    Raises:
        ConfigError, MissingDependencyError: as `check_plot`.
        StorageError: if the file cannot be written.
    """
    check_plot(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    families: dict[str, list[Row]] = {}
    for row in sorted(comparison.rows, key=lambda row: row.bytes_per_token):
        families.setdefault(row.family, []).append(row)
    # Text stays text, and equal figures give equal files.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "memstore"}):
        figure = Figure(figsize=(8, 5.5), layout="constrained")
        axes = figure.subplots()
        for i, (name, rows) in enumerate(sorted(families.items())):
            axes.errorbar(
                [row.bytes_per_token for row in rows],
                [row.relative_mse for row in rows],
                yerr=[row.spread for row in rows],
                marker=_MARKERS[i % len(_MARKERS)],
                color=f"C{i % 10}",
                linestyle="-" if i < 10 else "--",
                label=name,
                capsize=2,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("bytes per token, everything counted")
        axes.set_ylabel("relative MSE, held out")
        axes.set_title(f"{comparison.num_vectors:,} vectors of {comparison.dim} dimensions")
        axes.grid(visible=True, which="both", alpha=0.25)
        axes.legend()
        _save(figure, path)


def _save(figure: object, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)  # type: ignore[attr-defined]
    except OSError as err:
        raise StorageError(f"{path}: the plot cannot be written: {err}", object=path) from err
