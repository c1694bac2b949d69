"""One point clicked into a view, by Slicer's own way of placing markups."""

from __future__ import annotations

import numpy as np
import slicer

from LesionDiffusionLib.extension.mrml.placement import last_point_world, start_placing


class PointPicker:
    """Lets the user click one point. `take` is called from a timer: a markup must not vanish while it is placed."""

    def __init__(self) -> None:
        self._node: slicer.vtkMRMLMarkupsFiducialNode | None = None

    @property
    def active(self) -> bool:
        """Whether a click is waited for."""
        return self._node is not None

    def start(self) -> None:
        """Wait for the next click into a view."""
        self.cancel()
        self._node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Lesion here")
        self._node.SetSaveWithScene(False)
        self._node.CreateDefaultDisplayNodes()
        start_placing(self._node)

    def take(self) -> np.ndarray | None:
        """World mm of the point that was clicked; None as long as there is none."""
        if self._node is None:
            return None
        point = last_point_world(self._node)
        if point is not None or not self._placing():
            self.cancel()
        return point

    def cancel(self) -> None:
        """Wait no longer."""
        node, self._node = self._node, None
        if node is not None:
            if self._placing():
                slicer.modules.markups.logic().SetActiveList(None)
            slicer.mrmlScene.RemoveNode(node)

    def _placing(self) -> bool:
        interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
        return interaction is not None and interaction.GetCurrentInteractionMode() == interaction.Place
