"""Networks: tensors in, tensors out. They know nothing of Hounsfield units, organs, spacing or files.

Legend of tensor names: B batch, C channels, D H W = z y x voxels, N tokens or context entries, T timesteps.
"""
