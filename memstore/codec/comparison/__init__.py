"""What every family of quantizers loses on given memories, at what size and speed.

Does not: choose a codec; it shows the figures to choose by.
"""

from memstore.codec.comparison.families import FAMILIES, Family
from memstore.codec.comparison.plot import check_plot, plot
from memstore.codec.comparison.table import Comparison, Row, Step, compare

__all__ = ["FAMILIES", "Comparison", "Family", "Row", "Step", "check_plot", "compare", "plot"]
