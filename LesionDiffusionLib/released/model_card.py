"""The card of an imported bundle, written from its manifest."""

from __future__ import annotations

from collections.abc import Iterable

from LesionDiffusionLib.bundles import Manifest

TITLE = "LesionDiffusion as published by its authors (LMNet, LINet, VQ-GAN)"
LICENSE = "weights by the paper's authors, for research only; the code they were published with: MIT"
PAPER = (
    "Lei W., Tian H., Dai L., Chen H., Zhang X.: LesionDiffusion: Towards Text-controlled General Lesion Synthesis. "
    "MICCAI 2025"
)


def model_card(manifest: Manifest) -> str:
    """Markdown: what the bundle is, where it comes from, what the import found out, how it is used."""
    made_by, text = manifest.made_by, manifest.text
    encoder = f"{text.file} and {text.vocabulary_file}" if text.file else "not in this bundle; BiomedCLIP is needed"
    limits = {
        name: " x ".join(f"{v:.0f}" for v in spec.window.largest_lesion_mm)
        for name, spec in (("LMNet", manifest.lmnet), ("LINet", manifest.linet))
    }
    paragraphs = [
        f"# {manifest.name}",
        f"{manifest.title}, converted by LesionDiffusion {made_by['software']['LesionDiffusion']}. "
        "Research use only, not for diagnosis. Every lesion it makes is synthetic.",
        "## Source",
        _listed(f"{name}: SHA-256 {sha256}" for name, sha256 in made_by["sources"].items()),
        "## What the import found",
        _listed((*made_by["evidence"], *(f"Warning: {warning}" for warning in made_by["warnings"]))),
        "## Use",
        _listed(
            (
                *(f"{name}: lesions up to {limit} mm (X x Y x Z), 1 mm voxels" for name, limit in limits.items()),
                f"LINet {'ignores' if manifest.linet.unet.skip_context else 'uses'} the report's text",
                f"sampler {manifest.lmnet.sampling.sampler}, {manifest.lmnet.sampling.steps} steps, no guidance",
                f"text encoder: {encoder}",
            )
        ),
        "## License",
        f"{manifest.license[0].upper()}{manifest.license[1:]}. Cite the paper when you publish results: {PAPER}.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
