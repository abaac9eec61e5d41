"""Everything people look at: tables, figures and pages, made from finished runs alone."""

from thinet.report.figures import draw_figures
from thinet.report.many.page import compare_report
from thinet.report.many.sweep import write_sweep
from thinet.report.page import write_report
from thinet.report.sections import write_files
from thinet.report.sections.pruning.plan import PlanRow, print_plan
from thinet.report.terminal import print_costs, print_result

__all__ = [
    "PlanRow",
    "compare_report",
    "draw_figures",
    "print_costs",
    "print_plan",
    "print_result",
    "write_files",
    "write_report",
    "write_sweep",
]
