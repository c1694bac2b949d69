"""What the views show: before and after as two layers, slices through the lesion, and the histogram plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import slicer

PLOT_NAME = "LesionDiffusion histogram"
SERIES = {  # column of the table -> color
    "organ around": (0.55, 0.6, 0.68),
    "lesion before": (0.3, 0.55, 0.9),
    "lesion after": (0.95, 0.55, 0.15),
}


def show_before_after(
    before: slicer.vtkMRMLVolumeNode | None, after: slicer.vtkMRMLVolumeNode, share: float = 1.0
) -> None:
    """The result over its CT in all slice views; the user's 3-D views, layout, and window and level stay."""
    slicer.util.setSliceViewerLayers(background=before or after, foreground=after, foregroundOpacity=share)


def jump_to(point_world: Sequence[float]) -> None:
    """All slice views through a point in world mm, with the point in the middle."""
    mode = slicer.vtkMRMLSliceNode.CenteredJumpSlice
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *map(float, point_world), mode)


def fill_histogram(histogram: Mapping[str, Any]) -> slicer.vtkMRMLPlotChartNode:
    """The plot of a lesion's histogram; its nodes are made once and reused."""
    edges_hu = np.array(histogram["edges_hu"])
    columns = [(edges_hu[:-1] + edges_hu[1:]) / 2, *(100 * np.array(histogram[name]) for name in SERIES)]
    table = _node("vtkMRMLTableNode", f"{PLOT_NAME} table")
    table.RemoveAllColumns()
    slicer.util.updateTableFromArray(table, columns, ["HU", *SERIES])
    chart = _node("vtkMRMLPlotChartNode", PLOT_NAME)
    chart.SetTitle("HU of the lesion")
    chart.SetXAxisTitle("HU")
    chart.SetYAxisTitle("voxels in %")
    chart.SetLegendVisibility(True)
    for name, color in SERIES.items():
        series = _node("vtkMRMLPlotSeriesNode", f"{PLOT_NAME} {name}")
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetXColumnName("HU")
        series.SetYColumnName(name)
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone)
        series.SetColor(*color)
        if not chart.HasPlotSeriesNodeID(series.GetID()):
            chart.AddAndObservePlotSeriesNodeID(series.GetID())
    return chart


def show_histogram(chart: slicer.vtkMRMLPlotChartNode) -> int | None:
    """Show the plot beside the views; returns the layout to go back to, None when there is no layout."""
    layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    before = None if layout is None else layout.GetViewArrangement()
    slicer.modules.plots.logic().ShowChartInLayout(chart)
    return before


def restore_layout(arrangement: int) -> None:
    """Give the user's layout back."""
    layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    if layout is not None:
        layout.SetViewArrangement(arrangement)


def _node(class_name: str, name: str) -> slicer.vtkMRMLNode:
    return slicer.mrmlScene.GetFirstNode(name, class_name) or slicer.mrmlScene.AddNewNodeByClass(class_name, name)
