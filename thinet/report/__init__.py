"""Everything people look at: tables, figures and pages, made from finished runs alone."""

from thinet.report.figures import draw_figures
from thinet.report.html import compare_report, write_report
from thinet.report.layers import write_layers
from thinet.report.sweep import collect, write_sweep
from thinet.report.terminal import print_plan, print_result

__all__ = [
    "collect",
    "compare_report",
    "draw_figures",
    "print_plan",
    "print_result",
    "write_layers",
    "write_report",
    "write_sweep",
]
