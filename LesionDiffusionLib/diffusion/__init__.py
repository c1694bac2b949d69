"""Diffusion in three words: a noise schedule, a denoiser, a sampler. What the tensors depict is unknown here.

x_t = alpha(t) x_0 + sigma(t) eps, with alpha squared plus sigma squared = 1 and t a 0-based index of the chain.
"""
