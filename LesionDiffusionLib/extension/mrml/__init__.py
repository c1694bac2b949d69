"""The only room that touches MRML. Slicer's arrays are (K, J, I): `voxels` gives (I, J, K) views, never copies.

Places are in world RAS mm: the parent transforms of volumes and boxes are applied here, and nobody else knows of them.
"""
